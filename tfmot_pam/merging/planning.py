"""A grouping written down as a merge plan, and read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import (
    Grouping,
    fixed_masks,
    group_order,
    mask_of,
    tasks_of,
    with_identical_once,
)
from tfmot_pam.merging.methods import Paths
from tfmot_pam.merging.plan import MergePlan, PlannedSpace


def make_plan(
    alignment: Alignment,
    grouping: Grouping,
    paths: Paths | None,
    method: str,
    options: Mapping[str, Any],
    fingerprints: tuple[str, ...],
) -> MergePlan:
    """Writes down a grouping."""
    spaces = []
    written = _masks_of_fused(grouping)
    for index, space in enumerate(alignment.spaces):
        if space.given:
            continue
        masks = [written[k][channels] for k, channels in enumerate(space.channels)]
        fused = _fused_in(alignment, grouping, index)
        found = sorted({m for part in masks for m in part.tolist()} - {0}, key=group_order)
        spaces.append(
            PlannedSpace(
                name=space.name,
                writers=space.writers,
                widths=space.widths,
                frozen=space.frozen,
                groups=tuple(
                    (
                        tuple(alignment.tasks[t] for t in tasks_of(mask)),
                        _channels_of(alignment.tasks, masks, mask),
                    )
                    for mask in found
                ),
                dropped=_channels_of(alignment.tasks, masks, 0),
                paths={
                    task: paths[index, t]
                    for t, task in enumerate(alignment.tasks)
                    if paths is not None and (index, t) in paths
                },
                fused=fused,
                factors=_factors_in(alignment, grouping, index) if fused else {},
            )
        )
    return MergePlan(alignment.tasks, method, dict(options), fingerprints, tuple(spaces))


def _masks_of_fused(grouping: Grouping) -> list[np.ndarray]:
    """The task set of every channel, that of the one that stays for all that were fused in it."""
    if grouping.fused is None:
        return list(grouping.masks)
    numbers, masks = np.concatenate(grouping.fused), np.concatenate(grouping.masks)
    largest = np.zeros(len(numbers), int)
    np.maximum.at(largest, numbers, masks)
    return np.split(largest[numbers], np.cumsum([len(own) for own in grouping.masks])[:-1])


def _fused_in(
    alignment: Alignment, grouping: Grouping, index: int
) -> tuple[dict[str, tuple[int, ...]], ...]:
    """The channels of a space that become one, by task."""
    if grouping.fused is None:
        return ()
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for k, channels in enumerate(alignment.spaces[index].channels):
        task = alignment.tasks[k]
        for position, number in enumerate(grouping.fused[k][channels].tolist()):
            own = found.setdefault(number, {})
            own[task] = (*own.get(task, ()), position)
    return tuple(own for own in found.values() if sum(map(len, own.values())) > 1)


def _factors_in(
    alignment: Alignment, grouping: Grouping, index: int
) -> dict[str, tuple[float, ...]]:
    if grouping.factors is None:
        return {}
    return {
        task: tuple(own[channels].tolist())
        for task, own, channels in zip(
            alignment.tasks, grouping.factors, alignment.spaces[index].channels, strict=True
        )
    }


def _channels_of(
    tasks: Sequence[str], masks: Sequence[np.ndarray], mask: int
) -> dict[str, tuple[int, ...]]:
    found = {
        task: tuple(np.flatnonzero(part == mask).tolist())
        for task, part in zip(tasks, masks, strict=True)
    }
    return {task: channels for task, channels in found.items() if channels}


def grouping_of(plan: MergePlan, alignment: Alignment) -> Grouping:
    """The grouping that a plan wrote down."""
    masks = [mask.copy() for mask in fixed_masks(alignment).masks]
    spaces = [space for space in alignment.spaces if not space.given]
    for planned, space in zip(plan.spaces, spaces, strict=True):
        channels = space.channels
        for tasks, found in (*planned.groups, ((), planned.dropped)):
            mask = mask_of([plan.tasks.index(task) for task in tasks])
            for task, indices in found.items():
                k = plan.tasks.index(task)
                masks[k][channels[k][list(indices)]] = mask
    grouping = Grouping(tuple(masks))
    if not any(planned.fused for planned in plan.spaces):
        return grouping
    return with_identical_once(alignment, _with_fused(plan, alignment, grouping))


def _with_fused(plan: MergePlan, alignment: Alignment, grouping: Grouping) -> Grouping:
    starts = np.cumsum([0, *(len(own) for own in grouping.masks)])
    numbers, factors = np.arange(starts[-1]), np.ones(starts[-1])
    spaces = [space for space in alignment.spaces if not space.given]
    for planned, space in zip(plan.spaces, spaces, strict=True):
        places = {
            task: start + channels
            for task, start, channels in zip(plan.tasks, starts, space.channels, strict=False)
        }
        for task, values in planned.factors.items():
            factors[places[task]] = values
        for found in planned.fused:
            members = np.concatenate([places[task][list(own)] for task, own in found.items()])
            numbers[members] = members[0]
    return dataclasses.replace(
        grouping,
        fused=tuple(np.split(numbers, starts[1:-1])),
        factors=None if (factors == 1).all() else tuple(np.split(factors, starts[1:-1])),
    )
