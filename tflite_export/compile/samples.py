"""Inputs to try files on, and inputs that show a quantiser the ranges of the activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.compile.model_inputs import inputs_of

if TYPE_CHECKING:
    import keras

_RANDOM_SAMPLES = 16
_MOST_SAMPLES = 256
_FEWEST_REPRESENTATIVE = 16


def trial_inputs(model: keras.Model, samples: Any, seed: int) -> dict[str, np.ndarray]:
    """Returns the inputs that the files are run on, by name.

    Args:
        model: A functional model with inputs of fixed size.
        samples: Real inputs of shape `(n, ...)`, of several inputs a dict by name, of which at most
            256, evenly spaced, are taken; or None for 16 random ones: standard normal numbers, for
            integer inputs 0 and 1.
        seed: Seed of the random inputs.

    Raises:
        TypeError: `samples` has another kind of numbers than the model's input.
        ValueError: `samples` is empty, has another shape, or holds NaN or infinity.
    """
    if samples is not None:
        return _checked(model, samples, "samples")
    random = np.random.default_rng(seed)
    drawn = {}
    for name, (shape, dtype) in _input_kinds(model).items():
        size = (_RANDOM_SAMPLES, *shape)
        floating = np.issubdtype(dtype, np.floating)
        values = random.standard_normal(size) if floating else random.integers(0, 2, size)
        drawn[name] = values.astype(dtype)
    return drawn


def count(samples: Mapping[str, np.ndarray]) -> int:
    """The number of samples."""
    return len(next(iter(samples.values())))


def representative_inputs(model: keras.Model, data: Any) -> dict[str, np.ndarray]:
    """Returns the inputs from which a quantiser learns the ranges of the activations, by name.

    Args:
        model: A functional model with inputs of fixed size.
        data: Real inputs of shape `(n, ...)` with n >= 16, of several inputs a dict by name, of
            which at most 256, evenly spaced, are taken.

    Raises:
        TypeError: `data` has another kind of numbers than the model's input.
        ValueError: There is no data, there is too little, it has another shape, or it holds NaN
            or infinity.
    """
    if data is None:
        raise ValueError(
            "This quantization needs `representative_data`. Received: None. Pass 100 or more "
            "inputs from the training split, as the model takes them."
        )
    checked = _checked(model, data, "representative_data")
    if count(checked) < _FEWEST_REPRESENTATIVE:
        raise ValueError(
            f"`representative_data` must hold at least {_FEWEST_REPRESENTATIVE} samples. "
            f"Received: {count(checked)}. Pass 100 or more from the training split: ranges that "
            "the quantiser has not seen are cut off."
        )
    return checked


def _input_kinds(model: keras.Model) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape without the batch and type of a model's inputs, of either Keras, by name."""
    import keras

    return {
        name: (tuple(t.shape[1:]), np.dtype(keras.backend.standardize_dtype(t.dtype)))
        for name, t in inputs_of(model).items()
    }


def _checked(model: keras.Model, data: Any, what: str) -> dict[str, np.ndarray]:
    kinds = _input_kinds(model)
    if len(kinds) == 1 and not isinstance(data, Mapping):
        ((name, kind),) = kinds.items()
        return {name: _checked_array(*kind, data, what)}
    if not isinstance(data, Mapping) or set(data) != set(kinds):
        received = list(data) if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(
            f"`{what}` must be a dict of arrays for the inputs {list(kinds)}. Received: "
            f"{received}. Pass one array for each of these names."
        )
    lengths = {name: len(data[name]) for name in kinds}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"`{what}` has different numbers of samples: {lengths}. Expected one row a sample in "
            "each. Cut them to one length."
        )
    return {
        name: _checked_array(*kind, data[name], f"{what}[{name!r}]") for name, kind in kinds.items()
    }


def _checked_array(shape: tuple[int, ...], dtype: np.dtype, data: Any, name: str) -> np.ndarray:
    given = np.asarray(data)
    if given.ndim == 0 or given.shape[1:] != shape or not len(given):
        raise ValueError(
            f"`{name}` must be an array of shape (n, {str(shape)[1:-1].rstrip(',')}) with n >= 1. "
            f"Received: shape {given.shape}. Pass inputs as the model takes them."
        )
    if not np.can_cast(given.dtype, dtype, "same_kind"):
        raise TypeError(
            f"`{name}` must be numbers that fit the model's input of type {dtype}. "
            f"Received: {given.dtype}. Convert them first."
        )
    if not np.isfinite(given).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinity. Clean them first.")
    positions = np.linspace(0, len(given) - 1, min(len(given), _MOST_SAMPLES)).round().astype(int)
    return given[positions].astype(dtype)
