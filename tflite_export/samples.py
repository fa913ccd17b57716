"""Inputs to try files on, and inputs that show a quantiser the ranges of the activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

_RANDOM_SAMPLES = 16
_MOST_SAMPLES = 256
_FEWEST_REPRESENTATIVE = 16


def trial_inputs(model: keras.Model, samples: Any, seed: int) -> np.ndarray:
    """Returns the inputs that the files are run on.

    Args:
        model: A functional model with one input of fixed size.
        samples: Real inputs of shape `(n, ...)`, of which at most 256, evenly spaced, are taken;
            or None for 16 random ones: standard normal numbers, for integer inputs 0 and 1.
        seed: Seed of the random inputs.

    Raises:
        TypeError: `samples` has another kind of numbers than the model's input.
        ValueError: `samples` is empty, has another shape, or holds NaN or infinity.
    """
    if samples is not None:
        return _checked(model, samples, "samples")
    shape, dtype = _input_kind(model)
    random = np.random.default_rng(seed)
    size = (_RANDOM_SAMPLES, *shape)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(size).astype(dtype)
    return random.integers(0, 2, size).astype(dtype)


def representative_inputs(model: keras.Model, data: Any) -> np.ndarray:
    """Returns the inputs from which a quantiser learns the ranges of the activations.

    Args:
        model: A functional model with one input of fixed size.
        data: Real inputs of shape `(n, ...)` with n >= 16, of which at most 256, evenly spaced,
            are taken.

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
    if len(checked) < _FEWEST_REPRESENTATIVE:
        raise ValueError(
            f"`representative_data` must hold at least {_FEWEST_REPRESENTATIVE} samples. "
            f"Received: {len(checked)}. Pass 100 or more from the training split: ranges that "
            "the quantiser has not seen are cut off."
        )
    return checked


def _input_kind(model: keras.Model) -> tuple[tuple[int, ...], np.dtype]:
    """Shape without the batch and type of a model's input, of either Keras."""
    import keras

    tensor = model.inputs[0]
    return tuple(tensor.shape[1:]), np.dtype(keras.backend.standardize_dtype(tensor.dtype))


def _checked(model: keras.Model, data: Any, name: str) -> np.ndarray:
    shape, dtype = _input_kind(model)
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
