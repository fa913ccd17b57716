"""Feeding: every group has to find something to read in what each of its layers reads."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tfmot_pam.graph.network import Tensor
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import Grouping, fixed_masks, mask_of, tasks_of
from tfmot_pam.merging.units import kept_apart, unit_spaces


@dataclasses.dataclass(frozen=True, eq=False)
class _Writer:
    """A layer of the trunk that writes a space.

    Args:
        reads: For each network, the channels that it reads.
        writes: Whether it writes each of the space's channels, those of all networks.
    """

    reads: tuple[np.ndarray, ...]
    writes: np.ndarray


def owners(alignment: Alignment, index: int) -> np.ndarray:
    """The network that each channel of a space is from."""
    return np.repeat(np.arange(len(alignment.tasks)), alignment.spaces[index].widths)


def placed(alignment: Alignment, decided: Mapping[int, np.ndarray]) -> Grouping:
    """The masks of the spaces, written to the channels of the networks."""
    masks = [mask.copy() for mask in fixed_masks(alignment).masks]
    for index, found in decided.items():
        space = alignment.spaces[index]
        for k, part in enumerate(np.split(found, np.cumsum(space.widths)[:-1])):
            masks[k][space.channels[k]] = part
    return Grouping(tuple(masks))


def readable(
    alignment: Alignment,
    decided: Mapping[int, np.ndarray],
    classes: Mapping[int, np.ndarray] | None = None,
) -> dict[int, np.ndarray]:
    """Demotes groups that no group below could feed to the largest part that one can.

    This happens above frozen layers, where every channel is exclusive. A demotion may leave others
    without an input, so it is repeated until all groups can be read.

    Args:
        alignment: The aligned networks.
        decided: The task sets of the channels by trunk space.
        classes: Numbers of the channels of some spaces, the same for those that become one: of
            these, whoever is not of the part that can be fed keeps its own channel.
    """
    writers = {index: _writers(alignment, index) for index in decided}
    units = [unit for unit in unit_spaces(alignment) if unit[0] in decided]
    whole = {index for unit in units for index in unit}
    decided = {index: found.copy() for index, found in decided.items()}
    changed = True
    while changed:
        changed = False
        for unit in units:
            if not all(_is_fed_in(alignment, decided, writers[index], index) for index in unit):
                decided |= kept_apart(alignment, unit)
                changed = True
        for index, found in decided.items():
            if index in whole:
                continue
            allowed = _allowed(placed(alignment, decided).masks, writers[index])
            owner = owners(alignment, index)
            numbers = (classes or {}).get(index, np.arange(len(found)))
            demoted = found.copy()
            for chosen, fed_by in _written_alike(writers[index], allowed, len(found)):
                demoted[chosen] = _demote(found[chosen], owner[chosen], fed_by, numbers[chosen])
            demoted = _cover_exclusively(demoted, owner, len(alignment.tasks))
            changed |= not np.array_equal(found, demoted)
            decided[index] = demoted
    return decided


def _writers(alignment: Alignment, index: int) -> list[_Writer]:
    """The layers of the trunk that mix channels into a space; heads may write to it too."""
    graph, space, found = alignment.graphs[0], alignment.spaces[index], list[_Writer]()
    corresponding = {names[0]: names for names in alignment.trunk}
    for name in space.writers:
        if graph.roles[name] != "mixing" or name not in corresponding:
            continue
        reads, writes = [], []
        for k, own in enumerate(corresponding[name]):
            labels = alignment.graphs[k].labels
            node = alignment.graphs[k].network.node(own)
            reads.append(np.unique(labels[node.inputs[0]]))
            writes.append(np.isin(space.channels[k], labels[Tensor(own)]))
        found.append(_Writer(tuple(reads), np.concatenate(writes)))
    return found


def _allowed(masks: Sequence[np.ndarray], writers: Sequence[_Writer]) -> list[set[int]]:
    """For each layer that writes a space, the masks of the groups it may read."""
    return [
        {mask for k, read in enumerate(own.reads) for mask in masks[k][read].tolist()} - {0}
        for own in writers
    ]


def _written_alike(
    writers: Sequence[_Writer], allowed: Sequence[set[int]], count: int
) -> list[tuple[np.ndarray, list[set[int]]]]:
    """The channels that the same layers write, each with what these layers may read."""
    writes = np.array([own.writes for own in writers], bool).reshape(len(writers), count)
    patterns, kinds = np.unique(writes, axis=1, return_inverse=True)
    return [
        (
            np.flatnonzero(kinds.ravel() == kind),
            [found for found, own in zip(allowed, pattern, strict=True) if own],
        )
        for kind, pattern in enumerate(patterns.T)
    ]


def _is_fed_in(
    alignment: Alignment,
    decided: Mapping[int, np.ndarray],
    writers: Sequence[_Writer],
    index: int,
) -> bool:
    """Whether every group of a space could be fed."""
    allowed = _allowed(placed(alignment, decided).masks, writers)
    return all(_is_fed(mask, allowed) for mask in set(decided[index].tolist()) - {0})


def _demote(
    found: np.ndarray, owner: np.ndarray, allowed: list[set[int]], numbers: np.ndarray
) -> np.ndarray:
    found = found.copy()
    for mask in set(found.tolist()) - {0}:
        if _is_fed(mask, allowed):
            continue
        parts = [part for part in _parts(mask) if _is_fed(part, allowed)]
        if not parts:
            continue  # once the layers below have been demoted too, there is something to read
        chosen: dict[int, int] = {}
        for j in np.flatnonzero(found == mask).tolist():
            own = 1 << int(owner[j])
            part = next((p for p in parts if p & own), parts[0])
            together = chosen.setdefault(int(numbers[j]), part)
            if mask & own and not together & own and own in parts:
                together = own
            found[j] = together
    return found


def _is_fed(mask: int, allowed: list[set[int]]) -> bool:
    """Whether every layer that writes a group could read some group for it."""
    return all(any(other & mask == mask for other in below) for below in allowed)


def _parts(mask: int) -> list[int]:
    """The proper subsets of a task set, large ones first; single tasks can always be fed."""
    members = tasks_of(mask)
    return [
        mask_of(chosen)
        for size in range(len(members) - 1, 0, -1)
        for chosen in itertools.combinations(members, size)
    ]


def _cover_exclusively(found: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Leaves no task without a channel: it then keeps those of its own network."""
    for task in range(count):
        if not np.any(found >> task & 1):
            found[owner == task] = mask_of([task])
    return found
