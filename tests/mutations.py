"""Spoils JSON texts at random, in all the ways that files get spoilt."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

# Tokens that json.dumps does not write by itself.
_TOKENS = {"@huge": "1e400", "@long": "7" * 5000, "@low": "-1e400", "@minus": "-0.0"}
_VALUES: tuple[Any, ...] = (
    *("@huge", "@long", "@low", "@minus", float("nan"), float("inf"), 10**30, -(10**30)),
    *(2**31, 2**63, 2**64, -1, 0, 1, 3, 0.5, 1e308, True, False, None, "", "7", "x", "a", "b"),
    *("\ud800", "\0", "../../etc/passwd", "__class__", "ä\u202e", "x" * 100_000),
    *([], {}, [[]], [None], ["a"], [0, 0], {"": 0}, {"a": {"a": []}}, [1e400], "%s{}$(id)"),
)


def mutated(text: str, rng: np.random.Generator) -> bytes:
    """The text with one to three changes of its values, or spoilt as a text."""
    if rng.random() < 0.2:
        return _as_text(text, rng)
    data = json.loads(text)
    for _ in range(rng.integers(1, 4)):
        data = _changed(data, rng)
    found = json.dumps(data)
    for name, token in _TOKENS.items():
        found = found.replace(f'"{name}"', token)
    return found.encode()


def _changed(data: Any, rng: np.random.Generator) -> Any:
    data = copy.deepcopy(data)
    places = _places(data)
    if not places:
        return data
    holder, key = places[rng.integers(len(places))]
    change: Callable[..., None] = _CHANGES[rng.integers(len(_CHANGES))]
    change(holder, key, rng)
    return data


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All entries of a tree, as their holders and keys."""
    if isinstance(value, (dict, list)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        return [place for key in keys for place in ((value, key), *_places(value[key]))]
    return []


def _replace(holder: Any, key: Any, rng: np.random.Generator) -> None:
    holder[key] = copy.deepcopy(_VALUES[rng.integers(len(_VALUES))])


def _delete(holder: Any, key: Any, rng: np.random.Generator) -> None:
    del holder[key]


def _add(holder: Any, key: Any, rng: np.random.Generator) -> None:
    value = copy.deepcopy(_VALUES[rng.integers(len(_VALUES))])
    if isinstance(holder, dict):
        holder[f"{key}{rng.integers(9)}"] = value
    else:
        holder.insert(key, value)


def _double(holder: Any, key: Any, rng: np.random.Generator) -> None:
    value = copy.deepcopy(holder[key])
    if isinstance(holder, dict):
        holder[rng.choice(["a", "b", "tasks", f"{key}x"])] = value
    else:
        holder.append(value)


def _nest(holder: Any, key: Any, rng: np.random.Generator) -> None:
    value = holder[key]
    for _ in range(rng.choice([1, 2, 60, 100])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    holder[key] = value


def _shift(holder: Any, key: Any, rng: np.random.Generator) -> None:
    value = holder[key]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = value + [-1, 1, 0.5, 10**9, -(10**9), 2**62][rng.integers(6)]
    else:
        _replace(holder, key, rng)


_CHANGES = (_replace, _replace, _delete, _add, _double, _nest, _shift)


def _as_text(text: str, rng: np.random.Generator) -> bytes:
    content = text.encode()
    place = int(rng.integers(len(content)))
    return [
        lambda: content[:place],
        lambda: content[place:],
        lambda: content[:place] + bytes([rng.integers(256)]) + content[place + 1 :],
        lambda: content[:place] + rng.bytes(8) + content[place:],
        lambda: content[:place] + content[place // 2 :],
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-16-le"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: text.replace("a", "\xe4").encode("latin-1"),
        lambda: b"[" * 100_000,
        lambda: b'{"format":' * 50_000 + b"1" + b"}" * 50_000,
        lambda: b"",
        lambda: rng.bytes(200),
        lambda: b"\x80\x04}q\x00.",
    ][rng.integers(14)]()
