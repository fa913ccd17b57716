"""What a network takes in time at other widths, and what one channel more or less of it takes.

Time steps with a layer's output channels, a whole tile at once, and every call takes time of its
own, so that one channel less often saves nothing. A channel's saving is therefore its share of the
next narrower width that does save time. A user's cost of calls takes the place of time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from tfmot_pam.graph.channels import rule_of
from tfmot_pam.graph.cost import operations
from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.time_model import CallCost, call_time, is_known, narrower
from tfmot_pam.pruning.channels import PrunableChannels
from tfmot_pam.pruning.costs import CountedNode

_FARTHEST = 64  # channels less, among which the width that saves most a channel is looked for


@dataclasses.dataclass(frozen=True, eq=False)
class _TimedNode:
    """A node that takes time: the channels it reads and writes, and its operations if any."""

    name: str
    kind: str
    shape: tuple[int | None, ...]
    reads: tuple[np.ndarray, ...]
    columns: np.ndarray
    counted: CountedNode | None
    cost: CallCost

    def widths(self, inside: np.ndarray) -> tuple[int, int]:
        """Channels that are left to read at the first input and to write; 0 where it is gone."""
        left = [int(inside[labels].sum()) for labels in self.reads]
        if self.kind == "Concatenate" and sum(width > 0 for width in left) < 2:
            return 0, 0
        return max(left), int(inside[self.columns].sum())

    def time(self, in_width: int, out_width: int) -> float:
        if in_width == 0 or out_width == 0:
            return 0.0
        macs = 0 if self.counted is None else self.counted.macs(in_width, out_width)
        return self.cost(self.kind, len(self.reads), (*self.shape[:-1], out_width), macs)

    def saving(self, in_width: int, out_width: int) -> float:
        """What one output channel less saves, in the mean up to a width that does save."""
        now = self.time(in_width, out_width)

        def saved(less: int) -> float:
            return (now - self.time(in_width, less)) / (out_width - less)

        if self.cost is call_time:  # Which width that is it knows in closed form.
            return saved(narrower(out_width))
        widths = range(max(1, out_width - _FARTHEST), out_width)
        best = max(map(saved, widths), default=0.0)
        return best if best > 0.0 else saved(0)


class TimeCosts:
    """The estimated time of a network as a function of which of its prunable channels stay.

    Args:
        prunable: The network and its prunable channels.
        call_cost: What one call of a layer takes.
    """

    def __init__(self, prunable: PrunableChannels, call_cost: CallCost = call_time):
        self._prunable = prunable
        self._nodes = _timed_nodes(prunable, call_cost)

    def time(self, keep: np.ndarray, weights: Mapping[str, float]) -> float:
        """Estimated time per sample, each node's times its weight.

        Args:
            keep: Which prunable channels stay, bool `[channels]`.
            weights: Factors by node name.
        """
        inside = self._prunable.in_graph(keep)
        return math.fsum(
            weights[node.name] * node.time(*node.widths(inside)) for node in self._nodes
        )

    def marginal_time(self, keep: np.ndarray, weights: Mapping[str, float]) -> np.ndarray:
        """What removing each channel saves at the widths of `keep`, in the mean, `[channels]`."""
        inside = self._prunable.in_graph(keep)
        saved = np.zeros(len(inside))
        for node in self._nodes:
            ins, outs = node.widths(inside)
            now = node.time(ins, outs)
            if now == 0.0:
                continue
            factor = weights[node.name]
            if node.counted is not None and node.counted.rule.role == "mixing":
                np.add.at(saved, node.reads[0], factor * (now - node.time(ins - 1, outs)))
                np.add.at(saved, node.columns, factor * node.saving(ins, outs))
            else:
                # What is not mixed loses inputs and outputs together.
                np.add.at(saved, node.columns, factor * now / outs)
        return saved[self._prunable.numbers]


def _timed_nodes(prunable: PrunableChannels, call_cost: CallCost) -> list[_TimedNode]:
    graph, found = prunable.graph, []
    calls = graph.network.calls()
    for node in graph.network.nodes:
        shape = node.shapes[0]
        if not is_known(len(node.inputs), shape):
            continue
        call = graph.call(node, calls)
        counted = None
        reads = tuple(graph.labels[tensor] for tensor in node.inputs)
        columns = graph.labels[Tensor(node.name)]
        rule = rule_of(call)
        if operations(call)[2] is None and rule is not None and rule.macs is not None:
            counted = CountedNode(node.name, rule, call, reads[0], columns, False)
        kind = call.layer.kind
        found.append(_TimedNode(node.name, kind, shape, reads, columns, counted, call_cost))
    return found
