"""Writes the merged network: names, layers, calls, and where their weights come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph.network import (
    Layer,
    MaybeNone,
    Node,
    Shape,
    Tensor,
    family_name,
    map_tensors,
    scope_name,
    unique_name,
)
from tfmot_pam.graph.rules import Call
from tfmot_pam.graph.slicing import Origin
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import everything, tasks_of


class Writer:
    """The merged network as far as it is written.

    Args:
        alignment: The networks that are merged, for their layers' and tasks' names.
    """

    def __init__(self, alignment: Alignment):
        self.layers: dict[str, Layer] = {}
        self.nodes: list[Node] = []
        self.origins: dict[str, Origin] = {}
        self._tasks = alignment.tasks
        self._anew = len(alignment.networks) < len(alignment.tasks)  # its layers are groups already
        self._everyone = everything(len(alignment.tasks))
        self._concatenated: dict[tuple[Tensor, ...], Tensor] = {}
        self._name_counts = Counter(
            name for network in alignment.networks for name in network.layers
        )

    def task_names(self, mask: int) -> tuple[str, ...]:
        """The names of the tasks in a mask."""
        return tuple(self._tasks[index] for index in tasks_of(mask))

    def group_name(self, call: Call, mask: int, single: bool) -> str:
        """The name of one group of a layer, from the first network's; `single` for one alone."""
        if self._anew:
            present = call.layer.tasks
            if not present or self.task_names(mask) == present:
                return call.layer.name
            wanted = self._of_tasks(family_name(call.layer.name, present), mask)
            return unique_name(wanted, self._name_counts)  # which another group may have already
        if single:
            return self.own_name(call.layer.name, next(iter(tasks_of(mask))))
        return self._of_tasks(call.layer.name, mask)

    def _of_tasks(self, name: str, mask: int) -> str:
        if mask == self._everyone and "shared" not in self._tasks:
            return f"{name}_shared"
        return scope_name(name, *self.task_names(mask))

    def own_name(self, name: str, k: int) -> str:
        """A head's layer keeps its name where no other model has that name."""
        if self._name_counts[name] <= 1:
            return name
        return scope_name(name, self._tasks[k])

    def concatenate(self, tensors: tuple[Tensor, ...], mask: int) -> Tensor:
        """Tensors side by side; the same ones are concatenated once."""
        if tensors not in self._concatenated:
            shapes = [self._shape(tensor) for tensor in tensors]
            shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
            layer = Layer("concatenate", keras.layers.Concatenate, {"axis": -1}, {})
            self._concatenated[tensors] = self.write(
                layer.name, layer, layer.config, {}, mask, (list(tensors),), {}, (shape,)
            )
        return self._concatenated[tensors]

    def _shape(self, tensor: Tensor) -> Shape | MaybeNone:
        return next(n for n in reversed(self.nodes) if n.name == tensor.node).shapes[tensor.index]

    def emit(
        self,
        name: str,
        config: Mapping[str, Any],
        weights: Mapping[str, np.ndarray],
        mask: int | None,
        call: Call,
        replace: Mapping[Tensor, Tensor],
        shape: Shape | None,
        origin: Origin | None = None,
    ) -> Tensor:
        """Writes one group of a layer in the place of an original call."""
        args = map_tensors(call.node.args, lambda tensor: replace[tensor])
        kwargs = map_tensors(call.node.kwargs, lambda tensor: replace[tensor])
        tensor = self.write(name, call.layer, config, weights, mask, args, kwargs, (shape,))
        if origin is not None:
            self.origins[tensor.node] = origin
        return tensor

    def write(
        self,
        name: str,
        layer: Layer,
        config: Mapping[str, Any],
        weights: Mapping[str, np.ndarray],
        mask: int | None,
        *called: Any,
    ) -> Tensor:
        """Writes a layer and its one call, which `add_node` takes."""
        return self.add_node(self.add_layer(name, layer, config, weights, mask), *called)

    def add_layer(
        self,
        wanted: str,
        layer: Layer,
        config: Mapping[str, Any],
        weights: Mapping[str, np.ndarray],
        mask: int | None,
    ) -> str:
        """Writes a layer with another configuration and other weights; returns its name."""
        name = unique_name(wanted, self.layers)
        tasks = None if mask is None else self.task_names(mask)
        self.layers[name] = Layer(name, layer.cls, {**config, "name": name}, weights, tasks)
        return name

    def add_node(
        self,
        layer: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        shapes: tuple[Shape | None, ...],
    ) -> Tensor:
        """Writes a call of a layer that was written before."""
        calls = sum(node.layer == layer for node in self.nodes)
        name = layer if calls == 0 else f"{layer}@{calls}"
        self.nodes.append(Node(name, layer, tuple(args), kwargs, shapes))
        return Tensor(name)
