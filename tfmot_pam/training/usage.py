"""Usage probabilities of the combinations, and which tasks a training step serves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


def check_usage(
    usage: Mapping[Sequence[str], float], tasks: Sequence[str]
) -> dict[tuple[str, ...], float]:
    """Returns usage probabilities with every combination in model order.

    Args:
        usage: Probability of each combination; those not named are never used.
        tasks: Names of all tasks, in model order.

    Returns:
        The same probabilities, combinations as tuples in model order.

    Raises:
        TypeError: `usage` is not a dict.
        ValueError: A combination is empty, unknown or given twice, or the probabilities are
            negative or do not sum to 1.

    Example:
    >>> check_usage({("b", "a"): 0.5, ("a",): 0.5}, ["a", "b"])
    {('a', 'b'): 0.5, ('a',): 0.5}
    """
    if not isinstance(usage, Mapping):
        raise TypeError(
            f"`usage` must be a dict from combinations to probabilities, such as {{('a',): 0.5, "
            f"('a', 'b'): 0.5}}. Received: {usage!r} of type {type(usage).__name__}."
        )
    checked: dict[tuple[str, ...], float] = {}
    for key, probability in usage.items():
        named = (key,) if isinstance(key, str) else tuple(key)
        unknown = [task for task in named if task not in tasks]
        combination = tuple(task for task in tasks if task in named)
        if unknown or not combination:
            raise ValueError(
                f"`usage` names the combination {key!r}; every combination must be one or more "
                f"of the tasks {list(tasks)}. Rename or leave out {unknown or 'it'}."
            )
        if combination in checked:
            raise ValueError(
                f"`usage` has the combination {combination} twice. Give each combination once."
            )
        if not probability >= 0:
            raise ValueError(
                f"`usage` gives {key!r} the probability {probability}; it must be 0 or more."
            )
        checked[combination] = float(probability)
    total = math.fsum(checked.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(
            f"The probabilities in `usage` sum to {total:.6g}; they must sum to 1. "
            "Divide them by their sum."
        )
    return checked


@dataclass(frozen=True)
class StepTasks:
    """Which tasks each training step serves: a sampled combination, or all tasks.

    Attributes:
        tasks: Names of all tasks, in model order.
        usage: Probability of each combination; None for all alike.
        joint: Share of the steps that serve all tasks, in 0..1, spread evenly.
        seed: Seed of the sampling.
    """

    tasks: tuple[str, ...]
    usage: Mapping[tuple[str, ...], float] | None
    joint: float
    seed: int

    def weights(self, epoch: int, step: int) -> dict[str, float]:
        """Returns the weight of each task's loss in a step, 0 for tasks it does not serve.

        The weights are such that their mean over steps and tasks is 1.
        """
        if math.floor((step + 1) * self.joint) > math.floor(step * self.joint):
            served = self.tasks
        else:
            served = self._draw(np.random.default_rng([self.seed, epoch, step]))
        weight = 1.0 / self._mean_share()
        return {task: weight if task in served else 0.0 for task in self.tasks}

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
