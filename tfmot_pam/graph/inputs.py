"""Inputs of samples: one array, or a dict of arrays by the names of several inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tfmot_pam.graph.heads import Inputs

_Inputs = TypeVar("_Inputs", bound=Inputs)


def map_inputs(function: Callable[[np.ndarray], Any], x: Inputs) -> Any:
    """What a function makes of the one array, or of each by name."""
    if isinstance(x, Mapping):
        return {name: function(array) for name, array in x.items()}
    return function(x)


def arrays_of(x: Inputs) -> list[np.ndarray]:
    """The arrays of all inputs."""
    return list(x.values()) if isinstance(x, Mapping) else [x]


def count(x: Inputs) -> int:
    """The number of samples."""
    return len(arrays_of(x)[0])


def rows(x: _Inputs, chosen: Any) -> _Inputs:
    """Some of the samples: by numbers, a mask or a slice."""
    return map_inputs(lambda array: array[chosen], x)


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Samples one after the other; all have the same inputs."""
    if isinstance(parts[0], Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(list(parts))


def as_types(x: Inputs, types: Mapping[str, str]) -> Inputs:
    """Inputs as models take them: Keras would convert them on every call.

    Args:
        x: The inputs.
        types: Types by name; of one array the first counts, inputs that are not named stay.
    """
    if isinstance(x, Mapping):
        return {n: array.astype(types.get(n, array.dtype), copy=False) for n, array in x.items()}
    return x.astype(next(iter(types.values())), copy=False)
