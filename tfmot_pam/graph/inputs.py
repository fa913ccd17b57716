"""Inputs of samples: one array, or a dict of arrays by the names of several inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tfmot_pam.graph.heads import Inputs

_Inputs = TypeVar("_Inputs", bound=Inputs)


class Rows:
    """Rows of arrays, one after the other, which are read when they are asked for.

    Takes the place of an array of inputs that is read batch by batch: of the user's arrays nothing
    is copied, and memory-mapped ones stay where they are.

    Args:
        arrays: What the rows are of, by their numbers through all of them.
        chosen: The numbers.
        dtype: The type that they are converted to; None leaves that of the first array.

    Example:
    >>> import numpy as np
    >>> rows = Rows([np.arange(4), np.arange(4) * 10], np.array([1, 6]), "float32")
    >>> len(rows), rows[:1], rows[np.array([1, 0])]
    (2, array([1.], dtype=float32), array([20.,  1.], dtype=float32))
    """

    def __init__(self, arrays: Sequence[np.ndarray], chosen: np.ndarray, dtype: Any = None):
        self._arrays, self._chosen = list(arrays), chosen
        self.dtype = np.dtype(self._arrays[0].dtype if dtype is None else dtype)
        self._starts = np.cumsum([0, *map(len, self._arrays)])

    @classmethod
    def all_of(cls, array: np.ndarray | Rows) -> Rows:
        """All rows of an array."""
        return array if isinstance(array, Rows) else cls([array], np.arange(len(array)))

    @classmethod
    def joined(cls, parts: Sequence[np.ndarray | Rows]) -> Rows:
        """One after the other; all have the same type."""
        found = [cls.all_of(part) for part in parts]
        lengths = [part._starts[-1] for part in found]
        starts = np.cumsum([0, *lengths[:-1]])
        chosen = [part._chosen + start for part, start in zip(found, starts, strict=True)]
        arrays = [array for part in found for array in part._arrays]
        return cls(arrays, np.concatenate(chosen), found[0].dtype)

    def astype(self, dtype: Any, copy: bool = True) -> Rows:
        """The same rows in another type; nothing is copied, whatever `copy` says."""
        return Rows(self._arrays, self._chosen, dtype)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, key: Any) -> np.ndarray:
        wanted = self._chosen[key]
        if len(self._arrays) == 1:
            return self._arrays[0][wanted].astype(self.dtype, copy=False)
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        result = np.empty((len(wanted), *self._arrays[0].shape[1:]), self.dtype)
        for owner in np.unique(owners).tolist():
            own = owners == owner
            result[own] = self._arrays[owner][wanted[own] - self._starts[owner]]
        return result


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


def lazy_rows(x: Inputs, chosen: np.ndarray) -> Inputs:
    """Some of the samples by their numbers, read when they are asked for."""
    return map_inputs(lambda array: Rows([array], chosen), x)


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Samples one after the other; all have the same inputs."""
    if isinstance(parts[0], Mapping):
        return {name: _joined_arrays([part[name] for part in parts]) for name in parts[0]}
    return _joined_arrays(parts)


def _joined_arrays(parts: Sequence[Any]) -> Any:
    if any(isinstance(part, Rows) for part in parts):
        return Rows.joined(parts)
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
