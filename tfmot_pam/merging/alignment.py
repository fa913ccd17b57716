"""Alignment: the longest trunk that several networks have in common, by structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from tfmot_pam.graph.channels import ChannelGraph, build_channel_graph, rule_of
from tfmot_pam.graph.heads import common_inputs
from tfmot_pam.graph.likeness import are_alike, arguments_of, digest, freeze, structure
from tfmot_pam.graph.network import Network, Tensor, iterate_tensors
from tfmot_pam.graph.registry import find_rule
from tfmot_pam.graph.rule_table import JOIN, RESCALING, activation_reason, grouped_sizes
from tfmot_pam.graph.rules import Call, call_of, grouped_convolution
from tfmot_pam.merging.identical import identical_channels

_Graphs = Sequence[ChannelGraph]
_Trunk = Sequence[tuple[str, ...]]


class NoCommonTrunk(ValueError):
    """Networks that have no layer with channels in common."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrunkSpace:
    """One channel space of the common trunk, over all networks.

    Args:
        name: The first network's name for it.
        channels: For each network, the numbers of its channels in that network's channel graph.
        writers: The first network's nodes that write it.
        frozen: Why its channels cannot be regrouped, or None.
        given: Whether it holds the network's input.
    """

    name: str
    channels: tuple[np.ndarray, ...]
    writers: tuple[str, ...]
    frozen: str | None
    given: bool

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(len(channels) for channels in self.channels)


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """Networks whose first layers correspond, and the channel spaces of that trunk.

    Args:
        tasks: Task names.
        networks: One a task; the nodes of the trunk come first, in the same order everywhere. Or
            one of all tasks.
        graphs: Their channel graphs.
        trunk: For each trunk position, the name of the node in each network.
        spaces: The trunk's channel spaces in topological order.
        once: The first network's nodes that are the same in all networks and computed once.
        identical: For each network a number for each of its channels, the same where channels of
            several networks are the same; None where none are.
    """

    tasks: tuple[str, ...]
    networks: tuple[Network, ...]
    graphs: tuple[ChannelGraph, ...]
    trunk: tuple[tuple[str, ...], ...]
    spaces: tuple[TrunkSpace, ...]
    once: frozenset[str] = frozenset()
    identical: tuple[np.ndarray, ...] | None = None

    def call(self, index: int, name: str) -> Call:
        """A node of one network as its rule sees it."""
        graph = self.graphs[index]
        return graph.call(graph.network.node(name))

    def head(self, index: int) -> tuple[str, ...]:
        """The nodes of one network that follow the trunk."""
        return tuple(node.name for node in self.networks[index].nodes[len(self.trunk) :])


def align(
    tasks: Sequence[str],
    networks: Sequence[Network],
    *,
    once: bool = True,
    trunk_needed: bool = True,
) -> Alignment:
    """Finds the longest common trunk of two or more networks.

    Nodes correspond if they are alike in class and configuration (widths may differ), are fed by
    corresponding nodes and yield the same spatial sizes. Nodes that write the outputs' channels,
    and all that follow them, belong to the heads. Where no layer with channels corresponds because
    of first layers whose channels stay together (embeddings, recurrent layers), the trunk begins
    after them: each network keeps its own.

    Args:
        tasks: One name a network.
        networks: Networks with one input of equal shape each, or with inputs by name.
        once: Whether what is the same in several networks, weights included, is computed once.
            Channels of first layers that are the same in all networks count as the input's.
        trunk_needed: Whether networks without a layer with channels in common are refused.

    Returns:
        The alignment.

    Raises:
        NoCommonTrunk: the networks have no mixing layer in common.
        ValueError: inputs of one name differ in shape.
    """
    by_name = isinstance(common_inputs(dict(zip(tasks, networks, strict=True))), Mapping)
    graphs = [build_channel_graph(network) for network in networks]
    trunk = _common_trunk(graphs, by_name)
    own = [_with_first_layers_given(graph) for graph in graphs]
    if not _has_channels(graphs[0], trunk) or _first_layers_differ(graphs, own, trunk):
        found = _common_trunk(own, by_name, own_first=True)
        if _has_channels(own[0], found):
            graphs, trunk = own, found
        elif trunk_needed and not _has_channels(graphs[0], trunk):
            raise NoCommonTrunk(_no_trunk_message(tasks, graphs, by_name))
    networks = [
        _trunk_first(network, [names[index] for names in trunk])
        for index, network in enumerate(networks)
    ]
    graphs = [
        dataclasses.replace(graph, network=network)
        for graph, network in zip(graphs, networks, strict=True)
    ]
    same = _common_layers(graphs, trunk) if once else [frozenset() for _ in graphs]
    if same[0]:
        graphs = [
            build_channel_graph(graph.network, {*found, *_given_layers(graph)})
            for graph, found in zip(graphs, same, strict=True)
        ]
    spaces = _trunk_spaces(tasks, graphs, trunk)
    identical = identical_channels(graphs, trunk) if once else None
    return Alignment(
        tuple(tasks), tuple(networks), tuple(graphs), trunk, spaces, same[0], identical
    )


