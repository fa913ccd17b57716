"""What combinations take in time, where the groups of a layer may be computed in one piece.

A merged network computes a layer in groups of channels, one for every set of tasks. For one
combination the groups of a layer can become one layer again, with zeros where a group does not read
a channel (`tflite_export.lowering.fuse`). That computes more and calls less, and takes less time
where groups are narrower than what a kernel computes at once.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfmot_pam.graph.channels import rule_of
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.network import Network, Node, iterate_tensors
from tfmot_pam.graph.rules import LayerRule, call_of
from tfmot_pam.graph.selection import all_combinations, task_names, tasks_of_nodes
from tfmot_pam.graph.time_model import call_time, is_known, node_times

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
        for key, value in layer.config.items()
        if key not in (*_FREE, rule.width) and not key.endswith(_FREE_ENDINGS)
    }
    places = [network.shape(tensor)[1:-1] for tensor in node.inputs]
    return layer.cls, repr(sorted(config.items())), tuple(layer.weights), repr(places)


def combination_times(network: Network) -> dict[tuple[str, ...], float]:
    """The estimated time of every combination, the faster of two ways to compute its layers.

    Args:
        network: A network whose outputs have task names. Its layers are computed as they are, or
            every one of them in one piece.
    """
    needed, apart = tasks_of_nodes(network), node_times(network)
    whole = _WholeTimes(network)
    tasks, found = task_names(network), {}
    bits = {task: 1 << place for place, task in enumerate(tasks)}
    for chosen in all_combinations(tasks):
        own = sum(bits[task] for task in chosen)
        nodes = [node for node in network.nodes if needed[node.name] & own]
        found[chosen] = min(math.fsum(apart[node.name] for node in nodes), whole.time(nodes))
    return found


class _WholeTimes:
    """The time of nodes of a network whose layers are computed in one piece each."""

    def __init__(self, network: Network):
        self._network = network
        self._macs = {layer.name: layer.macs for layer in network_cost(network).per_layer}
        calls = network.calls()
        self._rules = {node.name: usable_rule(network, node, calls) for node in network.nodes}
        self._levels, self._written = _levels(network, self._rules)

    def time(self, nodes: Sequence[Node]) -> float:
        """The time of all the nodes that a combination runs."""
        levels: dict[Any, list[Node]] = collections.defaultdict(list)
        for node in nodes:
            levels[self._levels[node.name]].append(node)
        levels.pop(None, None)
        widths = {
            key: sum(node.shapes[0][-1] or 0 for node in level) for key, level in levels.items()
        }
        return math.fsum(self._time(level, widths) for level in levels.values())

    def _time(self, level: Sequence[Node], widths: Mapping[Any, int]) -> float:
        first, shape = level[0], level[0].shapes[0]
        if not is_known(len(first.inputs), shape):
            return 0.0
        macs = sum(self._macs.get(node.name, 0) for node in level)
        rule = self._rules[first.name]
        if len(level) > 1:
            shape = (*shape[:-1], sum(node.shapes[0][-1] for node in level))
        if rule is not None and rule.role == "mixing" and macs:
            source = first.inputs[0]
            read = self._network.shape(source)[-1]
            whole = widths.get(self._written[source.node], read)
            macs = self._macs[first.name] * whole / read * shape[-1] / first.shapes[0][-1]
        return call_time(self._network.layer_of(first).kind, len(first.inputs), shape, macs)


def _levels(
    network: Network, rules: Mapping[str, LayerRule | None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of nodes: of the layer that a node is a group of, and of that which it hands on.

    The first is None where a node does nothing but join the groups of a layer.
    """
    depths, found, written = {}, {}, {}
    outputs = {tensor.node for tensor in iterate_tensors(network.outputs)}
    for node in network.nodes:
        name, sources = node.name, [tensor.node for tensor in node.inputs]
        role = None if rules[name] is None else rules[name].role
        depths[name] = max((depths[source] for source in sources), default=0)
        joined = {written[source] for source in sources}
        found[name] = written[name] = (name,)
        if role == "concatenate" and len(joined) == 1:
            found[name], written[name] = None, joined.pop()
        elif role in ("mixing", "channelwise") and len(sources) == 1 and name not in outputs:
            depths[name] += 1
            found[name] = written[name] = (depths[name], likeness(network, node, rules[name]))
    return found, written
