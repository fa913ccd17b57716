"""Training batches from any form of data: arrays sliced and shuffled, streams passed through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfmot_pam.data.forms import Source, open_sources
from tfmot_pam.data.samples import HeadSamples, Samples
from tfmot_pam.graph.heads import Heads, InputShapes
from tfmot_pam.graph.inputs import rows


@dataclass(frozen=True)
class Batches:
    """Epochs of batches; made by `open_batches`.

    Attributes:
        sources: The data sets that every batch takes its samples from.
        batch_size: Rows that a batch takes from each array data set.
        seed: Seed of the shuffling; None keeps the order.
    """

    sources: tuple[Source, ...]
    batch_size: int
    seed: int | None

    @property
    def steps(self) -> int | None:
        """Batches of one epoch (the longest data set's), None if a stream does not know."""
        steps = [self._steps(source) for source in self.sources]
        known = [count for count in steps if count is not None]
        return max(known) if len(known) == len(steps) else None

    def counted_steps(self) -> int:
        """Batches of one epoch; a stream that does not know its length is read once to count it."""
        return self.steps or sum(1 for _ in self.epoch(0))

    def epoch(self, index: int) -> Iterator[Samples]:
        """Yields the batches of epoch `index`.

        Every batch has samples of all tasks. Where tasks have data sets of their own, the epoch
        lasts until the longest has been read once; the shorter ones start again.
        """
        passes = dict.fromkeys(range(len(self.sources)), 0)
        readers = [self._read(i, index, 0) for i in passes]
        ended: set[int] = set()
        while True:
            by_head: dict[str, HeadSamples] = {}
            for i, reader in enumerate(readers):
                part = next(reader, None)
                if part is None:
                    ended.add(i)
                    if len(ended) == len(readers):
                        return
                    passes[i] += 1
                    readers[i] = self._read(i, index, passes[i])
                    part = next(readers[i])
                by_head.update(part.by_head)
                shared = len(readers) == 1 and part.shared
            yield Samples(by_head, shared)

    def _steps(self, source: Source) -> int | None:
        if source.arrays is None:
            return source.steps
        return -(-len(next(iter(source.arrays.by_head.values()))) // self.batch_size)

    def _read(self, i: int, epoch: int, repeat: int) -> Iterator[Samples]:
        source = self.sources[i]
        if source.arrays is not None:
            yield from self._slices(source.arrays, [i, epoch, repeat])
            return
        yield from source.read()
        if isinstance(source.stream, keras.utils.PyDataset):
            source.stream.on_epoch_end()

    def _slices(self, samples: Samples, key: list[int]) -> Iterator[Samples]:
        first = next(iter(samples.by_head.values()))
        length = len(first)
        order = np.arange(length)
        if self.seed is not None:
            np.random.default_rng([self.seed, *key]).shuffle(order)
        for start in range(0, length, self.batch_size):
            chosen = order[start : start + self.batch_size]
            x = rows(first.x, chosen)
            yield Samples(
                {head: own.rows(chosen, x) for head, own in samples.by_head.items()}, True
            )


def open_batches(
    data: Any,
    tasks: Heads,
    input_shape: InputShapes,
    *,
    batch_size: int = 32,
    seed: int | None = 0,
) -> Batches:
    """Opens the user's data for training.

    Arrays are shuffled anew in every epoch and sliced. Streams keep their own order and batch
    size and are never held in memory. Per-task data sets advance together, so that every batch
    holds samples of every task.

    Args:
        data: The user's data in one of the forms of `tfmot_pam.data.forms`.
        tasks: Names of the tasks, in model order, or the heads of each.
        input_shape: Shape of one input without the batch dimension; None matches any size. Of
            several inputs a dict by name.
        batch_size: Rows per batch taken from each array data set.
        seed: Seed of the shuffling; None keeps the order (for validation).

    Returns:
        The epochs of batches.

    Raises:
        TypeError: `data` has none of the forms.
        ValueError: The data is empty, endless, not finite, of another shape, or of other tasks.

    Example:
    >>> import numpy as np
    >>> x, y = np.zeros((100, 3), "float32"), np.arange(100) % 4
    >>> batches = open_batches((x, {"a": y}), ["a"], (3,), batch_size=32)
    >>> [len(batch.by_head["a"].x) for batch in batches.epoch(0)]
    [32, 32, 32, 4]
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}.")
    sources = open_sources(data, tasks, input_shape)
    for source in sources:
        if source.stream is not None and source.endless:
            raise ValueError(
                f"`{source.where}` never ends, so that an epoch has no length. Limit it, for "
                "example with `.take(steps)`, or leave out `.repeat()`."
            )
    return Batches(sources, batch_size, seed)
