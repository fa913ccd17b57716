"""What a network costs at other widths, and what one channel more or less of it costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tfmot_pam.graph.channels import rule_of
from tfmot_pam.graph.cost import operations
from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.rule_table import KEEP
from tfmot_pam.graph.rules import Call, LayerRule
from tfmot_pam.graph.selection import check_tasks
from tfmot_pam.pruning.channels import PrunableChannels

Usage = Mapping[tuple[str, ...], float]


@dataclasses.dataclass(frozen=True, eq=False)
class CountedNode:
    """A node that costs something: its rule, its call, and the channels it reads and writes."""

    name: str
    rule: LayerRule
    call: Call
    rows: np.ndarray
    columns: np.ndarray
    owns_weights: bool

    def macs(self, in_width: int, out_width: int) -> int:
        if self.rule.macs is None or in_width == 0 or out_width == 0:
            return 0
        call = self.call
        config = self.rule.resized(call, in_width, out_width)
        first, *others = call.in_shapes
        resized = dataclasses.replace(
            call,
            layer=dataclasses.replace(call.layer, config=config),
            in_shapes=((*first[:-1], in_width), *others),
            out_shape=(*call.out_shape[:-1], out_width),
        )
        return self.rule.macs(resized).macs

    def parameters(self, in_width: float, out_width: float) -> float:
        if not self.owns_weights or in_width == 0 or out_width == 0:
            return 0
        total = 0.0
        for name, weight in self.call.layer.weights.items():
            size, axes = float(weight.size), self.rule.weights.get(name)
            if axes is not None and axes.inputs is not None:
                size *= in_width / len(self.rows)
            if axes is not None and axes.outputs is not None:
                size *= out_width / len(self.columns)
            total += size
        return total


class WidthCosts:
    """Costs of a network as functions of which of its prunable channels stay.

    Multiply-accumulates are counted by the rules of the channel graph, as `cost` does.

    Args:
        prunable: The network and its prunable channels.
    """

    def __init__(self, prunable: PrunableChannels):
        self._prunable = prunable
        self._nodes = _counted_nodes(prunable)

    def macs(self, keep: np.ndarray, weights: Mapping[str, float] | None = None) -> float:
        """Multiply-accumulates per sample, each node's times its weight (default: 1).

        Args:
            keep: Which prunable channels stay, bool `[channels]`.
            weights: Factors by node name.
        """
        return self._total("macs", keep, weights)

    def parameters(self, keep: np.ndarray) -> float:
        """Weights of all kinds."""
        return self._total("parameters", keep, None)

    def marginal_macs(self, keep: np.ndarray, weights: Mapping[str, float]) -> np.ndarray:
        """What removing each channel saves at the widths of `keep`, `[channels]`."""
        return self._marginal("macs", keep, weights)

    def marginal_parameters(self, keep: np.ndarray) -> np.ndarray:
        """What removing each channel saves in weights, `[channels]`."""
        return self._marginal("parameters", keep, None)

    def _total(self, kind: str, keep: np.ndarray, weights: Mapping[str, float] | None) -> float:
        inside = self._prunable.in_graph(keep)
        return math.fsum(
            getattr(node, kind)(int(inside[node.rows].sum()), int(inside[node.columns].sum()))
            * (1.0 if weights is None else weights[node.name])
            for node in self._nodes
        )

    def _marginal(
        self, kind: str, keep: np.ndarray, weights: Mapping[str, float] | None
    ) -> np.ndarray:
        inside = self._prunable.in_graph(keep)
        saved = np.zeros(len(inside))
        for node in self._nodes:
            count = getattr(node, kind)
            ins, outs = int(inside[node.rows].sum()), int(inside[node.columns].sum())
            factor = 1.0 if weights is None else weights[node.name]
            now = factor * count(ins, outs)
            if now == 0:
                continue
            if node.rule.role == "mixing":
                fewer_in, fewer_out = count(ins - 1, outs), count(ins, outs - 1)
                np.add.at(saved, node.rows, now - factor * fewer_in)
                np.add.at(saved, node.columns, now - factor * fewer_out)
            else:
                # A channelwise layer's inputs and outputs go together.
                np.add.at(saved, node.columns, now / outs)
        return saved[self._prunable.numbers]


def _counted_nodes(prunable: PrunableChannels) -> list[CountedNode]:
    graph, seen, found = prunable.graph, set(), []
    calls = graph.network.calls()
    for node in graph.network.nodes:
        if graph.roles[node.name] not in ("mixing", "channelwise", "join", "copied"):
            continue
        call = graph.call(node, calls)
        counted = operations(call)[2] is None
        if not counted and not call.layer.weights:
            continue
        rule = rule_of(call) or KEEP
        found.append(
            CountedNode(
                node.name,
                rule if counted else dataclasses.replace(rule, macs=None),
                call,
                graph.labels[node.inputs[0]],
                graph.labels[Tensor(node.name)],
                node.layer not in seen,
            )
        )
        seen.add(node.layer)
    return found


def node_weights(prunable: PrunableChannels, usage: Usage) -> dict[str, float]:
    """How often each node runs: the probability of the combinations that need it.

    With these weights the multiply-accumulates are the expected cost (PAM, He et al., KDD 2021,
    section 3: a combination runs exactly what its tasks need).
    """
    masks = {combination: combination_mask(combination, prunable.tasks) for combination in usage}
    cache: dict[int, float] = {}

    def runs(needed: int) -> float:
        if needed not in cache:
            cache[needed] = math.fsum(p for c, p in usage.items() if masks[c] & needed)
        return cache[needed]

    return {name: runs(needed) for name, needed in prunable.node_tasks.items()}


def combination_mask(combination: Sequence[str], tasks: Sequence[str]) -> int:
    """A combination as a bit mask in task order."""
    chosen = check_tasks(combination, tasks)
    return sum(1 << t for t, task in enumerate(tasks) if task in chosen)


def combination_weights(prunable: PrunableChannels, combination: Sequence[str]) -> dict[str, float]:
    """1 for the nodes that a combination runs, 0 for the others."""
    mask = combination_mask(combination, prunable.tasks)
    return {name: float(bool(found & mask)) for name, found in prunable.node_tasks.items()}