def alone(tasks: Sequence[str], graph: ChannelGraph) -> Alignment:
    """One network of several tasks, all of which is trunk: what is to be written anew."""
    trunk = tuple((node.name,) for node in graph.network.nodes)
    spaces = tuple(
        TrunkSpace(space.name, (space.channels,), space.writers, space.frozen, space.given)
        for space in graph.spaces
    )
    return Alignment(tuple(tasks), (graph.network,), (graph,), trunk, spaces)


def _common_trunk(
    graphs: Sequence[ChannelGraph], by_name: bool, own_first: bool = False
) -> tuple[tuple[str, ...], ...]:
    """The nodes of each network that correspond, in the order of the first network."""
    signatures = [_signatures(graph, by_name, own_first) for graph in graphs]
    common = set.intersection(*(set(found) for found in signatures))
    for graph, found in zip(graphs, signatures, strict=True):
        head = _output_writers(graph)
        common -= {signature for signature, name in found.items() if name in head}
    order = [signature for signature in signatures[0] if signature in common]
    return tuple(tuple(found[signature] for found in signatures) for signature in order)


def _has_channels(graph: ChannelGraph, trunk: Sequence[Sequence[str]]) -> bool:
    return any(graph.roles[names[0]] == "mixing" for names in trunk)


def _with_first_layers_given(graph: ChannelGraph) -> ChannelGraph:
    """The graph in which first layers whose channels stay together are a part of the input."""
    given: set[str] = set()
    while True:
        found = {
            node.name
            for node in graph.network.nodes
            if graph.roles[node.name] == "mixing"
            and _is_given(graph, node.inputs)
            and (graph.rule(node).frozen or activation_reason(graph.call(node).config))
        }
        if not found:
            return graph
        given |= found
        graph = build_channel_graph(graph.network, given)


def _first_layers_differ(graphs: _Graphs, own: _Graphs, trunk: _Trunk) -> bool:
    """Whether first layers of the trunk whose channels stay together have other widths."""
    for names in trunk:
        first = graphs[0].roles[names[0]] == "mixing" and own[0].roles[names[0]] == "copied"
        pairs = zip(graphs, names, strict=True)
        if first and len({len(graph.labels[Tensor(name)]) for graph, name in pairs}) > 1:
            return True
    return False


def _common_layers(graphs: _Graphs, trunk: _Trunk) -> list[frozenset[str]]:
    """For each network, the nodes that are the same in all, from the input on.

    Where they hold no layer that mixes channels there are none: preprocessing is common anyway.
    """
    same: list[tuple[str, ...]] = []
    known: list[set[str]] = [set() for _ in graphs]
    counts = [graph.network.calls() for graph in graphs]
    for names in trunk:
        calls = [
            graph.call(graph.network.node(name), count)
            for graph, name, count in zip(graphs, names, counts, strict=True)
        ]
        fed = all(
            tensor.node in found
            for call, found in zip(calls, known, strict=True)
            for tensor in call.node.inputs
        )
        if fed and are_alike(calls):
            same.append(names)
            for name, found in zip(names, known, strict=True):
                found.add(name)
    if not _has_channels(graphs[0], same):
        return [frozenset() for _ in graphs]
    return [frozenset(found) for found in known]


def _given_layers(graph: ChannelGraph) -> list[str]:
    """The copied nodes whose channels are given already."""
    return [
        node.name
        for node in graph.network.nodes
        if graph.roles[node.name] == "copied" and _is_given(graph, node.outputs)
    ]


def _signatures(graph: ChannelGraph, by_name: bool, own_first: bool = False) -> dict[str, str]:
    """The nodes by signature; nodes with equal signatures are told apart by their order.

    A signature holds those of the inputs, so a common signature means a common history. Several
    inputs correspond `by_name`. With `own_first` first layers that are taken whole need not be
    alike but in their kind.
    """
    seen: dict[str, int] = {}
    by_node: dict[str, str] = {}
    result: dict[str, str] = {}
    calls = graph.network.calls()
    for node in graph.network.nodes:
        call = call_of(graph.network, node, calls)
        rule = rule_of(call)
        inputs = [(by_node[tensor.node], tensor.index) for tensor in node.inputs]
        ignored: set[str | None] = set() if rule is None else {*rule.free, rule.width}
        arguments: Any = arguments_of(node)
        if find_rule(call.layer.cls) in (RESCALING, JOIN) and _is_given(graph, node.inputs):
            # Preprocessing may differ: the merged network then holds every network's own.
            ignored |= {"scale", "offset"}
            arguments = len(node.inputs)
        shapes = [None if shape is None else shape[1:-1] for shape in node.shapes]
        blocks = grouped_sizes(call) if rule is not None and grouped_convolution(call) else ()
        config: Any = structure(call.config, ignored)
        if own_first and graph.roles[node.name] == "copied" and _is_given(graph, node.outputs):
            config = arguments = None
        if by_name and not node.inputs:
            config = node.layer
        text = freeze([call.layer.kind, config, arguments, inputs, shapes, blocks])
        seen[text] = seen.get(text, -1) + 1
        signature = f"{digest(text)}:{seen[text]}"
        by_node[node.name] = signature
        result[signature] = node.name
    return result


