"""Rivals that serve all tasks by one network with a head a task."""

from __future__ import annotations

import keras

import tfmot_pam
from benchmarks.rivals.attempt import Attempt, with_all_heads, with_new_weights


def narrow_scratch(attempt: Attempt) -> keras.Model:
    """All layers narrower by the same factor, trained on labels from random weights."""
    widest = max(attempt.models, key=lambda task: tfmot_pam.cost(attempt.models[task]).macs)
    wide = with_all_heads(attempt.models, widest)
    narrow = attempt.narrowed(
        wide, attempt.macs, importance="magnitude", scope="per-layer", data=None
    )
    return attempt.train(with_new_weights(narrow, attempt.seed), attempt.allotted, teach=False)


def donor_labels(attempt: Attempt) -> keras.Model:
    """One of the trained networks with further heads, cut once, trained on labels alone."""
    return attempt.chosen(_cut_donors(attempt), teach=False)


def distilled(attempt: Attempt) -> keras.Model:
    """The same, distilled from all originals."""
    return attempt.chosen(_cut_donors(attempt))


def _cut_donors(attempt: Attempt) -> dict[str, keras.Model]:
    return {
        task: attempt.narrowed(with_all_heads(attempt.models, task), attempt.macs)
        for task in attempt.models
    }


def frozen_donor(attempt: Attempt) -> keras.Model:
    """One network compressed for its own task; the others are new heads on its frozen layers.

    Heads on the originals, frozen, tell on the validation split which network it is.
    """
    models = attempt.models
    trial = attempt.effort // 4
    probes = {}
    for task in models:
        probe = _frozen(with_all_heads(models, task), task)
        probes[task] = attempt.train(probe, trial) if trial else probe
    donor = attempt.choice = min(probes, key=lambda task: attempt.worst(probes[task]))
    cut = attempt.narrowed(_thawed(probes[donor]), attempt.macs)
    left = attempt.allotted - attempt.epochs
    own = attempt.train(tfmot_pam.select_tasks(cut, [donor]), left // len(models))
    heads = _frozen(with_all_heads({**models, donor: own}, donor), donor)
    return attempt.train(heads, attempt.allotted - attempt.epochs)


def _frozen(model: keras.Model, donor: str) -> keras.Model:
    """The model itself, of which only the heads of other tasks are trained."""
    new = {model.output[task]._keras_history.operation for task in model.output if task != donor}
    for layer in model.layers:
        layer.trainable = layer in new
    return model


def _thawed(model: keras.Model) -> keras.Model:
    """The model itself, all of it to be trained."""
    for layer in model.layers:
        layer.trainable = True
    return model
