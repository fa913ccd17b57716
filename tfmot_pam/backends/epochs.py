"""Batches for `fit` without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np


class Epochs(keras.utils.PyDataset):
    """A data set that is read in its order, epoch after epoch.

    Args:
        epoch: Begins the next epoch.
        steps: Batches of an epoch.
        parts: Every batch has a multiple of so many samples.
    """

    def __init__(self, epoch: Callable[[], Iterator[tuple]], steps: int, parts: int = 1):
        super().__init__()
        self._epoch, self._steps, self._parts = epoch, steps, parts
        self._batches: Iterator[tuple] = iter(())

    @property
    def num_batches(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            self._batches = self._epoch()
        return _in_parts(next(self._batches), self._parts)


def _in_parts(batch: tuple[Any, Any, dict[str, np.ndarray]], parts: int) -> tuple:
    """A batch with samples repeated to a multiple of `parts`; the repeated ones weigh nothing."""
    x, targets, weights = batch
    length = len(next(iter(weights.values())))
    chosen = np.arange(whole(length, parts)) % length
    if len(chosen) == length:
        return batch
    x, targets = keras.tree.map_structure(lambda array: array[chosen], (x, targets))
    # Keras divides by all samples; the factor makes that the mean over those that count.
    factor = np.zeros(len(chosen), "float32")
    factor[:length] = len(chosen) / length
    return x, targets, {head: own[chosen] * factor for head, own in weights.items()}


def whole(count: int, parts: int) -> int:
    """The next multiple of `parts`."""
    return -(-count // parts) * parts
