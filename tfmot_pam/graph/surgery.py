"""Surgery: a network without some of its channels, or with some of them several times over.

It happens in all layers that carry them at once. The channels are named by their numbers in the
channel graph, so what is tied (residual streams, depthwise convolutions, gates, concatenations)
goes together. The idea is DepGraph's (Fang et al., CVPR 2023); the graph and its rules are those
that merging uses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfmot_pam.graph.channels import ChannelGraph, known_rule
from tfmot_pam.graph.network import (
    Layer,
    MaybeNone,
    Network,
    Node,
    Shape,
    Tensor,
    iterate_tensors,
    map_tensors,
    prune_to,
)
from tfmot_pam.graph.picking import picking
from tfmot_pam.graph.rearranging import Placed, moves_axes, spatial_key
from tfmot_pam.graph.rules import Call, call_of
from tfmot_pam.graph.slicing import Layout, Origin, slice_weights
from tfmot_pam.graph.space_rules import with_sizes
from tfmot_pam.graph.writing import Writer


def output_channels(graph: ChannelGraph) -> np.ndarray:
    """The numbers of all channels in spaces that the network's outputs carry."""
    spaces = {
        space
        for tensor in iterate_tensors(graph.network.outputs)
        for space in graph.spaces_of(tensor)
    }
    return np.flatnonzero(np.isin(graph.space_of, sorted(spaces)))


def fixed_channels(graph: ChannelGraph) -> np.ndarray:
    """Whether each channel must stay: the input's, the outputs' and those of frozen spaces."""
    fixed = np.array([space.given or space.frozen is not None for space in graph.spaces], bool)
    result = fixed[graph.space_of] if len(graph.spaces) else np.zeros(0, bool)
    result[output_channels(graph)] = True
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """A network of some channels of another, and by node where its weights come from."""

    network: Network
    origins: Mapping[str, Origin]


def remove_channels(graph: ChannelGraph, keep: np.ndarray) -> Cut:
    """What is left of a network when channels are removed.

    Every tensor loses the positions that carry a removed channel, every weight the rows and
    columns that belong to them. A tensor that loses all its channels disappears, with the nodes
    that would have computed it and those that nothing reads any more.

    Args:
        graph: The channel graph of the network.
        keep: For each channel number of the graph, whether it stays. bool `[channels]`.

    Returns:
        A smaller network with the same inputs and outputs, and the origins of its nodes.

    Raises:
        ValueError: a channel that must stay would go, or a layer that is needed would have no
            input left.
    """
    lost = np.flatnonzero(fixed_channels(graph) & ~keep)
    if len(lost):
        names = sorted({graph.spaces[graph.space_of[channel]].name for channel in lost.tolist()})
        raise ValueError(
            f"Channels of {names} cannot be removed: they are the network's input or outputs, or "
            "layers that cannot be split carry them. Keep all of them."
        )
    return _Cutting(graph, keep.astype(int)).run()


def repeatable_channels(graph: ChannelGraph) -> np.ndarray:
    """Whether each channel may be there several times over, the copies next to each other.

    It must be free to change, and no layer with weights may pair it with channels by their places,
    as grouped convolutions do, and depthwise ones that write several channels for each. Nor may a
    layer carry it that rearranges channels or has blocks of them, or that is called several times.
    """
    result = ~fixed_channels(graph)
    calls = graph.network.calls()
    for node in graph.network.nodes:
        moved = graph.roles[node.name] == "rearranged" or _has_blocks(graph, node, calls)
        if moved or calls[node.layer] > 1:
            for tensor in (*node.inputs, *node.outputs):
                result[graph.labels[tensor]] = False
        if graph.roles[node.name] != "channelwise" or not graph.network.layer_of(node).weights:
            continue
        call = graph.call(node, calls)
        width = call.in_shape[-1]
        sources = known_rule(call).source_positions(call, width)[:, 0]
        if not np.array_equal(sources, np.arange(width)):
            for tensor in (*node.inputs, *node.outputs):
                result[graph.labels[tensor]] = False
    spaces = np.unique(graph.space_of[~result])
    return ~np.isin(graph.space_of, spaces)


def _has_blocks(graph: ChannelGraph, node: Node, calls: Mapping[str, int]) -> bool:
    """Whether several channels of a join's inputs stay together."""
    joins = graph.roles[node.name] == "join"
    return joins and known_rule(graph.call(node, calls)).blocks is not None


