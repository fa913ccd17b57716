"""Which of many alike cases run each time, and which with the slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Parameters of a test, of which all but the first few run with the slow tests."""
    found = list(values)
    return [
        *found[:count],
        *(pytest.param(value, marks=pytest.mark.slow, id=_id(value)) for value in found[count:]),
    ]


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) else None
