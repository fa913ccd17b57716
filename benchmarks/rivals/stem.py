"""A rival that shares the first layers."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

import tfmot_pam
from benchmarks.rivals.attempt import Attempt

_QUARTERS = (1, 2, 3)


def stem_branches(attempt: Attempt) -> keras.Model:
    """One network's first layers for all tasks, above them each task's own; cut once, distilled.

    Whose layers, and up to where, trials on the validation split tell. The networks are made by
    `merge` with a method of our own, not by hand: it fits the branches to the stem in closed form,
    which helps this rival, and it goes for residual networks and those of unlike widths, too.
    """
    data = attempt.splits["train"]
    starts = {
        f"{quarters}/4 of {donor}": attempt.narrowed(
            tfmot_pam.merge(
                attempt.models,
                data,
                method=_stem(index, quarters / 4),
                seed=attempt.seed,
                verbose=0,
            ),
            attempt.macs,
        )
        for index, donor in enumerate(attempt.models)
        for quarters in _QUARTERS
    }
    return attempt.chosen(starts)


def _stem(donor: int, height: float) -> tfmot_pam.MergeMethod:
    """Up to a height all tasks read the donor's channels, above it each its own network's."""

    def decide(request) -> Mapping[int, np.ndarray]:
        spaces = {
            index: space.widths
            for index, space in enumerate(request.alignment.spaces)
            if not space.given and space.frozen is None
        }
        everyone = (1 << len(request.alignment.tasks)) - 1
        masks = {}
        for place, (index, widths) in enumerate(spaces.items()):
            stem = place < height * len(spaces)
            own = [everyone * (task == donor) if stem else 1 << task for task in range(len(widths))]
            masks[index] = np.repeat(own, widths)
        return masks

    return tfmot_pam.MergeMethod(f"stem-{donor}-{height}", decide)
