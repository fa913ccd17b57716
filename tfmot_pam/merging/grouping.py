"""Groups as data: the task set of every channel, as a bit mask."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy.sparse

from tfmot_pam.merging.alignment import Alignment


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
    """The task set of every channel of every network.

    Args:
        masks: For each network, one integer a channel number: bit t is set where task t needs
            the channel; 0 drops it.
        fused: For each network a number for each of its channels, the same where channels, of one
            network or of several, become one; None where none do.
        factors: For each network, what the one is to be multiplied by to stand for each of its
            channels where layers read it; None for 1.
    """

    masks: tuple[np.ndarray, ...]
    fused: tuple[np.ndarray, ...] | None = None
    factors: tuple[np.ndarray, ...] | None = None

    def replace(self, index: int, channels: np.ndarray, values: np.ndarray | int) -> Grouping:
        """The same grouping with other task sets for some channels of one network."""
        masks = [mask.copy() for mask in self.masks]
        masks[index][channels] = values
        return dataclasses.replace(self, masks=tuple(masks))


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


def numbers_of_one(alignment: Alignment, grouping: Grouping) -> tuple[np.ndarray, ...] | None:
    """A number for each channel of each network, the same where they are, or become, one."""
    if alignment.identical is None or grouping.fused is None:
        return grouping.fused if alignment.identical is None else alignment.identical
    sizes = [len(own) for own in grouping.fused]
    fused, same = np.concatenate(grouping.fused), np.concatenate(alignment.identical)
    same = same + int(fused.max(initial=-1)) + 1
    total = int(same.max(initial=-1)) + 1
    matrix = scipy.sparse.coo_matrix((np.ones(len(fused), bool), (fused, same)), (total, total))
    _, joined = scipy.sparse.csgraph.connected_components(matrix, directed=False)
    return tuple(np.split(joined[fused], np.cumsum(sizes)[:-1]))


def with_identical_once(alignment: Alignment, grouping: Grouping) -> Grouping:
    """The grouping in which of channels that are the same, or are fused, only one stays.

    That is the first which is not dropped, for the tasks that need one of them. Those that are the
    same in several networks are for the tasks of all these networks.
    """
    numbers_of = numbers_of_one(alignment, grouping)
    if numbers_of is None:
        return grouping
    identical = alignment.identical or numbers_of
    times = Counter(number for numbers in identical for number in numbers.tolist())
    needed: dict[int, int] = {}
    keeper: dict[int, tuple[int, int]] = {}
    for k, (numbers, masks) in enumerate(zip(numbers_of, grouping.masks, strict=True)):
        same = identical[k].tolist()
        pairs = zip(numbers.tolist(), masks.tolist(), strict=True)
        for channel, (number, mask) in enumerate(pairs):
            own = 1 << k if alignment.identical and times[same[channel]] > 1 else 0
            needed[number] = needed.get(number, 0) | mask | own
            if mask:
                keeper.setdefault(number, (k, channel))
    kept = [np.zeros_like(masks) for masks in grouping.masks]
    for number, (k, channel) in keeper.items():
        kept[k][channel] = needed[number]
    return dataclasses.replace(grouping, masks=tuple(kept))


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
