"""Groups as data: the task set of every channel, as a bit mask."""

from __future__ import annotations

import dataclasses
from collections import Counter
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

    def replace(self, index: int, channels: np.ndarray, values: np.ndarray | int) -> Grouping:
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


def with_identical_once(alignment: Alignment, grouping: Grouping) -> Grouping:
    """The grouping in which of channels that are the same in several networks only one stays.

    That is the first which is not dropped, for the tasks of all these networks, and those that
    need one of the channels besides.
    """
    if alignment.identical is None:
        return grouping
    pairs = list(zip(alignment.identical, grouping.masks, strict=True))
    times = Counter(number for numbers, _ in pairs for number in numbers.tolist())
    needed: dict[int, int] = {}
    keeper: dict[int, int] = {}
    for k, (numbers, masks) in enumerate(pairs):
        for number, mask in zip(numbers.tolist(), masks.tolist(), strict=True):
            own = 1 << k if times[number] > 1 else 0
            needed[number] = needed.get(number, 0) | mask | own
            if mask:
                keeper.setdefault(number, k)
    return Grouping(
        tuple(
            np.array([needed[n] if keeper.get(n) == k else 0 for n in numbers.tolist()], int)
            for k, (numbers, _) in enumerate(pairs)
        )
    )


def identical_elsewhere(alignment: Alignment, index: int) -> np.ndarray:
    """Whether each channel of a trunk space is the same as one of another network."""
    channels = alignment.spaces[index].channels
    if alignment.identical is None:
        return np.zeros(sum(map(len, channels)), bool)
    numbers = np.concatenate(
        [own[found] for own, found in zip(alignment.identical, channels, strict=True)]
    )
    return np.bincount(numbers)[numbers] > 1


def free_spaces(alignment: Alignment) -> list[int]:
    """The trunk spaces whose channels may be regrouped."""
    return [
        index
        for index, space in enumerate(alignment.spaces)
        if not space.given and space.frozen is None
    ]
