"""Keras models called on inputs by name, whatever form of inputs they take, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfmot_pam import backends
from tfmot_pam.backends.epochs import whole
from tfmot_pam.graph.heads import Inputs, leaves, own_output
from tfmot_pam.graph.inputs import count, rows


def for_model(model: Any, x: Inputs) -> Any:
    """Inputs as a functional or sequential Keras model takes them.

    Args:
        model: The model; one that cannot say what it takes gets the inputs as they are.
        x: One array, or a dict by the names of inputs, of which the model may take a part.

    Raises:
        ValueError: the model has an input that is not among them.
    """
    if not isinstance(x, Mapping) or not getattr(model, "inputs", None):
        return x
    functional = model
    if isinstance(model, keras.Sequential):
        functional = keras.Model(model.inputs[0], model.outputs[0])
    if isinstance(functional.input, Mapping):
        names = list(functional.input)
    else:
        entries = (op for op in functional.operations if isinstance(op, keras.layers.InputLayer))
        names = [entry.name for entry in entries]
    missing = [name for name in names if name not in x]
    if missing:
        raise ValueError(
            f"The model '{model.name}' has the inputs {names}. Received: {list(x)}. Expected an "
            f"array for each of them. Add {missing}, or name them in keras.Input(name=...)."
        )
    if len(names) == 1 and not isinstance(functional.input, (Mapping, list, tuple)):
        return x[names[0]]
    return {name: x[name] for name in names}


def predicted(model: Any, x: Inputs, batch_size: int | None = None) -> Any:
    """What a model predicts for inputs by name, in inference mode.

    `keras.Model.predict` says the same. For one network it makes a data set, which takes longer
    than a small network's answers.

    Args:
        model: A Keras model.
        x: One array, or a dict by the names of inputs, of which the model may take a part.
        batch_size: Samples at a time; None means that they are one batch.

    Returns:
        Arrays, nested as the model's outputs are.
    """
    x, backend = for_model(model, x), backends.current()
    length, parts = count(x), backend.replicas()
    size = whole(length if batch_size is None else min(batch_size, length), parts)
    if backend.deals_out(model):
        return model.predict(x, batch_size=size, verbose=0)
    found = []
    for start in range(0, length, size):
        # All batches have one size: of another the network would be traced once more.
        batch = rows(x, np.arange(start, start + size) % length)
        own = model.predict_on_batch(batch)
        found.append(keras.tree.map_structure(lambda array, end=length - start: array[:end], own))
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *found)


def answers_by_head(outputs: Any, task: str) -> dict[str, Any]:
    """What a model of one task, or of several, answers for a task, by head."""
    return leaves(task, own_output(outputs, task))
