"""What combinations take in time, where the groups of a layer may be computed in one piece.

A merged network computes a layer in groups of channels, one for every set of tasks. For one
combination the groups of a layer can become one layer again, with zeros where a group does not read
a channel (`tfmot_pam.lowering.fuse`). That computes more and calls less, and takes less time
where groups are narrower than what a kernel computes at once.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.graph.channels import rule_of
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.network import Network, Node, iterate_tensors, map_tensors
from tfmot_pam.graph.rules import LayerRule, call_of, seen_config
from tfmot_pam.graph.selection import combination_masks, task_names
from tfmot_pam.graph.task_sets import tasks_of_nodes
from tfmot_pam.graph.time_model import MOST_GROWTH, call_time, is_known, node_times, rating

# What two layers of one kind may differ in and still be computed as one.
_FREE = ("name", "trainable", "dtype", "seed", "build_config")
_FREE_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def usable_rule(network: Network, node: Node, calls: Mapping[str, int]) -> LayerRule | None:
    """The rule of a node that can be rewritten channel by channel, else None."""
    call = call_of(network, node, calls)
    if not call.in_shapes or len(node.shapes) != 1 or calls[node.layer] > 1:
        return None
    rule = rule_of(call)
    if rule is None or rule.check(call) is not None:
        return None
    if rule.role in ("mixing", "channelwise") and len(call.in_shapes) > 1:
        return None
    return rule


def likeness(network: Network, node: Node, rule: LayerRule) -> Any:
    """What nodes must have in common to be computed as one."""
    layer = network.layer_of(node)
    config = {
        key: value
        for key, value in seen_config(layer).items()
        if key not in (*_FREE, rule.width) and not key.endswith(_FREE_ENDINGS)
    }
    places = [network.shape(tensor)[1:-1] for tensor in node.inputs]
    # Numbers and slices that an operation is called with are as good as configuration.
    called = {key: value for key, value in node.kwargs.items() if key != "training"}
    arguments = map_tensors((node.args, called), lambda tensor: None)
    with np.printoptions(threshold=sys.maxsize):
        texts = tuple(map(repr, (sorted(config.items()), places, arguments)))
    return layer.cls, tuple(layer.weights), texts


def combination_times(network: Network) -> dict[tuple[str, ...], float]:
    """The estimated time of every combination, layers in groups or in one piece.

    Args:
        network: A network whose outputs have task names. Those of its layers are computed in one
            piece for which that is worth the parameters it adds, about as `tflite_export.export`
            chooses them.
    """
    needed, times = tasks_of_nodes(network), _Times(network)
    return {
        chosen: times.of([node for node in network.nodes if needed[node.name] & own])
        for chosen, own in combination_masks(task_names(network)).items()
    }


class _Times:
    """Estimated times of the sub-networks of a network."""

    def __init__(self, network: Network):
        calls = network.calls()
        self._network = network
        self._apart = node_times(network)
        self._costs = {layer.name: layer for layer in network_cost(network).per_layer}
        self._rules = {node.name: usable_rule(network, node, calls) for node in network.nodes}
        self._keys = _keys(network, self._rules)

    def of(self, nodes: Sequence[Node]) -> float:
        """The time of all the nodes that a combination runs."""
        levels: dict[Any, list[Node]] = collections.defaultdict(list)
        apart, whole, added = (collections.defaultdict[Any, float](float) for _ in range(3))
        for node in nodes:
            key = self._keys[node.name]
            if key.joins:
                apart[key.block] += self._apart[node.name]
            else:
                levels[key.layer].append(node)
        widths = {key: sum(map(_width, level)) for key, level in levels.items()}
        for level in levels.values():
            block = self._block(level)
            apart[block] += sum(self._apart[node.name] for node in level)
            time, more = self._in_one_piece(level, widths)
            whole[block] += time
            added[block] += more
        gains = [(added[b], apart[b] - whole[b]) for b in apart if apart[b] > whole[b]]
        time = math.fsum(apart.values())
        before = sum(self._counted(node, "parameters") for node in nodes)
        parameters: float = before
        for more, gain in sorted(gains, key=lambda pair: pair[0] / pair[1]):
            better = rating(time - gain, parameters + more) < rating(time, parameters)
            if better and parameters + more <= MOST_GROWTH * before:
                time, parameters = time - gain, parameters + more
        return time

    def _block(self, level: Sequence[Node]) -> Any:
        """What is computed in one piece together; what is no group reads the pieces of others."""
        first = level[0]
        rule = self._rules[first.name]
        if len(level) == 1 and rule is not None and rule.role == "mixing":
            return self._keys[first.inputs[0].node].block
        return self._keys[first.name].block

    def _in_one_piece(
        self, level: Sequence[Node], widths: Mapping[Any, int]
    ) -> tuple[float, float]:
        """The time of a layer in one piece, and the parameters that this adds."""
        first, shape = level[0], level[0].shapes[0]
        macs, parameters = (
            sum(self._counted(node, what) for node in level) for what in ("macs", "parameters")
        )
        if not is_known(len(first.inputs), shape):
            return 0.0, 0.0
        if len(level) > 1:
            shape = (*shape[:-1], sum(map(_width, level)))
        rule, grown = self._rules[first.name], 1.0
        if rule is not None and rule.role == "mixing" and macs:
            source = first.inputs[0]
            read = self._network.shape(source)[-1]
            pairs = widths.get(self._keys[source.node].layer, read) * shape[-1]
            grown = self._counted(first, "macs") / (read * _width(first)) * pairs / macs
        kind = self._network.layer_of(first).kind
        time = call_time(kind, len(first.inputs), shape, grown * macs)
        return time, (grown - 1.0) * parameters

    def _counted(self, node: Node, what: str) -> int:
        return getattr(self._costs[node.name], what) if node.name in self._costs else 0


def _width(node: Node) -> int:
    return (node.shapes[0] or (0,))[-1] or 0


@dataclasses.dataclass(frozen=True)
class _Key:
    """What a node belongs to.

    Args:
        layer: The layer that it is a group of, or whose groups it hands on.
        block: The layer of weights that computes what it reads or writes: groups of layers
            without weights become one where those of that layer do.
        joins: Whether it does nothing but join the groups of a layer.
    """

    layer: Any
    block: Any
    joins: bool = False


def _keys(network: Network, rules: Mapping[str, LayerRule | None]) -> dict[str, _Key]:
    depths: dict[str, int] = {}
    found: dict[str, _Key] = {}
    outputs = {tensor.node for tensor in iterate_tensors(network.outputs)}
    for node in network.nodes:
        name, sources = node.name, [tensor.node for tensor in node.inputs]
        rule = rules[name]
        role = None if rule is None else rule.role
        depths[name] = max((depths[source] for source in sources), default=0)
        read = {(found[source].layer, found[source].block) for source in sources}
        found[name] = _Key((name,), (name,))
        if role == "concatenate" and len(read) == 1:
            found[name] = _Key(*read.pop(), joins=True)
        elif (
            rule is not None
            and role in ("mixing", "channelwise")
            and len(sources) == 1
            and name not in outputs
        ):
            depths[name] += 1
            layer = (depths[name], likeness(network, node, rule))
            found[name] = _Key(layer, layer if role == "mixing" else found[sources[0]].block)
    return found
