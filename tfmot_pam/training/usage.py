"""Which tasks a training step serves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfmot_pam.graph.heads import heads_of


@dataclass(frozen=True)
class StepTasks:
    """Which tasks each training step serves: a sampled combination, or all tasks.

    Attributes:
        tasks: Names of all tasks, in model order, or the heads of each.
        usage: Probability of each combination; None for all alike.
        joint: Share of the steps that serve all tasks, in 0..1, spread evenly.
        seed: Seed of the sampling.
        factors: Factor of each head's loss; None for 1.
    """

    tasks: tuple[str, ...] | Mapping[str, Sequence[str]]
    usage: Mapping[tuple[str, ...], float] | None
    joint: float
    seed: int
    factors: Mapping[str, float] | None = None

    def weights(self, epoch: int, step: int) -> dict[str, float]:
        """Returns the weight of each head's loss in a step, 0 for tasks it does not serve.

        Without factors the weights are such that their mean over steps and tasks is 1.
        """
        if math.floor((step + 1) * self.joint) > math.floor(step * self.joint):
            served = tuple(self.tasks)
        else:
            served = self._draw(np.random.default_rng([self.seed, epoch, step]))
        weight = 1.0 / self._mean_share()
        factors = self.factors or {}
        return {
            head: weight * factors.get(head, 1.0) if task in served else 0.0
            for task, heads in heads_of(self.tasks).items()
            for head in heads
        }

    def _draw(self, rng: np.random.Generator) -> tuple[str, ...]:
        if self.usage is not None:
            probabilities = np.array(list(self.usage.values()))
            chosen = rng.choice(len(probabilities), p=probabilities / probabilities.sum())
            return list(self.usage)[chosen]
        while True:
            # Uniform over the non-empty subsets, without listing all 2^T - 1 of them.
            served = tuple(task for task in self.tasks if rng.random() < 0.5)
            if served:
                return served

    def _mean_share(self) -> float:
        count = len(self.tasks)
        if self.usage is None:
            sampled = 2 ** (count - 1) / (2**count - 1)
        else:
            sampled = sum(p * len(combination) for combination, p in self.usage.items()) / count
        return self.joint + (1.0 - self.joint) * sampled
