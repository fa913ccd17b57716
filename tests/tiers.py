"""Which of many alike cases run each time, and which with the slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def regular(values: Iterable[Any], count: int = 1, *, several: bool = False) -> list[Any]:
    """Parameters of a test, of which all but the first few run with the slow tests.

    Args:
        values: The parameters.
        count: How many run each time.
        several: Whether each is a tuple, of the values of several arguments.
    """
    found = list(values)
    return [*found[:count], *(_slow(value, several) for value in found[count:])]


def _slow(value: Any, several: bool) -> Any:
    name = value if isinstance(value, str) else None
    return pytest.param(*(value if several else (value,)), marks=pytest.mark.slow, id=name)
