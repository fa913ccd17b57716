"""Pruning schedules: TFMOT's objects, or anything that is called like them."""

from __future__ import annotations

import dataclasses
from typing import Any


def ask(schedule: Any, step: int) -> tuple[bool, float]:
    """What a schedule says about a step: whether to prune, and the fraction to be removed by then.

    Raises:
        TypeError: it is no schedule: not callable, or it returns something else.
        ValueError: the fraction is not in 0..1.
    """
    try:
        due, fraction = schedule(step)
        due, fraction = bool(due), float(fraction)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "A pruning schedule is called with a step and returns (should_prune, fraction). "
            f"Received: {schedule!r} of type {type(schedule).__name__} ({error}). Pass a "
            "tfmot.sparsity.keras.PruningSchedule, such as PolynomialDecay or ConstantSparsity."
        ) from error
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(
            f"The pruning schedule {schedule!r} wants the fraction {fraction} removed at step "
            f"{step}. Expected 0 to 1. Check its sparsities."
        )
    return due, fraction


def final_fraction(schedule: Any) -> float | None:
    """The fraction that a TFMOT schedule ends with; None where a schedule does not say."""
    for name in ("final_sparsity", "target_sparsity"):
        value = getattr(schedule, name, None)
        if isinstance(value, (int, float)):
            return float(value)
    return None


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A schedule that rises as TFMOT's `PolynomialDecay` from 0 does, without importing TFMOT.

    At step s the fraction is final_sparsity (1 - (1 - s / end_step)^3) (Zhu & Gupta, 2017).

    Args:
        final_sparsity: The fraction at `end_step` and after.
        end_step: The last step at which channels are removed.
        frequency: Steps between removals.
    """

    final_sparsity: float
    end_step: int
    frequency: int = 100

    def __call__(self, step: int) -> tuple[bool, float]:
        due = step <= self.end_step and (step % self.frequency == 0 or step == self.end_step)
        left = 1.0 - min(step / self.end_step, 1.0)
        return due and step > 0, self.final_sparsity * (1.0 - left**3)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return dataclasses.asdict(self)
