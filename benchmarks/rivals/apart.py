"""Rivals that keep a network for each task."""

from __future__ import annotations

import keras

import tfmot_pam
from benchmarks.rivals.attempt import Attempt, expected_macs, with_new_weights


def uniform_width(attempt: Attempt) -> keras.Model:
    """Every network with all layers cut by the same factor, refitted, and distilled."""
    narrow = {}
    for task, model in attempt.models.items():
        macs = attempt.share * tfmot_pam.cost(model).macs
        cut = attempt.narrowed(model, macs, scope="per-layer")
        narrow[task] = attempt.train(cut, attempt.effort)
    return attempt.side_by_side(narrow)


def small_scratch(attempt: Attempt) -> keras.Model:
    """Networks of the widths that `compress` finds for each, trained on labels from random weights.

    Below its cost all their layers are narrowed by the same factor. Rounds of an earlier search are
    taken over; what the search takes is not counted.
    """
    found = tfmot_pam.compress(
        attempt.models,
        attempt.splits["train"],
        0.01,
        validation_data=attempt.splits["validation"],
        arms=["separate"],
        importance="reconstruction",
        effort=attempt.effort,
        directory=attempt.rounds,
        augment=attempt.suite.augment,
        seed=attempt.seed,
        verbose=0,
    ).model
    share = attempt.macs / expected_macs(found)
    small = {}
    for task in attempt.models:
        network = tfmot_pam.select_tasks(found, [task])
        narrow = attempt.narrowed(
            network,
            share * tfmot_pam.cost(network).macs,
            importance="magnitude",
            scope="per-layer",
            data=None,
        )
        small[task] = attempt.train(
            with_new_weights(narrow, attempt.seed), attempt.effort, teach=False
        )
    return attempt.side_by_side(small)
