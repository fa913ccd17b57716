"""Means of networks that were trained on from one another: steadier than any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfmot_pam.graph.cloning import clone
from tfmot_pam.metrics.examination import Examination, Judgement


def mean_network(models: Sequence[keras.Model]) -> keras.Model:
    """A network whose weights are the means of those of some networks of one structure.

    Use it on networks that were trained on from one another: their losses are low between them,
    too. Batch-norm statistics are averaged as well.

    Args:
        models: Models with the same layers, of which the first is copied; none is changed.

    Source: Wortsman et al., "Model soups", ICML 2022.
    """
    mean = clone(models[0])
    columns = zip(*(model.get_weights() for model in models), strict=True)
    mean.set_weights([_mean(found) for found in columns])
    return mean


def _mean(found: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of real weights; counters and the like stay what they are in the first."""
    real = keras.backend.is_float_dtype(str(found[0].dtype))
    return np.mean(found, axis=0, dtype="float64") if real else found[0]


def steadier(
    latest: keras.Model,
    before: Sequence[keras.Model],
    examination: Examination,
    tolerances: Mapping[str, float],
) -> tuple[keras.Model, Judgement, int]:
    """The latest try at a structure, or the mean of all tries if that is closer to the tolerances.

    Tries of a merged network are refused for another task each time. What each of them lost by
    chance is no part of their mean.

    Args:
        latest: The network of the latest try.
        before: The networks of the tries before it.
        examination: Judges networks.
        tolerances: What each task may lose.

    Returns:
        The network, its judgement, and of how many tries it is the mean.
    """
    mean = mean_network([*before, latest])
    own, of_mean = examination.judge(latest), examination.judge(mean)
    if of_mean.ratio(tolerances) < own.ratio(tolerances):
        return mean, of_mean, len(before) + 1
    return latest, own, 1
