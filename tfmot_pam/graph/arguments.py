"""Numbers that users pass: checked where they come in, not where they are used."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

_SEEDS = 2**32  # those that Keras and NumPy's older generators take


def check_number(
    name: str, value: Any, expected: str, holds: Callable[[Any], bool], advice: str
) -> None:
    """Raises unless a value is a number, and one of those that are expected.

    Args:
        name: The argument's name.
        value: What came.
        expected: What it must be, in words, such as "0 <= rho < 1".
        holds: Whether a number is that; NaN must not be.
        advice: What to do, a sentence.

    Raises:
        TypeError: it is no number.
        ValueError: it is another one.

    Example:
    >>> check_number("rho", 2.0, "0 <= rho < 1", lambda rho: 0 <= rho < 1, "Choose 0.05.")
    Traceback (most recent call last):
    ValueError: Received rho=2.0. Expected 0 <= rho < 1. Choose 0.05.
    """
    if not isinstance(value, numbers.Real):
        raise TypeError(
            f"Received {name}={value!r} of type {type(value).__name__}. Expected a number, "
            f"{expected}. {advice}"
        )
    if not holds(value):
        raise ValueError(f"Received {name}={value!r}. Expected {expected}. {advice}")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raises unless a value is a whole number of at least so much.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is a smaller one.
    """
    if not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be a whole number of at least {least}. Received: {value!r} of type "
            f"{type(value).__name__}. Round it, or leave it out for the default."
        )
    if value < least:
        raise ValueError(
            f"`{name}` must be at least {least}. Received: {value!r}. Leave it out for the default."
        )


def check_seed(seed: Any) -> None:
    """Raises unless a seed is one that every random generator takes.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is negative or too large.
    """
    expected = "a whole number from 0 to 2^32 - 1"
    if not isinstance(seed, numbers.Integral):
        raise TypeError(
            f"`seed` must be {expected}. Received: {seed!r} of type {type(seed).__name__}. Pass "
            "such as 0."
        )
    if not 0 <= int(seed) < _SEEDS:
        raise ValueError(f"`seed` must be {expected}. Received: {seed!r}. Pass such as 0.")
