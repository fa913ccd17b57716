"""Layers that pick channels of one tensor by their positions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfmot_pam.graph.network import Layer
from tfmot_pam.graph.reader import described


def picking(positions: np.ndarray, rank: int, like: Layer) -> tuple[Layer, tuple[Any, ...]]:
    """The operation that picks channels, and what it is called with besides the tensor.

    Args:
        positions: The position of each channel on the last axis of the tensor.
        rank: Number of the tensor's axes.
        like: The layer whose name and tasks it gets.

    Returns:
        A slice where the channels lie at equal distances, else a `take`.
    """
    tensor = keras.KerasTensor((None, *[1] * (rank - 2), int(positions.max()) + 1))
    steps = np.unique(np.diff(positions))
    if len(steps) == 1 and steps[0] > 0 or len(positions) == 1:
        first, last = int(positions[0]), int(positions[-1])
        step = int(steps[0]) if len(steps) else 1
        key = (*[slice(None)] * (rank - 1), slice(first, last + 1, step if step > 1 else None))
        return _operation(tensor[key], like), (key,)
    indices = positions.tolist()
    return _operation(keras.ops.take(tensor, indices, axis=-1), like), (indices,)


def _operation(result: keras.KerasTensor, like: Layer) -> Layer:
    layer = described(result._keras_history.operation, like.name)
    return Layer(like.name, layer.cls, layer.config, {}, like.tasks)
