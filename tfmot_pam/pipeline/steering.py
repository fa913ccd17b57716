"""Steering: which task counts for more in the next round of a search, by what the last one lost.

All tasks of a merged network have to hold in the same round, so that what one of them has to spare
is lost unless it is moved to the others. Two hands move it: the factors of the tasks' losses, which
add up over the rounds, and how much a channel counts that a task needs, which follows what is left
of the task's tolerance. The latest round speaks, whether or not the next one goes on from it: a
refused one says which task could not bear what was removed. Cuts of a path that went on beyond what
is trained do not: where all is lost, who lost more is another question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tfmot_pam.metrics.examination import used
from tfmot_pam.pipeline.result import Round

# How far the losses' factors follow in one round, the most that a task is away from the mean, in
# units of its tolerance, and the bounds of the factors.
_RATE, _FARTHEST, _BOUNDS = 1.0, 1.0, (0.25, 4.0)
_SLACK = (0.25, 2.0)  # what is left of a tolerance, in units of it, counts as this much


def loss_weights(rounds: Sequence[Round], units: Mapping[str, float]) -> dict[str, float]:
    """The factor of each task's loss, with a mean of 1.

    omega_t <- omega_t exp(eta (lost_t / unit_t - mean)), within bounds.

    Args:
        rounds: All rounds so far, the latest last. A start says nothing: it has not been trained.
        units: What losses are measured in: `Problem.units`, what each task may lose.

    Example:
    >>> loss_weights([], {"digit": 0.01, "speaker": 0.01})
    {'digit': 1.0, 'speaker': 1.0}
    """
    if not _has_trained(rounds):
        return dict.fromkeys(units, 1.0)
    latest = rounds[-1]
    losses = used(latest.lost, units)
    mean = sum(losses.values()) / len(losses)
    low, high = _BOUNDS
    weights = {}
    for task, loss in losses.items():
        pull = math.exp(_RATE * min(max(loss - mean, -_FARTHEST), _FARTHEST))
        weights[task] = min(max(latest.task_weights[task] * pull, low), high)
    return _scaled(weights)


def urgency(rounds: Sequence[Round], units: Mapping[str, float]) -> dict[str, float]:
    """How much each task's need of a channel counts, with a mean of 1: one over what it has left.

    Args:
        rounds: All rounds so far, the latest last.
        units: What losses are measured in: `Problem.units`, what each task may lose.

    Example:
    >>> urgency([], {"digit": 0.01, "speaker": 0.01})
    {'digit': 1.0, 'speaker': 1.0}
    """
    if not _has_trained(rounds):
        return dict.fromkeys(units, 1.0)
    low, high = _SLACK
    losses = used(rounds[-1].lost, units)
    return _scaled({task: 1.0 / min(max(1.0 - loss, low), high) for task, loss in losses.items()})


def _has_trained(rounds: Sequence[Round]) -> bool:
    return bool(rounds) and rounds[-1].stage != "start"


def _scaled(weights: Mapping[str, float]) -> dict[str, float]:
    """The same proportions, with a mean of 1."""
    scale = len(weights) / sum(weights.values())
    return {task: weight * scale for task, weight in weights.items()}
