"""Inputs to calibrate on when there is no data, drawn to match the model's first layer."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import ArrayLike

from tfmot_pam.graph.network import Size


def synthetic_inputs(
    input_shape: Sequence[Size],
    *,
    samples: int = 1024,
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
    dtype: str = "float32",
    seed: int = 0,
) -> np.ndarray:
    """Draws independent normal inputs with a given mean and standard deviation.

    Use it for `data=None`, with the mean and deviation that `input_statistics` finds. What is
    measured on such inputs is a makeshift: real data is better in every case.

    Args:
        input_shape: Shape of one input without the batch dimension, all sizes known.
        samples: Number of inputs.
        mean: Mean, a number or an array that broadcasts against `[samples, *input_shape]`.
        std: Standard deviation, likewise.
        dtype: Type of the inputs; for integers, values are rounded and clipped to its range.
        seed: Seed of the draw.

    Returns:
        Inputs of shape `[samples, *input_shape]`.

    Raises:
        ValueError: A size of `input_shape` is None, or `samples` is less than 1.

    Example:
    >>> synthetic_inputs((8, 8, 3), samples=4, mean=127.5, std=64.0).shape
    (4, 8, 8, 3)
    """
    if None in tuple(input_shape):
        raise ValueError(
            f"Synthetic inputs need every size of the input shape. Received: "
            f"{tuple(input_shape)}. Pass data, or build the models with a fixed input shape."
        )
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1. Received: {samples}.")
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((samples, *input_shape), dtype=np.float32)
    inputs = inputs * np.asarray(std, "float32") + np.asarray(mean, "float32")
    if np.issubdtype(np.dtype(dtype), np.integer):
        limits = np.iinfo(dtype)
        inputs = np.clip(np.round(inputs), limits.min, limits.max)
    return inputs.astype(dtype)


def input_statistics(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Guesses mean and standard deviation of a model's inputs from its first layers.

    The leading Rescaling, Normalization and BatchNormalization layers are inverted: what leaves a
    normalisation is standard normal, and what leaves a Rescaling alone is uniform on [0, 1] (no
    offset) or on [-1, 1] (with one). Without such layers the inputs are standard normal.

    Args:
        model: A built functional or sequential model.

    Returns:
        Mean and standard deviation, arrays that broadcast against a batch of inputs.

    Example:
    >>> import keras
    >>> model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Rescaling(1 / 255)])
    >>> [round(float(value), 1) for value in input_statistics(model)]
    [127.5, 73.6]
    """
    chain = _leading_layers(model)
    mean, std = 0.0, 1.0
    if chain and all(isinstance(layer, keras.layers.Rescaling) for layer in chain):
        mean, half_range = (0.0, 1.0) if np.any(chain[-1].offset) else (0.5, 0.5)
        std = half_range / np.sqrt(3.0)
    for layer in reversed(chain):
        if isinstance(layer, keras.layers.Rescaling):
            scale = np.asarray(layer.scale, "float64")
            mean, std = (mean - np.asarray(layer.offset)) / scale, std / np.abs(scale)
        else:
            own_mean, own_variance = _moments(layer)
            own_std = np.sqrt(own_variance)
            mean, std = mean * own_std + own_mean, std * own_std
    return np.asarray(mean), np.asarray(std)


def _moments(layer: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    batch_norm = isinstance(layer, keras.layers.BatchNormalization)
    mean, variance = (
        (layer.moving_mean, layer.moving_variance) if batch_norm else (layer.mean, layer.variance)
    )
    as_array = keras.ops.convert_to_numpy
    return as_array(mean).astype("float64"), as_array(variance).astype("float64")


def _leading_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the normalising layers at the model's input, nested models looked into."""
    kinds = (
        keras.layers.Rescaling,
        keras.layers.Normalization,
        keras.layers.BatchNormalization,
    )
    chain: list[keras.layers.Layer] = []
    for layer in model.layers:
        while isinstance(layer, keras.layers.Wrapper):
            layer = layer.layer
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            return chain + _leading_layers(layer)
        if not isinstance(layer, kinds):
            break
        chain.append(layer)
    return chain
