"""Whether what checkpoints say are rounds of a search, so that it can go on from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tflite_export import json_files
from tfmot_pam.pipeline.result import Round

_ANY_NUMBERS = json_files.table(json_files.any_number)
_ROUND = json_files.record(
    {
        "number": json_files.whole,
        "stage": json_files.one_of("start", "warm", "cut", "tail", "trim", "retry"),
        "parent": json_files.maybe(json_files.whole),
        "cost": json_files.number,
        "share": json_files.number,
        "macs": json_files.number,
        # A loss can be infinite in units of a tolerance of 0, and R^2 has no lower bound.
        "accuracy": _ANY_NUMBERS,
        "lost": _ANY_NUMBERS,
        "ratio": json_files.any_number,
        "accepted": json_files.switch,
        "epochs": json_files.whole,
        "training_macs": json_files.number,
        "task_weights": _ANY_NUMBERS,
    },
    {
        "tries": json_files.whole,
        "seconds": json_files.number,
        "step_seconds": json_files.number,
    },
)


@dataclasses.dataclass(frozen=True)
class RoundCheck:
    """Raises ValueError unless states are those of the rounds of a search, in order.

    A class and not a function, since it goes to worker processes.

    Args:
        marks: What is measured of the searched network: its tasks, or heads of those with several.
    """

    marks: tuple[str, ...]

    def __call__(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Checks the last state, the ones before it having been checked."""
        *before, last = states
        _ROUND(last, "the round")
        known = {field.name for field in dataclasses.fields(Round)}
        if unknown := sorted(set(last) - known):
            raise ValueError(f"the round has the unknown entries {unknown}")
        if last["number"] != len(before):
            raise ValueError(f"round {len(before)} has the number {last['number']}")
        for name in ("accuracy", "lost", "task_weights"):
            if set(last[name]) != set(self.marks):
                raise ValueError(f"{name} is of {sorted(last[name])}, not of {list(self.marks)}")
        parent = last["parent"]
        if (parent is None) != (not before) or (last["stage"] == "start") != (not before):
            raise ValueError("the first round alone is a start, which has no parent")
        if before and parent >= len(before):
            raise ValueError(f"round {len(before)} comes of round {parent}, which is not before it")
