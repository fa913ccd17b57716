"""Lowers a combination's network for speed: groups of one layer become one layer again.

A merged network computes each layer in groups of channels, which are cut out per combination.
Once a combination is cut out, its groups may be computed together: the kernels of the groups side
by side, zeros where a group does not read a channel. That is more arithmetic in fewer and wider
operations, without concatenations, and for small groups at high resolution it is faster.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.graph.channels import rule_of
from tfmot_pam.graph.network import (
    Layer,
    Network,
    Node,
    Tensor,
    iterate_tensors,
    map_tensors,
    unique_name,
)
from tfmot_pam.graph.rule_table import activation_reason
from tfmot_pam.graph.rules import Call, LayerRule, call_of

# What two layers of one kind may differ in and still be computed as one.
_FREE = ("name", "trainable", "dtype", "seed", "build_config")
_FREE_ENDINGS = ("_initializer", "_regularizer", "_constraint")


class CannotFuseError(ValueError):
    """A network reads fused channels in a way that would need them apart again."""


def fusable_levels(network: Network) -> list[tuple[str, ...]]:
    """Lists the layers of a network that are computed in groups, from its input on.

    Args:
        network: The network of a combination.

    Returns:
        For each such layer the names of the nodes of its groups: at least two nodes with equal
        configurations but for their widths, the same number of layers away from the input.
    """
    calls = network.calls()
    outputs = {tensor.node for tensor in iterate_tensors(network.outputs)}
    depths: dict[str, int] = {}
    found: dict[Any, list[str]] = {}
    for node in network.nodes:
        depth = max((depths[tensor.node] for tensor in node.inputs), default=0)
        rule = _rule(network, node, calls)
        mixing = rule is not None and rule.role == "mixing"
        depths[node.name] = depth + mixing
        if mixing and _separable_outputs(network, node, rule) and node.name not in outputs:
            key = depth, _likeness(network, node, rule)
            found.setdefault(key, []).append(node.name)
    return [tuple(names) for names in found.values() if len(names) > 1]


def fuse(network: Network, levels: Sequence[Sequence[str]]) -> Network:
    """Computes the groups of each given layer in one layer.

    Args:
        network: The network of a combination.
        levels: Entries of `fusable_levels(network)`.

    Returns:
        A network that computes the same outputs, up to the order of sums.

    Raises:
        CannotFuseError: Some layer would need the fused channels apart again.
    """
    return _Lowering(network, levels).run()


def _rule(network: Network, node: Node, calls: Mapping[str, int]) -> LayerRule | None:
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


def _separable_outputs(network: Network, node: Node, rule: LayerRule) -> bool:
    """Whether a mixing node's output channels are computed independently of each other."""
    layer = network.layer_of(node)
    axes = [rule.weights.get(name) for name in layer.weights]
    return (
        rule.frozen is None
        and rule.width is not None
        and activation_reason(layer.config) is None
        and all(one is not None and one.outputs is not None for one in axes)
    )


def _likeness(network: Network, node: Node, rule: LayerRule) -> Any:
    """What nodes must have in common to be computed as one."""
    layer = network.layer_of(node)
    config = {
        key: value
        for key, value in layer.config.items()
        if key not in (*_FREE, rule.width) and not key.endswith(_FREE_ENDINGS)
    }
    places = [network.shape(tensor)[1:-1] for tensor in node.inputs]
    return layer.cls, repr(sorted(config.items())), tuple(layer.weights), repr(places)


@dataclasses.dataclass(frozen=True, eq=False)
class _View:
    """Where a tensor of the old network is in the new one: channels of a tensor there."""

    tensor: Tensor
    width: int
    positions: np.ndarray

    @property
    def whole(self) -> bool:
        return np.array_equal(self.positions, np.arange(self.width))


