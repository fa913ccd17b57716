"""How often each combination of tasks runs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfmot_pam.graph.selection import all_combinations


def check_usage(usage: Mapping[Any, float], tasks: Sequence[str]) -> dict[tuple[str, ...], float]:
    """Returns usage probabilities with every combination in model order.

    Args:
        usage: Probability of each combination; those not named are never used.
        tasks: Names of all tasks, in model order.

    Returns:
        The same probabilities, combinations as tuples in model order.

    Raises:
        TypeError: `usage` is not a dict from combinations to numbers.
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
        if not isinstance(key, Iterable) or not isinstance(probability, numbers.Real):
            raise TypeError(
                f"`usage` must give combinations of tasks a number each. Received: {probability!r} "
                f"for {key!r}. Pass such as {{('a',): 0.5, ('a', 'b'): 0.5}}."
            )
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


def usage_probabilities(
    usage: Mapping[Any, float] | None, tasks: Sequence[str]
) -> dict[tuple[str, ...], float]:
    """The probability of every combination that runs; None takes all combinations alike."""
    if usage is not None:
        return check_usage(usage, tasks)
    everything = all_combinations(tasks)
    return dict.fromkeys(everything, 1.0 / len(everything))
