"""Alignment: the longest trunk that several networks have in common, by structure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from tfmot_pam.graph.channels import ChannelGraph, build_channel_graph, rule_of
from tfmot_pam.graph.network import Network, Node, Tensor, iterate_tensors, map_tensors
from tfmot_pam.graph.registry import find_rule
from tfmot_pam.graph.rule_table import JOIN, RESCALING, grouped_sizes
from tfmot_pam.graph.rules import Call, call_of, grouped_convolution

# Configuration entries that say how a layer is trained or called, not what it computes.
_TRAINING_ONLY = frozenset({"name", "trainable", "seed", "quantization_config", "autocast"})
_TRAINING_SUFFIXES = ("_initializer", "_regularizer", "_constraint")


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
        networks: One a task; the nodes of the trunk come first, in the same order everywhere.
        graphs: Their channel graphs.
        trunk: For each trunk position, the name of the node in each network.
        spaces: The trunk's channel spaces in topological order.
    """

    tasks: tuple[str, ...]
    networks: tuple[Network, ...]
    graphs: tuple[ChannelGraph, ...]
    trunk: tuple[tuple[str, ...], ...]
    spaces: tuple[TrunkSpace, ...]

    def head(self, index: int) -> tuple[str, ...]:
        """The nodes of one network that follow the trunk."""
        return tuple(node.name for node in self.networks[index].nodes[len(self.trunk) :])


def align(tasks: Sequence[str], networks: Sequence[Network]) -> Alignment:
    """Finds the longest common trunk of two or more networks.

    Nodes correspond if they are alike in class and configuration (widths may differ), are fed by
    corresponding nodes and yield the same spatial sizes. Nodes that write the outputs' channels,
    and all that follow them, belong to the heads.

    Args:
        tasks: One name a network.
        networks: Networks with one input of equal shape and one output tensor each.

    Returns:
        The alignment.

    Raises:
        NoCommonTrunk: the networks have no mixing layer in common.
    """
    graphs = [build_channel_graph(network) for network in networks]
    signatures = [_signatures(graph) for graph in graphs]
    heads = [_output_writers(graph) for graph in graphs]
    common = set.intersection(*(set(found) for found in signatures))
    for found, head in zip(signatures, heads, strict=True):
        common -= {signature for signature, name in found.items() if name in head}
    order = [signature for signature in signatures[0] if signature in common]
    trunk = tuple(tuple(found[signature] for found in signatures) for signature in order)
    if not any(graphs[0].roles[names[0]] == "mixing" for names in trunk):
        raise NoCommonTrunk(_no_trunk_message(tasks, graphs, signatures, heads))
    networks = [
        _trunk_first(network, [names[index] for names in trunk])
        for index, network in enumerate(networks)
    ]
    graphs = [
        dataclasses.replace(graph, network=network)
        for graph, network in zip(graphs, networks, strict=True)
    ]
    spaces = _trunk_spaces(tasks, graphs, trunk)
    return Alignment(tuple(tasks), tuple(networks), tuple(graphs), trunk, spaces)


def _signatures(graph: ChannelGraph) -> dict[str, str]:
    """The nodes by signature; nodes with equal signatures are told apart by their order.

    A signature holds those of the inputs, so a common signature means a common history.
    """
    seen: dict[str, int] = {}
    by_node: dict[str, str] = {}
    result: dict[str, str] = {}
    calls = graph.network.calls()
    for node in graph.network.nodes:
        call = call_of(graph.network, node, calls)
        rule = rule_of(call)
        inputs = [(by_node[tensor.node], tensor.index) for tensor in node.inputs]
        ignored = set(rule.free) | {rule.width} if rule is not None else set()
        arguments = _arguments(node)
        if find_rule(call.layer.cls) in (RESCALING, JOIN) and _is_given(graph, node.inputs):
            # Preprocessing may differ: the merged network then holds every network's own.
            ignored |= {"scale", "offset"}
            arguments = len(node.inputs)
        shapes = [None if shape is None else shape[1:-1] for shape in node.shapes]
        blocks = grouped_sizes(call) if rule is not None and grouped_convolution(call) else ()
        config = structure(call.config, ignored)
        text = freeze([call.layer.kind, config, arguments, inputs, shapes, blocks])
        seen[text] = seen.get(text, -1) + 1
        signature = f"{_digest(text)}:{seen[text]}"
        by_node[node.name] = signature
        result[signature] = node.name
    return result


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def structure(config: Mapping[str, Any], ignored: Collection[str | None] = ()) -> dict[str, Any]:
    """The entries of a layer's configuration that say what it computes, `ignored` ones aside.

    Of layers that are written out in it, such as what a wrapper is put around, likewise.
    """
    return {
        key: _inner_structure(value)
        for key, value in config.items()
        if key not in _TRAINING_ONLY and key not in ignored and not key.endswith(_TRAINING_SUFFIXES)
    }


def _inner_structure(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_inner_structure(entry) for entry in value]
    written_out = isinstance(value, Mapping) and isinstance(value.get("config"), Mapping)
    return {**value, "config": structure(value["config"])} if written_out else value


def _arguments(node: Node) -> list[Any]:
    """What a node is called with, numbers and arrays included, whatever its tensors are."""
    kwargs = {key: value for key, value in node.kwargs.items() if key != "training"}
    return [map_tensors(structure, lambda tensor: "a tensor") for structure in (node.args, kwargs)]


def function_text(call: Call) -> str:
    """A text that is equal for calls that, with equal weights, compute the same function."""
    config = {key: v for key, v in call.config.items() if key not in ("name", "trainable")}
    return freeze([call.layer.kind, config, _arguments(call.node)], lambda found: str(id(found)))


def freeze(value: Any, function: Callable[[Any], str] | None = None) -> str:
    """A text that is equal for equal structures, arrays and users' functions included.

    Args:
        value: A structure.
        function: Tells functions apart, and objects by themselves; None takes those for equal
            that are written alike.
    """

    def describe(found):
        if isinstance(found, np.ndarray):
            return [str(found.dtype), found.shape, _digest(found.tobytes().hex())]
        if hasattr(found, "__code__"):
            return (function or _code_text)(found)
        if function is None and hasattr(found, "get_config"):
            return [type(found).__qualname__, structure(found.get_config())]
        return repr(found)

    return json.dumps(value, sort_keys=True, default=describe)


def _code_text(function: Any) -> str:
    """Users' functions are alike if their code is: each network keeps its own all the same."""
    return _describe_code(function.__code__)


def _describe_code(code) -> str:
    constants = [_describe_code(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, constants))


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


def _trunk_spaces(tasks, graphs, trunk) -> tuple[TrunkSpace, ...]:
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


def _trunk_space(tasks, graphs, trunk, offsets, members) -> TrunkSpace:
    channels, reason, given, writers = [], None, False, ()
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


def _no_trunk_message(tasks, graphs, signatures, heads) -> str:
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