class _Lowering:
    """Writes the new network unit by unit; a unit is a node or the nodes of a fused layer."""

    def __init__(self, network: Network, levels: Sequence[Sequence[str]]):
        self.network = network
        self.calls = network.calls()
        self.levels = {name: tuple(level) for level in levels for name in level}
        self.views: dict[Tensor, _View] = {}
        self.layers: dict[str, Layer] = {}
        self.nodes: list[Node] = []
        self.joined: dict[tuple[Tensor, ...], tuple[Tensor, int]] = {}

    def run(self) -> Network:
        pending = list(self.network.nodes)
        while pending:
            ready = [node for node in pending if self._ready(node)]
            if not ready:
                raise CannotFuseError("Layers of a fused level read each other.")
            done = self._write(ready[0], ready)
            pending = [node for node in pending if node.name not in done]
        outputs = map_tensors(self.network.outputs, self._whole)
        return self.network.replace(
            layers=self.layers,
            nodes=tuple(self.nodes),
            inputs=tuple(self._whole(tensor) for tensor in self.network.inputs),
            outputs=outputs,
        )

    def _ready(self, node: Node) -> bool:
        names = self.levels.get(node.name, (node.name,))
        return all(
            tensor in self.views for name in names for tensor in self.network.node(name).inputs
        )

    def _write(self, node: Node, ready: Sequence[Node]) -> set[str]:
        """Writes the unit of a ready node; returns the old nodes that it covers."""
        rule = _rule(self.network, node, self.calls)
        if rule is not None and rule.role == "mixing" and not self._simple(node):
            names = self.levels.get(node.name, (node.name,))
            return self._mix([self.network.node(name) for name in names], rule)
        if rule is not None and rule.role == "concatenate":
            return self._concatenate(node)
        if rule is not None and rule.role in ("channelwise", "join") and not self._simple(node):
            return self._widen(node, rule, ready)
        return self._copy(node)

    def _simple(self, node: Node) -> bool:
        whole = all(self.views[tensor].whole for tensor in node.inputs)
        return whole and node.name not in self.levels

    def _whole(self, tensor: Tensor) -> Tensor:
        view = self.views[tensor]
        if not view.whole:
            raise CannotFuseError(f"'{tensor.node}' would be needed apart.")
        return view.tensor

    def _copy(self, node: Node) -> set[str]:
        args = map_tensors(node.args, self._whole)
        kwargs = map_tensors(node.kwargs, self._whole)
        self.layers[node.layer] = self.network.layer_of(node)
        self.nodes.append(dataclasses.replace(node, args=args, kwargs=kwargs))
        for tensor, shape in zip(node.outputs, node.shapes, strict=True):
            width = shape[-1] if shape else 1
            self.views[tensor] = _View(tensor, width, np.arange(width or 0))
        return {node.name}

    def _concatenate(self, node: Node) -> set[str]:
        views = [self.views[tensor] for tensor in node.inputs]
        tensor, width, offsets = self._side_by_side(views, node)
        positions = [view.positions + offsets[view.tensor] for view in views]
        self.views[Tensor(node.name)] = _View(tensor, width, np.concatenate(positions))
        return {node.name}

    def _side_by_side(
        self, views: Sequence[_View], node: Node
    ) -> tuple[Tensor, int, dict[Tensor, int]]:
        """One tensor that holds those of all views, each once, and where each begins."""
        widths = {view.tensor: view.width for view in views}
        ends = list(itertools.accumulate(widths.values()))
        offsets = {tensor: end - widths[tensor] for tensor, end in zip(widths, ends, strict=True)}
        tensors = tuple(widths)
        if len(tensors) == 1:
            return tensors[0], ends[-1], offsets
        if tensors not in self.joined:
            self.joined[tensors] = self._concatenation(tensors, ends[-1], node), ends[-1]
        return *self.joined[tensors], offsets

    def _concatenation(self, tensors: tuple[Tensor, ...], width: int, node: Node) -> Tensor:
        import keras

        shapes = {one.name: one.shapes for one in self.nodes}
        shape = (*shapes[tensors[0].node][tensors[0].index][:-1], width)
        layer = Layer(f"{node.name}_inputs", keras.layers.Concatenate, {"axis": -1}, {})
        return self._emit(layer, ([*tensors],), shape)

    def _emit(self, layer: Layer, args: tuple[Any, ...], shape: tuple[int | None, ...]) -> Tensor:
        taken = {*self.layers, *self.network.layers, *(one.name for one in self.nodes)}
        layer = dataclasses.replace(layer, name=unique_name(layer.name, taken))
        self.layers[layer.name] = layer
        self.nodes.append(Node(layer.name, layer.name, args, {}, (shape,)))
        return Tensor(layer.name)

    def _mix(self, nodes: Sequence[Node], rule: LayerRule) -> set[str]:
        """One mixing layer for all nodes, reading everything that one of them reads."""
        calls = [call_of(self.network, node, self.calls) for node in nodes]
        views = [self.views[node.inputs[0]] for node in nodes]
        tensor, width, offsets = self._side_by_side(views, nodes[0])
        widths = [call.out_shape[-1] for call in calls]
        ends = np.cumsum(widths)
        reads = [view.positions + offsets[view.tensor] for view in views]
        writes = [np.arange(end - size, end) for end, size in zip(ends, widths, strict=True)]
        weights = {
            name: _embedded(rule, name, calls, reads, writes, width, ends[-1])
            for name in calls[0].layer.weights
        }
        layer = Layer(
            f"{nodes[0].name}_fused",
            calls[0].layer.cls,
            rule.resized(calls[0], width, int(ends[-1])),
            weights,
        )
        shape = (*calls[0].out_shape[:-1], int(ends[-1]))
        written = self._emit(layer, (tensor,), shape)
        for node, positions in zip(nodes, writes, strict=True):
            self.views[Tensor(node.name)] = _View(written, int(ends[-1]), positions)
        return {node.name for node in nodes}

    def _widen(self, node: Node, rule: LayerRule, ready: Sequence[Node]) -> set[str]:
        """Applies a layer to all channels of a fused tensor, once for all groups alike."""
        key = self._widened_key(node, rule)
        nodes = [one for one in ready if self._widened_key(one, rule) == key]
        calls = [call_of(self.network, one, self.calls) for one in nodes]
        views = [[self.views[tensor] for tensor in one.inputs] for one in nodes]
        for of_node in views:
            if any(not np.array_equal(of_node[0].positions, v.positions) for v in of_node):
                raise CannotFuseError(f"'{node.name}' combines differently ordered channels.")
        first, width = calls[0], views[0][0].width
        wide_call = dataclasses.replace(
            first, in_shapes=tuple((*shape[:-1], width) for shape in first.in_shapes)
        )
        wide = rule.source_positions(wide_call, width)
        if wide.shape[1] > 1:
            raise CannotFuseError(f"'{node.name}' computes channels from several.")
        moved = [
            _moved(rule.source_positions(call, call.in_shape[-1])[:, 0], view[0], wide[:, 0])
            for call, view in zip(calls, views, strict=True)
        ]
        reads = [view[0].positions for view in views]
        weights = {
            name: _embedded(rule, name, calls, reads, moved, width, len(wide))
            for name in first.layer.weights
        }
        layer = Layer(
            f"{node.name}_fused",
            first.layer.cls,
            rule.resized(wide_call, width, len(wide)),
            weights,
        )
        tensors = [view.tensor for view in views[0]]
        args = (tensors[0],) if rule.role == "channelwise" else _rewired(node.args, tensors)
        written = self._emit(layer, args, (*first.out_shape[:-1], len(wide)))
        for one, positions in zip(nodes, moved, strict=True):
            self.views[Tensor(one.name)] = _View(written, len(wide), positions)
        return {one.name for one in nodes}

    def _widened_key(self, node: Node, rule: LayerRule) -> Any:
        own = _rule(self.network, node, self.calls)
        if own is None or own.role != rule.role or self._simple(node):
            return None
        tensors = tuple(self.views[tensor].tensor for tensor in node.inputs)
        return tensors, _likeness(self.network, node, own)


