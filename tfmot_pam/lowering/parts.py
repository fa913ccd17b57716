"""What of a network can be lowered, and how."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfmot_pam.graph.channels import build_channel_graph, known_rule
from tfmot_pam.graph.levels import likeness, usable_rule
from tfmot_pam.graph.network import Network, Node, iterate_tensors
from tfmot_pam.graph.rule_table import activation_reason
from tfmot_pam.graph.rules import TRANSPARENT, Call, LayerRule, call_of, seen_config


@dataclasses.dataclass(frozen=True)
class PaddableLayer:
    """A layer whose channels can be filled up with channels of zeros.

    Args:
        writers: The nodes that write its channels: several where their outputs are added.
        members: The nodes that pass the channels on.
        width: Number of its channels.
    """

    writers: tuple[str, ...]
    members: tuple[str, ...]
    width: int


def fusable_levels(network: Network) -> list[tuple[str, ...]]:
    """Lists the layers of a network that are computed in groups, from its input on.

    Args:
        network: The network of a combination.

    Returns:
        For each such layer the names of the nodes of its groups: at least two nodes with equal
        configurations but for their widths, the same number of layers away from the input.
    """
    calls = network.calls()
    depths: dict[str, int] = {}
    found: dict[Any, list[str]] = {}
    for node in network.nodes:
        depth = max((depths[tensor.node] for tensor in node.inputs), default=0)
        rule = usable_rule(network, node, calls)
        depths[node.name] = depth
        if rule is None or rule.role != "mixing":
            continue
        depths[node.name] += 1
        if _separable_outputs(network, node, rule):
            key = depth, likeness(network, node, rule)
            found.setdefault(key, []).append(node.name)
    return [tuple(names) for names in found.values() if len(names) > 1]


def splittable_nodes(network: Network) -> list[str]:
    """Lists the nodes that read a concatenation and can be written as sums over its parts.

    Args:
        network: Any network.
    """
    calls = network.calls()
    found = []
    for node in network.nodes:
        rule = usable_rule(network, node, calls)
        if rule is None or rule.role != "mixing" or rule.frozen is not None:
            continue
        if network.layer_of(node).kind in TRANSPARENT:
            continue
        source = network.node(node.inputs[0].node)
        before = usable_rule(network, source, calls)
        axes = {name: rule.weights.get(name) for name in network.layer_of(node).weights}
        # The bias is added once; every other weight must belong to an input channel.
        additive = all(
            name == "bias" or (of is not None and of.inputs is not None)
            for name, of in axes.items()
        )
        if additive and before is not None and before.role == "concatenate":
            found.append(node.name)
    return found


def paddable_layers(network: Network) -> list[PaddableLayer]:
    """Lists the layers whose channels can be filled up with channels of zeros.

    Args:
        network: Any network.
    """
    graph = build_channel_graph(network)
    calls = network.calls()
    outputs = {tensor.node for tensor in iterate_tensors(network.outputs)}
    found = []
    for space in graph.spaces:
        if space.frozen is not None or space.given or outputs & {*space.writers, *space.members}:
            continue
        nodes = [network.node(name) for name in space.writers]
        rules = [usable_rule(network, node, calls) for node in nodes]
        members = [call_of(network, network.node(name), calls) for name in space.members]
        if any(reads_several_channels(call, known_rule(call)) for call in members):
            continue
        if all(
            rule is not None
            and rule.role == "mixing"
            and _separable_outputs(network, node, rule)
            and node.shapes[0][-1] == space.width
            for node, rule in zip(nodes, rules, strict=True)
        ):
            found.append(PaddableLayer(space.writers, space.members, space.width))
    return found


def reads_several_channels(call: Call, rule: LayerRule) -> bool:
    """Whether a channelwise layer computes some channel from several, as grouped ones do."""
    return rule.source_positions(call, call.in_shape[-1]).shape[1] > 1


def _separable_outputs(network: Network, node: Node, rule: LayerRule) -> bool:
    """Whether a mixing node computes its output channels independently of each other.

    And whether all of them stay inside the network.
    """
    layer = network.layer_of(node)
    axes = [rule.weights.get(name) for name in layer.weights]
    inside = node.name not in {tensor.node for tensor in iterate_tensors(network.outputs)}
    return (
        inside
        and rule.frozen is None
        and rule.width is not None
        and activation_reason(seen_config(layer)) is None
        and all(one is not None and one.outputs is not None for one in axes)
    )
