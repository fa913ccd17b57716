"""Writes a network with fused groups, sums in place of concatenations, and padded layers."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.graph.levels import likeness, usable_rule
from tfmot_pam.graph.network import Layer, Network, Node, Tensor, map_tensors
from tfmot_pam.graph.rules import Axes, Call, LayerRule, call_of
from tfmot_pam.graph.writing import Writer
from tfmot_pam.lowering.parts import reads_several_channels
from tfmot_pam.lowering.views import Joined, Part, View, chained
from tfmot_pam.lowering.weights import CannotLowerError, embedded, moved

LOWERED = "_lowered"  # what the names of rewritten layers end with


def fuse(network: Network, levels: Sequence[Sequence[str]], *, hollow: bool = False) -> Network:
    """Computes the groups of each given layer in one layer.

    Args:
        network: The network of a combination.
        levels: Entries of `fusable_levels(network)`.
        hollow: Whether only costs are wanted: the weights of what is written anew are then 0.

    Returns:
        A network that computes the same outputs, up to the order of sums.

    Raises:
        CannotLowerError: Some layer would need the fused channels apart again.
    """
    return _Rewriting(network, levels=levels, hollow=hollow).run()


def split_sums(network: Network, nodes: Collection[str]) -> Network:
    """Writes layers over concatenations as sums of layers over their parts.

    Args:
        network: Any network.
        nodes: Entries of `splittable_nodes(network)`.

    Returns:
        A network that computes the same outputs, up to the order of sums, without the
        concatenations that nothing else reads.
    """
    return _Rewriting(network, split=nodes).run()


def pad_channels(network: Network, widths: Mapping[tuple[str, ...], int]) -> Network:
    """Fills up layers with channels of zeros, which nothing reads.

    Args:
        network: Any network.
        widths: New numbers of channels by the writers of entries of
            `paddable_layers(network)`.

    Returns:
        A network that computes the same outputs.

    Raises:
        CannotLowerError: Some layer would read the added channels.
    """
    of_nodes = {name: width for names, width in widths.items() for name in names}
    return _Rewriting(network, widths=of_nodes).run()


class _Rewriting:
    """Writes the new network unit by unit; a unit is a node or the nodes of a fused layer."""

    def __init__(
        self,
        network: Network,
        *,
        levels: Sequence[Sequence[str]] = (),
        split: Collection[str] = (),
        widths: Mapping[str, int] | None = None,
        hollow: bool = False,
    ):
        self.network = network
        self.calls = network.calls()
        self.levels = {name: tuple(level) for level in levels for name in level}
        self.split = frozenset(split)
        self.widths = widths or {}
        self.hollow = hollow
        self.views: dict[Tensor, View] = {}
        self.writer = Writer(taken={*network.layers, *network.nodes_by_name})

    def run(self) -> Network:
        nodes = self.network.nodes
        place = {node.name: index for index, node in enumerate(nodes)}
        missing = {node.name: self._read_by_unit(node) for node in nodes}
        readers: dict[Tensor, list[str]] = {}
        for name, tensors in missing.items():
            for tensor in tensors:
                readers.setdefault(tensor, []).append(name)
        ready = [place[name] for name, tensors in missing.items() if not tensors]
        written = 0
        while ready:
            done = self._write(nodes[ready[0]], [nodes[index] for index in ready])
            ready = [index for index in ready if nodes[index].name not in done]
            written += len(done)
            for tensor in (t for name in done for t in nodes[place[name]].outputs):
                for name in readers.get(tensor, ()):
                    missing[name].discard(tensor)
                    if not missing[name]:
                        bisect.insort(ready, place[name])
        if written < len(nodes):
            raise CannotLowerError("Layers of a fused level read each other.")
        outputs = map_tensors(self.network.outputs, self._whole)
        inputs = tuple(self._whole(tensor) for tensor in self.network.inputs)
        return self.writer.onto(self.network).replace(inputs=inputs, outputs=outputs)

    def _read_by_unit(self, node: Node) -> set[Tensor]:
        """What the unit of a node reads: it is written when all of that is."""
        names = self.levels.get(node.name, (node.name,))
        return {tensor for name in names for tensor in self.network.node(name).inputs}

    def _write(self, node: Node, ready: Sequence[Node]) -> set[str]:
        """Writes the unit of a ready node; returns the old nodes that it covers."""
        rule = usable_rule(self.network, node, self.calls)
        if rule is not None and rule.role == "concatenate":
            self.views[Tensor(node.name)] = chained([self.views[t] for t in node.inputs])
            return {node.name}
        if rule is not None and not self._stays(node):
            if rule.role == "mixing":
                names = self.levels.get(node.name, (node.name,))
                return self._mix([self.network.node(name) for name in names], rule)
            return self._widen(node, rule, ready)
        return self._copy(node)

    def _stays(self, node: Node) -> bool:
        views = [self.views[tensor] for tensor in node.inputs]
        changed = node.name in self.levels or node.name in self.widths
        changed |= node.name in self.split and any(len(view) > 1 for view in views)
        return not changed and all(part.whole for view in views for part in view)

    def _copy(self, node: Node) -> set[str]:
        args = map_tensors(node.args, self._whole)
        kwargs = map_tensors(node.kwargs, self._whole)
        copied = dataclasses.replace(node, args=args, kwargs=kwargs)
        self.writer.copy(self.network.layer_of(node), copied)
        for tensor, shape in zip(node.outputs, node.shapes, strict=True):
            self._see(tensor, tensor, shape[-1] or 0 if shape else 1)
        return {node.name}

    def _see(self, old: Tensor, new: Tensor, width: int, positions: Any = None) -> None:
        positions = np.arange(width) if positions is None else positions
        self.views[old] = (Part(new, width, positions),)

    # --- tensors side by side -----------------------------------------------------------------

    def _whole(self, tensor: Tensor) -> Tensor:
        """The new tensor that is equal to an old one."""
        view = self.views[tensor]
        if not all(part.whole for part in view):
            raise CannotLowerError(f"'{tensor.node}' would be needed as it was.")
        return self.writer.side_by_side([part.tensor for part in view])

    @staticmethod
    def _layer(kind: str, name: str, **config: Any) -> Layer:
        import keras

        return Layer(name, getattr(keras.layers, kind), config, {})

    # --- units --------------------------------------------------------------------------------

    def _mix(self, nodes: Sequence[Node], rule: LayerRule) -> set[str]:
        """One mixing layer for all nodes, reading everything that one of them reads."""
        calls = [call_of(self.network, node, self.calls) for node in nodes]
        views = [self.views[node.inputs[0]] for node in nodes]
        joined = Joined.of(views)
        widths = [call.out_shape[-1] for call in calls]
        ends = np.cumsum(widths).tolist()
        width = max(ends[-1], *(self.widths.get(node.name, 0) for node in nodes))
        writes = [np.arange(end - size, end) for end, size in zip(ends, widths, strict=True)]
        reads = [joined.positions(view) for view in views]
        layer = self._rewritten(rule, calls, reads, writes, joined.width, width)
        shape = (*calls[0].out_shape[:-1], width)
        if self.split.intersection(node.name for node in nodes) and len(joined.tensors) > 1:
            written = self._sum(layer, rule, calls[0], joined, shape)
        else:
            written = self.writer.write(
                layer, (self.writer.side_by_side(joined.tensors),), {}, shape
            )
        for node, positions in zip(nodes, writes, strict=True):
            self._see(Tensor(node.name), written, width, positions)
        return {node.name for node in nodes}

    def _rewritten(
        self,
        rule: LayerRule,
        calls: Sequence[Call],
        reads: Sequence[np.ndarray],
        writes: Sequence[np.ndarray],
        in_width: int,
        out_width: int,
    ) -> Layer:
        """One layer for all calls, from `in_width` to `out_width` channels."""
        first = calls[0]
        weights = {
            name: embedded(
                rule, name, calls, reads, writes, in_width, out_width, hollow=self.hollow
            )
            for name in first.layer.weights
        }
        config = rule.resized(first, in_width, out_width)
        return Layer(first.layer.name + LOWERED, first.layer.cls, config, weights)

    def _sum(
        self, layer: Layer, rule: LayerRule, call: Call, joined: Joined, shape: tuple[Any, ...]
    ) -> Tensor:
        """The layer over the joined tensors as a sum of layers over each of them."""
        terms: list[Tensor] = []
        for tensor, span in joined.spans().items():
            bias = not terms and call.config.get("use_bias", False)
            weights = {
                name: _rows(weight, rule.weights[name], call, span)
                for name, weight in layer.weights.items()
                if name != "bias" or bias
            }
            config = rule.resized(call, len(span), shape[-1])
            config |= {"activation": "linear", "use_bias": bias}
            term = dataclasses.replace(layer, config=config, weights=weights)
            terms.append(self.writer.write(term, (tensor,), {}, shape))
        total = self.writer.write(self._layer("Add", f"{layer.name}_sum"), (terms,), {}, shape)
        activation = call.config.get("activation")
        if activation in (None, "linear"):
            return total
        after = self._layer("Activation", f"{layer.name}_activation", activation=activation)
        return self.writer.write(after, (total,), {}, shape)

    def _widen(self, node: Node, rule: LayerRule, ready: Sequence[Node]) -> set[str]:
        """Applies a layer to all channels of its new inputs, once for all groups alike."""
        key = self._widened_key(node)
        nodes = [one for one in ready if self._widened_key(one) == key]
        calls = [call_of(self.network, one, self.calls) for one in nodes]
        inputs = [Joined.of([self.views[tensor]]) for tensor in node.inputs]
        positions = []
        for one in nodes:
            views = [self.views[tensor] for tensor in one.inputs]
            first, *others = (j.positions(view) for j, view in zip(inputs, views, strict=True))
            if any(not np.array_equal(first, other) for other in others):
                raise CannotLowerError(f"'{one.name}' combines differently ordered channels.")
            positions.append(first)
        width = inputs[0].width
        if any(joined.width != width for joined in inputs):
            raise CannotLowerError(f"'{node.name}' combines different numbers of channels.")
        if reads_several_channels(calls[0], rule):
            raise CannotLowerError(f"'{node.name}' computes channels from several.")
        wide = rule.source_positions(calls[0], width)
        writes = [
            moved(rule.source_positions(call, call.in_shape[-1])[:, 0], found, wide[:, 0])
            for call, found in zip(calls, positions, strict=True)
        ]
        layer = self._rewritten(rule, calls, positions, writes, width, len(wide))
        tensors = iter([self.writer.side_by_side(joined.tensors) for joined in inputs])
        args = map_tensors(node.args, lambda _: next(tensors))
        written = self.writer.write(layer, args, {}, (*calls[0].out_shape[:-1], len(wide)))
        for one, found in zip(nodes, writes, strict=True):
            self._see(Tensor(one.name), written, len(wide), found)
        return {one.name for one in nodes}

    def _widened_key(self, node: Node) -> Any:
        """What nodes share that one wider layer computes; None of those that stay."""
        rule = usable_rule(self.network, node, self.calls)
        if rule is None or rule.role not in ("channelwise", "join") or self._stays(node):
            return None
        tensors = tuple(Joined.of([self.views[tensor]]).tensors for tensor in node.inputs)
        return tensors, likeness(self.network, node, rule)


def _rows(weight: np.ndarray, axes: Axes, call: Call, span: range) -> np.ndarray:
    """The entries of a weight that belong to the input channels of a span."""
    return weight[axes.index(weight.shape, call.config, np.array(span))]