def _rewired(args: Any, tensors: Sequence[Tensor]) -> Any:
    waiting = iter(tensors)
    return map_tensors(args, lambda _: next(waiting))


def _moved(sources: np.ndarray, view: _View, wide: np.ndarray) -> np.ndarray:
    """Where the outputs of a channelwise layer are among those of the wide one.

    An input channel may have several outputs (one per place after flattening); they are in the
    same order in both.
    """
    order = np.argsort(wide, kind="stable").reshape(view.width, -1)
    occurrence = np.zeros(len(sources), int)
    seen: dict[int, int] = {}
    for position, source in enumerate(sources.tolist()):
        occurrence[position] = seen.get(source, 0)
        seen[source] = occurrence[position] + 1
    return order[view.positions[sources], occurrence]


def _embedded(
    rule: LayerRule,
    name: str,
    calls: Sequence[Call],
    reads: Sequence[np.ndarray],
    writes: Sequence[np.ndarray],
    in_width: int,
    out_width: int,
) -> np.ndarray:
    """A weight of the wide layer: those of the groups at their channels, neutral elsewhere."""
    axes, first = rule.weights.get(name), calls[0].layer.weights[name]
    if axes is None:
        if len(calls) > 1 or first.size:
            same = all(np.array_equal(first, call.layer.weights[name]) for call in calls)
            if not same:
                raise CannotFuseError(f"The weight '{name}' does not depend on channels.")
        return first
    if axes.inputs is not None and axes.fanout(calls[0].config) != 1:
        raise CannotFuseError(f"The weight '{name}' has several entries per channel.")
    shape = list(first.shape)
    if axes.inputs is not None:
        shape[axes.inputs] = in_width
    if axes.outputs is not None:
        shape[axes.outputs] = out_width
    wide = np.full(shape, axes.fill, first.dtype)
    for call, read, written in zip(calls, reads, writes, strict=True):
        index: list[Any] = [np.arange(size) for size in shape]
        if axes.inputs is not None:
            index[axes.inputs % len(shape)] = read
        if axes.outputs is not None:
            index[axes.outputs % len(shape)] = written
        wide[np.ix_(*index)] = call.layer.weights[name]
    return wide
