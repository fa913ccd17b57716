"""The arguments of `compress`, checked."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Request:
    """What a compression shall reach, and how fast it goes there.

    Args:
        tolerances: The accuracy that each task may lose.
        target: The share of the originals' computation to stop at, or None.
        step: The share of the computation that a round removes at first.
        epochs: Epochs of fine-tuning a round.
    """

    tolerances: Mapping[str, float]
    target: float | None
    step: float
    epochs: int


def check_request(
    tasks: Sequence[str],
    max_accuracy_drop: float | Mapping[str, float],
    target: float | None,
    step: float,
    epochs: int,
) -> Request:
    """The request, after all numbers were found to be in range."""
    if not isinstance(max_accuracy_drop, Mapping):
        max_accuracy_drop = dict.fromkeys(tasks, max_accuracy_drop)
    unknown = [task for task in max_accuracy_drop if task not in tasks]
    missing = [task for task in tasks if task not in max_accuracy_drop]
    if unknown or missing:
        raise ValueError(
            f"`max_accuracy_drop` is for the unknown tasks {unknown} and lacks {missing}. The "
            f"tasks are {list(tasks)}. Give one number for all, or one for each of these."
        )
    for task, drop in max_accuracy_drop.items():
        _check_share(f"max_accuracy_drop of {task!r}", drop, least_allowed=True)
    if target is not None:
        _check_share("target", target)
    _check_share("step", step)
    if not isinstance(epochs, numbers.Integral) or epochs < 1:
        raise ValueError(f"`epochs` must be a whole number of at least 1. Received: {epochs!r}.")
    tolerances = {task: float(max_accuracy_drop[task]) for task in tasks}
    return Request(tolerances, target, float(step), int(epochs))


def _check_share(name: str, value: Any, least_allowed: bool = False) -> None:
    wanted = "0 <= x < 1" if least_allowed else "0 < x < 1"
    if not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number. Received: {value!r}. Expected {wanted}.")
    if not 0 <= value < 1 or (value == 0 and not least_allowed):
        raise ValueError(
            f"`{name}` is a share: expected {wanted}. Received: {value!r}. Divide percentages by "
            "100."
        )
