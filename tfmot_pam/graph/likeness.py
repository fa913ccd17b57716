"""Likeness: what of a layer says which function it computes, as texts that can be compared."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.graph.network import Node, map_tensors
from tfmot_pam.graph.rules import Call

# Configuration entries that say how a layer is trained or called, not what it computes.
_TRAINING_ONLY = frozenset({"name", "trainable", "seed", "quantization_config", "autocast"})
_TRAINING_SUFFIXES = ("_initializer", "_regularizer", "_constraint")


def structure(config: Mapping[str, Any], ignored: Collection[str | None] = ()) -> dict[str, Any]:
    """The entries of a layer's configuration that say what it computes, `ignored` ones aside.

    Of layers that are written out in it, such as what a wrapper is put around, likewise.
    """
    return {
        key: _inner_structure(value)
        for key, value in config.items()
        if key not in _TRAINING_ONLY and key not in ignored and not key.endswith(_TRAINING_SUFFIXES)
    }


def _inner_structure(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_inner_structure(entry) for entry in value]
    written_out = isinstance(value, Mapping) and isinstance(value.get("config"), Mapping)
    return {**value, "config": structure(value["config"])} if written_out else value


def arguments_of(node: Node) -> list[Any]:
    """What a node is called with, numbers and arrays included, whatever its tensors are."""
    kwargs = {key: value for key, value in node.kwargs.items() if key != "training"}
    return [map_tensors(structure, lambda tensor: "a tensor") for structure in (node.args, kwargs)]


def function_text(call: Call) -> str:
    """A text that is equal for calls that, with equal weights, compute the same function."""
    parts = [call.layer.kind, structure(call.config), arguments_of(call.node)]
    return freeze(parts, lambda found: str(id(found)))


def are_alike(calls: Sequence[Call]) -> bool:
    """Whether calls of different networks compute the same function of their inputs."""
    first, *others = calls
    return all(
        function_text(other) == function_text(first)
        and other.layer.weights.keys() == first.layer.weights.keys()
        and all(
            np.array_equal(weight, other.layer.weights[name])
            for name, weight in first.layer.weights.items()
        )
        for other in others
    )


def freeze(value: Any, function: Callable[[Any], str] | None = None) -> str:
    """A text that is equal for equal structures, arrays and users' functions included.

    Args:
        value: A structure.
        function: Tells functions apart, and objects by themselves; None takes those for equal
            that are written alike.
    """

    def describe(found: Any) -> Any:
        if isinstance(found, np.ndarray):
            return [str(found.dtype), found.shape, digest(found.tobytes().hex())]
        if hasattr(found, "__code__"):
            return (function or _code_text)(found)
        if function is None and hasattr(found, "get_config"):
            return [type(found).__qualname__, structure(found.get_config())]
        return repr(found)

    return json.dumps(value, sort_keys=True, default=describe)


def _code_text(function: Any) -> str:
    """Users' functions are alike if their code is: each network keeps its own all the same."""
    return _describe_code(function.__code__)


def _describe_code(code: types.CodeType) -> str:
    constants = [_describe_code(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, constants))


def digest(text: str) -> str:
    """A short text that differs where texts do."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]
