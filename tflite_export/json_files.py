"""Reads the JSON that this project writes: text in, checked plain data out.

A file can have been cut off, edited or written by something else. Whatever is wrong with it comes
out as a ValueError with a reason in words, for the caller to say which file it is and what to do.
A check is a function `check(value, where)` that raises it; checks are put together like the data.

It stands here since `tfmot_pam` imports Keras, and what measures exported files must not.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, str], None]

# What is deeper or larger than this, none of our files is; Python's own limits raise other errors.
_DEEPEST, _LARGEST = 64, 2**53


def parse(content: str | bytes) -> Any:
    """Parses JSON text.

    Use it for all JSON that comes from outside. Numbers may be infinite or NaN, as Python writes
    them; `number` refuses those.

    Args:
        content: The text; bytes are UTF-8.

    Returns:
        Plain data, at most 64 levels deep, whose texts can be written again.

    Raises:
        ValueError: it is no JSON, nested too deeply, or no proper Unicode.

    Example:
    >>> parse('{"widths": [4, 8]}')
    {'widths': [4, 8]}
    """
    if not isinstance(content, (str, bytes)):
        raise ValueError(f"it is of type {type(content).__name__}, not text")
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep") from None
    except ValueError as error:  # of the syntax, the encoding, or the length of a number
        raise ValueError(f"it is no JSON text ({error})") from error
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        for entry in level:
            if isinstance(entry, str):
                text(entry, "a text in it")
        level, depth = [part for entry in level for part in _parts(entry)], depth + 1
    return value


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def read(path: str | os.PathLike[str]) -> Any:
    """Parses a JSON file; see `parse`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON text.
    """
    return parse(pathlib.Path(path).read_bytes())


def anything(value: Any, where: str) -> None:
    """Accepts all that can stand in JSON."""


def text(value: Any, where: str) -> None:
    """Accepts text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise _unexpected(value, where, "a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} is no proper Unicode: {reprlib.repr(value)}") from None


def switch(value: Any, where: str) -> None:
    """Accepts true and false."""
    if not isinstance(value, bool):
        raise _unexpected(value, where, "true or false")


def whole(value: Any, where: str) -> None:
    """Accepts whole numbers from 0 to 2^53, such as counts and positions."""
    integer(value, where)
    if value < 0:
        raise _unexpected(value, where, "a whole number from 0 to 2^53")


def integer(value: Any, where: str) -> None:
    """Accepts whole numbers from -2^53 to 2^53."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        raise _unexpected(value, where, "a whole number from -2^53 to 2^53")


def any_number(value: Any, where: str) -> None:
    """Accepts numbers, be they finite or not."""
    if not isinstance(value, float):
        integer(value, where)


def number(value: Any, where: str) -> None:
    """Accepts finite numbers."""
    any_number(value, where)
    if not math.isfinite(value):
        raise _unexpected(value, where, "a finite number")


def one_of(*values: Any) -> Check:
    """Accepts some values and nothing else."""

    def check(value: Any, where: str) -> None:
        if not any(type(value) is type(known) and value == known for known in values):
            raise _unexpected(value, where, f"one of {list(values)}")

    return check


def maybe(check: Check) -> Check:
    """Accepts null, and what another check accepts."""

    def checked(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return checked


def many(check: Check, least: int = 0) -> Check:
    """Accepts lists of at least so many entries that a check accepts."""

    def checked(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise _unexpected(value, where, f"a list of {least} entries or more")
        for index, entry in enumerate(value):
            check(entry, f"{where}[{index}]")

    return checked


def table(check: Check, least: int = 0) -> Check:
    """Accepts objects of at least so many entries, by any names, that a check accepts."""

    def checked(value: Any, where: str) -> None:
        if not isinstance(value, dict) or len(value) < least:
            raise _unexpected(value, where, f"an object of {least} entries or more")
        for name, entry in value.items():
            check(entry, f"{where}[{reprlib.repr(name)}]")

    return checked


def record(entries: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Accepts objects with certain entries; further ones do no harm.

    Args:
        entries: The check of each entry that must be there.
        optional: Those of entries that may be.

    Example:
    >>> record({"width": whole})({"width": -1}, "the layer")
    Traceback (most recent call last):
    ValueError: the layer.width is -1, expected a whole number from 0 to 2^53
    """

    def checked(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _unexpected(value, where, "an object")
        for name, check in {**entries, **(optional or {})}.items():
            if name in value:
                check(value[name], f"{where}.{name}")
            elif name in entries:
                raise ValueError(f"the entry '{name}' is missing in {where}")

    return checked


def _unexpected(value: Any, where: str, expected: str) -> ValueError:
    return ValueError(f"{where} is {reprlib.repr(value)}, expected {expected}")
