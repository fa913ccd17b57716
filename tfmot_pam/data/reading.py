"""Streams read into memory, as far as they fit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfmot_pam.data.forms import Source, open_sources
from tfmot_pam.data.samples import HeadSamples, Samples
from tfmot_pam.graph.heads import Heads, Inputs, InputShapes, all_heads
from tfmot_pam.graph.inputs import arrays_of, joined

_SHARE, _UNKNOWN = 0.5, 2**33  # of the memory; where it is not known how much there is


def read_all(
    data: Any,
    tasks: Heads,
    input_shape: InputShapes,
    *,
    name: str = "data",
    limit: int | None = None,
) -> Samples:
    """Reads data of any form into memory; arrays are not copied.

    Use it where samples are visited again and again. A `tf.data.Dataset` is read in its
    deterministic order, a `keras.utils.PyDataset` by its indices.

    Args:
        data: The user's data in one of the forms of `tfmot_pam.data.forms`.
        tasks: Names of the tasks, in model order, or the heads of each.
        input_shape: Shape of one input without the batch dimension; None matches any size. Of
            several inputs a dict by name.
        name: What the data is called in errors.
        limit: The most bytes that streams may have; None takes half of the memory.

    Returns:
        The samples.

    Raises:
        TypeError: `data` has none of the forms.
        ValueError: The data is empty, endless, too large, not finite, of another shape, or of other
            tasks.

    Example:
    >>> import numpy as np
    >>> x, y = np.zeros((10, 3), "float32"), np.arange(10) % 4
    >>> read_all((x, {"a": y}), ["a"], (3,)).by_head["a"].x is x
    True
    """
    sources = open_sources(data, tasks, input_shape)
    limit = _memory() if limit is None else limit
    by_head: dict[str, HeadSamples] = {}
    shared = len(sources) == 1
    for source in sources:
        found = source.arrays or join_batches(_bounded(source, name, limit), source)
        shared = shared and found.shared
        by_head.update(found.by_head)
    return Samples({head: by_head[head] for head in all_heads(tasks)}, shared)


def join_batches(found: Iterable[Samples], source: Source) -> Samples:
    """Joins successive batches of a stream.

    Raises:
        ValueError: some have labels or weights, and others none.
    """
    batches = list(found)
    shared = all(batch.shared for batch in batches)
    inputs: Inputs | None = None
    by_head = {}
    for heads in source.tasks.values():
        if inputs is None or not shared:
            inputs = joined([batch.by_head[heads[0]].x for batch in batches])
        for head in heads:
            own = [batch.by_head[head] for batch in batches]
            labels = _joined([part.y for part in own], source.where, head, "labels")
            weights = _joined([part.weight for part in own], source.where, head, "sample weights")
            by_head[head] = HeadSamples(inputs, labels, weights)
    return Samples(by_head, shared)


def _joined(parts: list, where: str, task: str, what: str) -> np.ndarray | None:
    """Joins what successive batches have; all of them have it or none has."""
    have = [part is not None for part in parts]
    if not any(have):
        return None
    if not all(have):
        raise ValueError(
            f"Some batches of `{where}` have {what} for the task {task!r} and batch "
            f"{have.index(False)} has none. Give {what} in every batch or in none."
        )
    return np.concatenate(parts)


def _bounded(source: Source, name: str, limit: int) -> Iterable[Samples]:
    """The batches of a stream, in an order that does not change, as long as they fit."""
    what = name + source.where.removeprefix("data")
    remedy = (
        "compress() reads a stream once, into memory. Limit it, for example with `.take(steps)`, "
        "or leave out `.repeat()`; merge() and fine_tune() take streams of any size."
    )
    if source.endless:
        raise ValueError(f"`{what}` is a stream that never ends. {remedy}")
    total = 0
    for number, batch in enumerate(_ordered(source).read(), 1):
        total += _bytes(batch)
        if total > limit:
            raise ValueError(
                f"`{what}` is a stream of more than {limit / 2**30:.3g} GiB, after {number} "
                f"batches: it never ends, or is too large. {remedy}"
            )
        yield batch


def _ordered(source: Source) -> Source:
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(source.stream, tensorflow.data.Dataset):
        return source
    options = tensorflow.data.Options()
    options.deterministic = True
    stream = source.stream.with_options(options)
    return Source(source.tasks, source.input_shape, source.where, stream=stream)


def _bytes(batch: Samples) -> int:
    arrays = [a for own in batch.by_head.values() for a in (*arrays_of(own.x), own.y, own.weight)]
    return sum({id(array): array.nbytes for array in arrays if array is not None}.values())


def _memory() -> int:
    try:
        return int(_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN
