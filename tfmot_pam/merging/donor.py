"""Donor methods: one network's channels serve all tasks, at that network's width.

The counts of channels per layer and task set are what matters, more than which channels they are
(Garg 2023; Liu et al., ICLR 2019): a layer gets its donor's channels, of which a share serves all
tasks and the rest the donor's own, and every other task gets channels of its own network up to
that network's width. A share of 1 everywhere is a trunk. Layers that are taken whole (`units`) are
the donor's where at least a half is shared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfmot_pam.merging.grouping import everything, free_spaces
from tfmot_pam.merging.methods import MergeMethod, Request
from tfmot_pam.merging.units import shared_unit, unit_spaces

_WHOLE = 0.5  # the least share at which layers that are taken whole are shared


def donor_method(donor: str, share: Callable[[int, int], float], name: str) -> MergeMethod:
    """A method that shares a part of one network's channels.

    Args:
        donor: The task whose network gives the shared channels.
        share: `share(position, count)`, the share of the donor's channels that serves all tasks in
            the trunk's space number `position` out of `count`, 0..1.
        name: The method's name.
    """

    def decide(request: Request) -> dict[int, np.ndarray]:
        alignment = request.alignment
        index = alignment.tasks.index(donor)
        units = unit_spaces(alignment)
        free = free_spaces(alignment)
        order = sorted([*free, *(space for unit in units for space in unit)])
        found = {
            space: _masks(alignment.spaces[space].widths, index, share(position, len(order)))
            for position, space in enumerate(order)
            if space in free
        }
        for unit in units:
            if share(order.index(unit[0]), len(order)) >= _WHOLE:
                found |= shared_unit(alignment, unit, index)
        return found

    return MergeMethod(name, decide, own_width=True)


def _masks(widths: tuple[int, ...], donor: int, share: float) -> np.ndarray:
    """The task sets of one space's channels, those of all networks one after the other."""
    shared = round(share * widths[donor])
    parts = []
    for task, width in enumerate(widths):
        part = np.zeros(width, int)
        if task == donor:
            part[:shared] = everything(len(widths))
            part[shared:] = 1 << task
        else:
            part[: max(0, width - shared)] = 1 << task
        parts.append(part)
    return np.concatenate(parts)
