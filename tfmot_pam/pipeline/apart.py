"""Which tasks a merged network had better not serve."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tfmot_pam.graph.selection import all_combinations
from tfmot_pam.pipeline.price import TaskSet, expected_cost
from tfmot_pam.pruning.costs import Usage


def tasks_apart(alone: Mapping[str, float], usage: Usage | None = None) -> tuple[str, ...]:
    """The tasks that need so much less, or more, that they are cheaper beside a merged network.

    A merged network costs about as much as the dearest of its tasks does alone, whichever of them
    run. A task that needs a twentieth of that pays for the others wherever it runs without them,
    and saves next to nothing where it runs with them. At least two tasks are left to be merged:
    neighbours in the order of their costs.

    Args:
        alone: What the network of each task costs alone.
        usage: Probability of each combination; None for all alike.

    Example:
    >>> tasks_apart({"activity": 0.05, "subject": 0.6, "height": 1.1})
    ('activity',)
    >>> tasks_apart({"article": 0.2, "gender": 0.3, "colour": 0.3})
    ()
    """
    order = sorted(alone, key=lambda task: alone[task])
    choices = [frozenset[str]()] + [
        frozenset(order[:first] + order[last:])
        for first in range(len(order) - 1)
        for last in range(first + 2, len(order) + 1)
    ]
    combinations = all_combinations(tuple(alone))

    def costs(apart: frozenset[str]) -> dict[TaskSet, float]:
        together = max(alone[task] for task in alone if task not in apart)
        return {
            chosen: math.fsum(alone[task] for task in chosen if task in apart)
            + (0.0 if apart.issuperset(chosen) else together)
            for chosen in combinations
        }

    best = min(choices, key=lambda apart: expected_cost(costs(apart), usage))
    return tuple(task for task in alone if task in best)
