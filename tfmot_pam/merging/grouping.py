"""Groups as data: the task set of every channel, as a bit mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfmot_pam.merging.alignment import Alignment


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
    """The task set of every channel of every network.

    Args:
        masks: For each network, one integer a channel number: bit t is set where task t needs
            the channel; 0 drops it.
    """

    masks: tuple[np.ndarray, ...]

    def replace(self, index: int, channels: np.ndarray, values) -> Grouping:
        """The same grouping with other task sets for some channels of one network."""
        masks = [mask.copy() for mask in self.masks]
        masks[index][channels] = values
        return Grouping(tuple(masks))


def everything(count: int) -> int:
    """The mask of all tasks."""
    return (1 << count) - 1


def group_order(mask: int) -> tuple:
    """The one canonical order of groups: largest task set first, then by task order."""
    members = tasks_of(mask)
    return (-len(members), members)


def tasks_of(mask: int) -> tuple[int, ...]:
    """The indices of the tasks in a mask."""
    mask = int(mask)
    return tuple(index for index in range(mask.bit_length()) if mask >> index & 1)


def mask_of(indices: Sequence[int]) -> int:
    """The mask of some task indices."""
    return sum(1 << index for index in set(indices))


def fixed_masks(alignment: Alignment) -> Grouping:
    """The grouping that nobody chooses: the input for all, everything else with its own task.

    Frozen spaces and heads keep these masks whatever the method.
    """
    count = len(alignment.tasks)
    masks = []
    for index, graph in enumerate(alignment.graphs):
        given = np.array([space.given for space in graph.spaces], bool)[graph.space_of]
        masks.append(np.where(given, everything(count), 1 << index))
    return Grouping(tuple(masks))


def free_spaces(alignment: Alignment) -> list[int]:
    """The trunk spaces whose channels may be regrouped."""
    return [
        index
        for index, space in enumerate(alignment.spaces)
        if not space.given and space.frozen is None
    ]