def _is_given(graph: ChannelGraph, tensors: Sequence[Tensor]) -> bool:
    return all(graph.spaces[s].given for tensor in tensors for s in graph.spaces_of(tensor))


def _output_writers(graph: ChannelGraph) -> set[str]:
    """The nodes that write the outputs' channel spaces, and all that follow them."""
    found: set[str] = set()
    waiting = list(iterate_tensors(graph.network.outputs))
    while waiting:
        for space in graph.spaces_of(waiting.pop()):
            for name in set(graph.spaces[space].writers) - found:
                found.add(name)
                if graph.roles[name] == "copied":
                    # A softmax after the last layer: that layer writes the outputs too.
                    waiting.extend(graph.network.node(name).inputs)
    for node in graph.network.nodes:
        if any(tensor.node in found for tensor in node.inputs):
            found.add(node.name)
    return found - {tensor.node for tensor in graph.network.inputs}


def _trunk_first(network: Network, trunk: Sequence[str]) -> Network:
    first = set(trunk)
    nodes = [network.node(name) for name in trunk]
    nodes += [node for node in network.nodes if node.name not in first]
    return network.replace(nodes=tuple(nodes))


def _trunk_spaces(tasks: Sequence[str], graphs: _Graphs, trunk: _Trunk) -> tuple[TrunkSpace, ...]:
    """Joins the networks' spaces that corresponding nodes write."""
    offsets = np.cumsum([0] + [len(graph.spaces) for graph in graphs])
    pairs = [
        [offsets[0] + graphs[0].spaces_of(Tensor(names[0], output))[0], offsets[k] + other]
        for names in trunk
        if graphs[0].roles[names[0]] in ("mixing", "copied", "input")
        for output in range(len(graphs[0].network.node(names[0]).shapes))
        for k, graph in enumerate(graphs)
        for other in graph.spaces_of(Tensor(names[k], output))
    ]
    total = int(offsets[-1])
    rows, columns = np.array(pairs).T
    matrix = scipy.sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), (total, total))
    _, joined = scipy.sparse.csgraph.connected_components(matrix, directed=False)
    result = []
    for component in dict.fromkeys(joined[rows].tolist()):
        members = np.flatnonzero(joined == component)
        result.append(_trunk_space(tasks, graphs, trunk, offsets, members))
    return tuple(result)


def _trunk_space(
    tasks: Sequence[str],
    graphs: _Graphs,
    trunk: _Trunk,
    offsets: np.ndarray,
    members: np.ndarray,
) -> TrunkSpace:
    channels, given = [], False
    reason: str | None = None
    writers: tuple[str, ...] = ()
    for k, graph in enumerate(graphs):
        own = [graph.spaces[i - offsets[k]] for i in members if offsets[k] <= i < offsets[k + 1]]
        channels.append(np.sort(np.concatenate([space.channels for space in own])))
        in_trunk = {names[k] for names in trunk}
        for space in own:
            given |= space.given
            reason = reason or (space.frozen and f"{space.frozen} (network of {tasks[k]!r})")
            outside = [name for name in space.writers if name not in in_trunk]
            if outside:
                reason = reason or f"the head of {tasks[k]!r} writes to it in '{outside[0]}'"
        if k == 0:
            writers = tuple(name for space in own for name in space.writers)
    return TrunkSpace(writers[0], tuple(channels), writers, None if given else reason, given)


def _no_trunk_message(tasks: Sequence[str], graphs: _Graphs, by_name: bool) -> str:
    signatures = [_signatures(graph, by_name) for graph in graphs]
    heads = [_output_writers(graph) for graph in graphs]
    common = set.intersection(*(set(found) for found in signatures))
    firsts = []
    for task, graph, found, head in zip(tasks, graphs, signatures, heads, strict=True):
        alike = {found[signature] for signature in common}
        # Of layers without a rule all must be alike, of those that mix channels all but widths.
        different = (
            node
            for node in graph.network.nodes
            if node.name not in alike
            and (graph.network.layer_of(node).weights or graph.roles[node.name] == "mixing")
        )
        node, what = next(different, None), "no layer with weights that is not alike"
        if node is not None:
            layer = graph.network.layer_of(node)
            what = f"{layer.kind} '{layer.name}'"
            if graph.roles[node.name] != "mixing":
                what += " (of which widths must be alike, too)"
            elif node.name in head:
                what += " (which already writes the output)"
        firsts.append(f"{task!r}: {what}")
    return (
        "The models have no common trunk: no layer with channels is alike in all of them, from "
        f"the input on. The first layers that differ are {'; '.join(firsts)}. Layers are alike if "
        "their class, kernel size, strides, padding, activation and output size are; widths may "
        "differ. Train the models with the same first layers, or keep them separate."
    )
