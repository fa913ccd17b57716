"""Draws the sample that calibration works on: in memory, stratified by the labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfmot_pam.data.forms import Source, open_sources
from tfmot_pam.data.missing import missing
from tfmot_pam.data.reading import join_batches
from tfmot_pam.data.samples import HeadSamples, Samples
from tfmot_pam.graph.heads import Heads, Inputs, InputShapes, all_heads
from tfmot_pam.graph.inputs import lazy_rows, rows

_READ_FACTOR = 4
_MEMBERS = 16
_MAP_CLASSES = 256


def take_samples(
    data: Any,
    tasks: Heads,
    input_shape: InputShapes,
    *,
    samples: int = 1024,
    seed: int = 0,
    lazy: bool = False,
) -> Samples:
    """Draws a subsample in which every label has both values and every class occurs if it can.

    Use it wherever something is measured on data (relevance, compensation, loss scales). Strata
    are filled from the rarest on, up to 16 members each, and the rest is drawn at random; labels
    with real values are drawn at random altogether. Of a stream the first `4 * samples` rows (or
    `samples` rows without labels) are read and drawn from.

    Args:
        data: The user's data in one of the forms of `tfmot_pam.data.forms`.
        tasks: Names of the tasks, in model order, or the heads of each.
        input_shape: Shape of one input without the batch dimension; None matches any size. Of
            several inputs a dict by name.
        samples: Number of samples per task; all are taken if there are fewer.
        seed: Seed of the draw.
        lazy: Whether inputs are left where they are and read batch by batch, as `Rows`; those of a
            stream are in memory all the same.

    Returns:
        The subsample. With one data set for all tasks they share one array of inputs.

    Raises:
        TypeError: `data` has none of the forms.
        ValueError: The data is empty, not finite, of another shape, or of other tasks.

    Source: stratified calibration data, section 3 of the project's algorithms page.

    Example:
    >>> import numpy as np
    >>> x, y = np.zeros((100, 3), "float32"), np.arange(100) % 4
    >>> take_samples((x, {"a": y}), ["a"], (3,), samples=10).by_head["a"].x.shape
    (10, 3)
    """
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1. Received: {samples}.")
    by_head: dict[str, HeadSamples] = {}
    shared = True
    for index, source in enumerate(open_sources(data, tasks, input_shape)):
        rng = np.random.default_rng([seed, index])
        pool = source.arrays or _read(source, samples)
        shared = pool.shared and index == 0
        # Of what was read from a stream nothing but the subsample is to stay in memory.
        take = lazy_rows if lazy and source.arrays is not None else rows
        by_head.update(_draw(pool, samples, rng, take))
    return Samples({head: by_head[head] for head in all_heads(tasks)}, shared)


def stratified_rows(
    labels: Sequence[np.ndarray], samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws up to `samples` row numbers, ascending, so that the rarest strata are represented.

    Args:
        labels: Label arrays with the same number of rows, at least one.
        samples: Rows to draw.
        rng: NumPy random generator.

    Returns:
        Row numbers in ascending order.
    """
    length = len(labels[0])
    if length <= samples:
        return np.arange(length)
    strata = [stratum for y in labels for stratum in _strata(y)]
    strata.sort(key=len)
    members = int(np.clip(samples // (2 * max(1, len(strata))), 1, _MEMBERS))
    taken = np.zeros(length, bool)
    left = samples
    for stratum in strata:
        free = stratum[~taken[stratum]]
        need = min(left, members - (len(stratum) - len(free)))
        if need > 0:
            chosen = rng.permutation(free)[:need]
            taken[chosen] = True
            left -= len(chosen)
    taken[rng.permutation(np.flatnonzero(~taken))[:left]] = True
    return np.flatnonzero(taken)


def _strata(y: np.ndarray) -> list[np.ndarray]:
    """Returns the rows of every value that should occur; nothing for real-valued targets."""
    gaps = missing(y)
    known = y if gaps is None else y[~gaps]
    if y.dtype.kind == "f" and not (known == np.round(known)).all():
        return []
    values = np.unique(known)
    maps = y.reshape(len(y), -1, y.shape[-1] if y.ndim > 1 else 1)
    if len(values) <= 2:
        # A matrix of 0/1 or -1/+1: each column, anywhere in a row's map, needs both values.
        rows = [np.flatnonzero(mask) for v in values for mask in (maps == v).any(axis=1).T]
        return [stratum for stratum in rows if len(stratum)]
    if maps[0].size == 1:
        # Classes by one sort: a mask per class would be too large for many classes.
        order = np.argsort(y.reshape(-1), kind="stable")[: len(known)]  # NaN is sorted to the end
        return np.split(order, np.searchsorted(y.reshape(-1)[order], values[1:]))
    if y.ndim == 2 or len(values) > _MAP_CLASSES:
        return []
    return [np.flatnonzero((maps == value).any(axis=(1, 2))) for value in values]


def _draw(
    pool: Samples,
    samples: int,
    rng: np.random.Generator,
    take: Callable[[Inputs, np.ndarray], Inputs] = rows,
) -> dict[str, HeadSamples]:
    if not pool.shared:
        drawn = {}
        for part in pool.apart:
            drawn.update(_draw(part, samples, rng, take))
        return drawn
    first = next(iter(pool.by_head.values()))
    labels = [own.y for own in pool.by_head.values() if own.y is not None]
    # Without labels there are no strata; zeros stand for "all rows are alike".
    chosen = stratified_rows(labels or [np.zeros(len(first), bool)], samples, rng)
    x = take(first.x, chosen)
    if len(chosen) == len(first):
        return {head: dataclasses.replace(own, x=x) for head, own in pool.by_head.items()}
    return {head: own.rows(chosen, x) for head, own in pool.by_head.items()}


def _read(source: Source, samples: int) -> Samples:
    """Reads the head of a stream into memory."""
    batches: list[Samples] = []
    found = 0
    for batch in source.read():
        batches.append(batch)
        # The task with the fewest rows decides; without labels there is nothing to stratify.
        found += min(len(own) for own in batch.by_head.values())
        labelled = any(own.y is not None for own in batch.by_head.values())
        if found >= samples * (_READ_FACTOR if labelled else 1):
            break
    return join_batches(batches, source)
