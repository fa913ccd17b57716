"""A network while it is written, layer by layer and call by call."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.graph.network import Layer, MaybeNone, Network, Node, Shape, Tensor, unique_name


class Writer:
    """The layers and calls of a new network as far as they are written.

    Args:
        taken: Names that no layer gets.
    """

    def __init__(self, taken: Collection[str] = ()):
        self.layers: dict[str, Layer] = {}
        self.nodes: dict[str, Node] = {}
        self._taken = frozenset(taken)
        self._calls: Counter[str] = Counter()
        self._joined: dict[tuple[Tensor, ...], Tensor] = {}

    def add_layer(self, layer: Layer) -> str:
        """Writes a layer by a name that no other has; returns the name."""
        name = layer.name
        if name in self._taken or name in self.layers:
            name = unique_name(name, self._taken | self.layers.keys())
        self.layers[name] = dataclasses.replace(layer, name=name)
        return name

    def add_call(
        self,
        layer: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        shapes: Sequence[Shape | MaybeNone],
    ) -> Tensor:
        """Writes a call of a layer that was written before; returns its first output."""
        number = self._calls[layer]
        self._calls[layer] += 1
        name = f"{layer}@{number}" if number else layer
        self.nodes[name] = Node(name, layer, tuple(args), kwargs, tuple(shapes))
        return Tensor(name)

    def write(
        self, layer: Layer, args: Sequence[Any], kwargs: Mapping[str, Any], shape: Shape | MaybeNone
    ) -> Tensor:
        """Writes a layer and its one call."""
        return self.add_call(self.add_layer(layer), args, kwargs, (shape,))

    def copy(self, layer: Layer, node: Node) -> None:
        """Writes a call and its layer by the names that they have; these must be `taken`."""
        self.layers[layer.name] = layer
        self.nodes[node.name] = node

    def shape(self, tensor: Tensor) -> Shape | MaybeNone:
        """The shape of a tensor that was written."""
        return self.nodes[tensor.node].shapes[tensor.index]

    def side_by_side(
        self, tensors: Sequence[Tensor], tasks: tuple[str, ...] | None = None
    ) -> Tensor:
        """One tensor of the channels of all, in this order; the same ones are joined once."""
        key = tuple(tensors)
        if len(key) == 1:
            return key[0]
        if key not in self._joined:
            shapes = [self.shape(tensor) for tensor in key]
            layer = Layer("concatenate", keras.layers.Concatenate, {"axis": -1}, {}, tasks)
            width = sum(shape[-1] for shape in shapes)
            self._joined[key] = self.write(layer, ([*key],), {}, (*shapes[0][:-1], width))
        return self._joined[key]

    def onto(self, network: Network) -> Network:
        """A network with what was written in the place of its layers and calls."""
        return network.replace(layers=self.layers, nodes=tuple(self.nodes.values()))