def repeat_channels(graph: ChannelGraph, times: np.ndarray) -> Cut:
    """A network that has channels several times over, the copies next to each other.

    What reads them adds all copies up, so it computes something else until weights are changed.

    Args:
        graph: The channel graph of the network.
        times: How often each channel number of the graph is there, at least 1. `[channels]`.

    Raises:
        ValueError: a channel would be there several times that cannot (`repeatable_channels`), or
            one not at all.
    """
    wrong = np.flatnonzero((times < 1) | (~repeatable_channels(graph) & (times > 1)))
    if len(wrong):
        names = sorted({graph.spaces[graph.space_of[channel]].name for channel in wrong.tolist()})
        raise ValueError(
            f"Channels of {names} cannot be there {np.unique(times[wrong]).tolist()} times. "
            "Expected 1 for those that `repeatable_channels` leaves out, and at least 1 for others."
        )
    return _Cutting(graph, times).run()


class _Cutting:
    """Writes the nodes of the changed network one by one."""

    def __init__(self, graph: ChannelGraph, times: np.ndarray):
        self.graph = graph
        self.network = graph.network
        self.calls = self.network.calls()
        self.kept = {
            tensor: np.repeat(np.arange(len(labels)), times[labels])
            for tensor, labels in graph.labels.items()
        }
        self.tensors: dict[Tensor, Tensor] = {}
        self.writer = Writer()
        self.written: dict[tuple, str] = {}
        self.starved: set[str] = set()
        self.origins: dict[str, Origin] = {}

    def run(self) -> Cut:
        for node in self.network.nodes:
            self._visit(node)
        return self._finish()

    def _visit(self, node: Node) -> None:
        if node.shapes and all(self._is_empty(tensor) for tensor in node.outputs):
            return
        role = self.graph.roles[node.name]
        if role == "rearranged":
            self._rearrange(node)
            return
        inputs = [tensor for tensor in node.inputs if not self._is_empty(tensor)]
        joins = role == "concatenate" and inputs
        if (len(inputs) < len(node.inputs) and not joins) or any(
            tensor not in self.tensors for tensor in inputs
        ):
            self.starved.add(node.name)
            return
        if len(inputs) < len(node.inputs):
            if len(inputs) == 1:
                self.tensors[Tensor(node.name)] = self.tensors[inputs[0]]
                return
            node = dataclasses.replace(node, args=_without(node.args, self._is_empty))
        self._write(node, role)

    def _is_empty(self, tensor: Tensor) -> bool:
        return len(self.graph.labels[tensor]) > 0 and len(self.kept[tensor]) == 0

    def _rearrange(self, node: Node) -> None:
        """Writes a layer that picks or moves channels for those that are left.

        A channel shuffle stays one where what is left has as many channels in every group; else
        the channels are picked from the tensor before it.
        """
        (tensor,) = node.inputs
        found = {output: self.graph.placed[output] for output in node.outputs}
        if tensor in self.tensors and self._fits(node, found):
            self._write(node, "rearranged")
            return
        for output, place in found.items():
            if place.picked and not self._is_empty(output):
                if place.source in self.tensors:
                    self._pick(node, output, place)
                else:
                    self.starved.add(node.name)

    def _fits(self, node: Node, found: Mapping[Tensor, Placed]) -> bool:
        """Whether a layer does the right thing with what is left of its input."""
        if len(self.kept[node.inputs[0]]) == len(self.graph.labels[node.inputs[0]]):
            return True
        if moves_axes(self._call(node)):
            return all(self._sizes(output, place) is not None for output, place in found.items())
        return all(
            np.array_equal(place.positions, np.arange(len(self.graph.labels[place.source])))
            for place in found.values()
        )

    def _sizes(self, output: Tensor, place: Placed) -> Shape | MaybeNone:
        return place.sizes(self.kept[place.source], self.network.shape(output))

    def _pick(self, node: Node, output: Tensor, place: Placed) -> None:
        """Writes what picks the channels of a tensor that are left."""
        source = self.kept[place.source]
        positions = np.searchsorted(source, place.positions.ravel()[self.kept[output]])
        picked = self.tensors[place.source]
        if not np.array_equal(positions, np.arange(len(source))):
            shape = (*self.network.shape(place.source)[:-1], len(positions))
            layer, arguments = picking(positions, len(shape), self.network.layer_of(node))
            name = self._add(layer, (node.name, output))
            picked = self.writer.add_call(name, (picked, *arguments), {}, (shape,))
        key = spatial_key(self._call(node))
        if key is not None:
            name = self._add(self.network.layer_of(node), (node.layer,))
            shape = (*self.network.shape(output)[:-1], len(positions))
            picked = self.writer.add_call(name, (picked, key), {}, (shape,))
        self.tensors[output] = picked

    def _call(self, node: Node) -> Call:
        return call_of(self.network, node, self.calls)

    def _write(self, node: Node, role: str) -> None:
        original = self.network.node(node.name)
        call = self._call(original)
        shapes = tuple(
            self._shape(tensor, shape)
            for tensor, shape in zip(node.outputs, node.shapes, strict=True)
        )
        layer = self._layer(call, role, shapes)
        args, kwargs = map_tensors((node.args, dict(node.kwargs)), self.tensors.__getitem__)
        name = self.writer.add_call(layer, args, kwargs, shapes).node
        # What several calls need is not fitted to one of them.
        if call.layer.weights and role in ("mixing", "channelwise") and call.calls == 1:
            rows, columns = map(self._layout, (original.inputs[0], Tensor(node.name)))
            self.origins[name] = Origin((node.name,), rows, columns, role)
        for tensor in node.outputs:
            self.tensors[tensor] = Tensor(name, tensor.index)

    def _shape(self, tensor: Tensor, shape: Shape | MaybeNone) -> Shape | MaybeNone:
        """The shape of what is left of a tensor."""
        place = self.graph.placed.get(tensor)
        if place is not None and not place.picked:
            return (shape[0], *self._sizes(tensor, place))
        if shape and self.graph.labels[tensor].size == shape[-1]:
            return (*shape[:-1], len(self.kept[tensor]))
        return shape

    def _layer(self, call: Call, role: str, shapes: tuple[Shape | MaybeNone, ...]) -> str:
        """Writes the layer of a call; calls that need the same one share it."""
        layer = call.layer
        if role == "rearranged" and layer.kind == "Reshape":
            config = with_sizes(layer.config, shapes[0][1:])
            return self._add(dataclasses.replace(layer, config=config), (layer.name, shapes))
        if role in ("input", "copied", "rearranged"):
            return self._add(layer, (layer.name,))
        rows, columns = map(self._layout, (call.node.inputs[0], Tensor(call.node.name)))
        rule = known_rule(call)
        if rule.width is None and rule.resize is None and not layer.weights:
            return self._add(layer, (layer.name,))
        changed = dataclasses.replace(
            layer,
            config=rule.resized(call, len(rows), len(columns)),
            weights=slice_weights(rule, {0: call}, rows, columns),
        )
        key = (layer.name, rows.positions.tobytes(), columns.positions.tobytes())
        return self._add(changed, key)

    def _layout(self, tensor: Tensor) -> Layout:
        positions = self.kept[tensor]
        return Layout(np.zeros(len(positions), int), positions)

    def _add(self, layer: Layer, key: tuple) -> str:
        if key not in self.written:
            self.written[key] = self.writer.add_layer(layer)
        return self.written[key]

    def _finish(self) -> Cut:
        outputs = list(iterate_tensors(self.network.outputs))
        if any(tensor not in self.tensors for tensor in outputs):
            needed = _ancestors(self.network, [t for t in outputs if t not in self.tensors])
            names = [node.name for node in self.network.nodes if node.name in needed]
            first = next(name for name in names if name in self.starved)
            raise ValueError(
                f"'{first}' would lose all channels that it reads, and an output needs it. Keep at "
                "least one channel of every tensor that a layer reads."
            )
        inputs = tuple(self.tensors[tensor] for tensor in self.network.inputs)
        network = self.writer.onto(self.network).replace(inputs=inputs)
        network = prune_to(network, map_tensors(self.network.outputs, self.tensors.__getitem__))
        kept = network.nodes_by_name
        origins = {name: found for name, found in self.origins.items() if name in kept}
        return Cut(network, origins)


def _without(structure: Any, drop: Callable[[Tensor], bool]) -> Any:
    """The same structure without the tensors of its lists that `drop` names."""
    if isinstance(structure, (tuple, list)):
        kept = [v for v in structure if not (isinstance(v, Tensor) and drop(v))]
        return type(structure)(_without(value, drop) for value in kept)
    if isinstance(structure, Mapping):
        return {key: _without(value, drop) for key, value in structure.items()}
    return structure


def _ancestors(network: Network, tensors: list[Tensor]) -> set[str]:
    """The nodes that some tensors depend on."""
    needed = {tensor.node for tensor in tensors}
    for node in reversed(network.nodes):
        if node.name in needed:
            needed.update(tensor.node for tensor in node.inputs)
    return needed
