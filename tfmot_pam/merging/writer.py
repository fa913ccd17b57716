"""Writes the merged network: names by task sets, and where weights come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmot_pam.graph.network import (
    Layer,
    Shape,
    Tensor,
    family_name,
    map_tensors,
    scope_name,
    unique_name,
)
from tfmot_pam.graph.rules import Call
from tfmot_pam.graph.slicing import Origin
from tfmot_pam.graph.writing import Writer
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import everything, tasks_of


class MergeWriter(Writer):
    """The merged network as far as it is written.

    Args:
        alignment: The networks that are merged, for their layers' and tasks' names.
    """

    def __init__(self, alignment: Alignment):
        super().__init__()
        self.origins: dict[str, Origin] = {}
        self._tasks = alignment.tasks
        self._anew = len(alignment.networks) < len(alignment.tasks)  # its layers are groups already
        self._everyone = everything(len(alignment.tasks))
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
        tensor = self.add_call(
            self.group(name, call, config, weights, mask), args, kwargs, (shape,)
        )
        if origin is not None:
            self.origins[tensor.node] = origin
        return tensor

    def group(
        self,
        wanted: str,
        call: Call,
        config: Mapping[str, Any],
        weights: Mapping[str, np.ndarray],
        mask: int | None,
    ) -> str:
        """Writes an original's layer with another configuration and other weights; its name."""
        tasks = None if mask is None else self.task_names(mask)
        return self.add_layer(Layer(wanted, call.layer.cls, config, weights, tasks))
