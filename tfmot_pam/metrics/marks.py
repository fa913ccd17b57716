"""What a metric says of one model's outputs, and what of it another model has lost.

A metric that is a mean over samples is compared sample by sample: most of its noise is the same
for both models and cancels. One that is not (the mean over classes of an intersection over union,
the area under a curve) is compared as a whole, and how sure that is comes from the jackknife: the
metric without one block of the samples after the other.

Source: the delete-a-group jackknife, Efron and Tibshirani, *An Introduction to the Bootstrap*,
1993, chapter 11.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_BLOCKS = 20


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a model has lost against its original, in the metric's unit; negative is a gain.

    Args:
        lost: On all samples.
        halves: On every other sample, and on the rest.
        error: Standard error of the loss on a half.
    """

    lost: float
    halves: tuple[float, float]
    error: float


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """A metric that is a mean over samples.

    Args:
        samples: One number a sample, `[n]`.
        weights: How much each sample counts, with a mean of 1; None for all alike.
    """

    samples: np.ndarray
    weights: np.ndarray | None = None

    @property
    def value(self) -> float:
        return _mean(self.samples, self.weights)

    # What is compared is of one metric, and so of one class: `Any` is that class here.
    @staticmethod
    def mean(found: Sequence[Any]) -> Scores:
        """The scores of samples of which there are several views: means of theirs."""
        return Scores(np.mean([one.samples for one in found], axis=0), found[0].weights)

    def lost_by(self, other: Any, sign: float = 1.0) -> Loss:
        """What another model has lost, `sign` being -1 where lower is better."""
        drops, weights = sign * (self.samples - other.samples), self.weights
        lost = _mean(drops, weights)
        first, second = (
            _mean(drops[part::2], None if weights is None else weights[part::2])
            if len(drops) > part
            else lost
            for part in range(2)
        )
        spread = drops if weights is None else weights * (drops - lost)
        error = float(spread.std() / np.sqrt(max(len(drops) / 2, 1)))
        return Loss(lost, (first, second), error)


@dataclasses.dataclass(frozen=True, eq=False)
class Values:
    """A metric of all samples together.

    Args:
        value: On all samples.
        halves: On every other sample, and on the rest.
        without: Without each of some blocks of the samples, `[blocks]`; empty for few samples.
    """

    value: float
    halves: tuple[float, float]
    without: np.ndarray

    @staticmethod
    def of(evaluate: Callable[[np.ndarray], float], count: int, value: float, seed: int) -> Values:
        """Evaluates a metric on parts of the samples.

        Args:
            evaluate: The metric of the samples of some rows.
            count: Number of samples.
            value: The metric of all of them.
            seed: Seed of the blocks: samples are often in the order of their classes.
        """
        rows = np.arange(count)
        if count < 4:
            return Values(value, (value, value), np.zeros(0))
        halves = evaluate(rows[::2]), evaluate(rows[1::2])
        order = np.random.default_rng([seed, count]).permutation(count)
        blocks = np.array_split(order, min(_BLOCKS, count))
        without = [evaluate(np.setdiff1d(rows, block)) for block in blocks]
        return Values(value, halves, np.array(without))

    @staticmethod
    def mean(found: Sequence[Any]) -> Values:
        """The values of samples of which there are several views: means of theirs."""
        halves = np.mean([one.halves for one in found], axis=0)
        return Values(
            float(np.mean([one.value for one in found])),
            (float(halves[0]), float(halves[1])),
            np.mean([one.without for one in found], axis=0),
        )

    def lost_by(self, other: Any, sign: float = 1.0) -> Loss:
        """What another model has lost, `sign` being -1 where lower is better."""
        first, second = (
            sign * (own - found) for own, found in zip(self.halves, other.halves, strict=True)
        )
        drops = self.without - other.without
        blocks = len(drops)
        # sqrt(blocks - 1) makes it the error on all samples, sqrt(2) that on a half of them.
        spread = np.sqrt(2.0 * (blocks - 1)) * drops.std() if blocks else 0.0
        return Loss(sign * (self.value - other.value), (first, second), float(spread))


def _mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    if weights is None:
        return float(values.mean())
    return float((weights * values).sum() / weights.sum())
