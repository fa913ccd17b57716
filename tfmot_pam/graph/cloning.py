"""Copies of models, layers that Keras would not write out included."""

from __future__ import annotations

from typing import Any

import keras

from tfmot_pam.graph.emitter import instantiate
from tfmot_pam.graph.reader import described


def clone(model: keras.Model) -> keras.Model:
    """A model of the same class, layers and weights; users' functions stay their own.

    Args:
        model: A functional or sequential model, nested ones included. It is not changed.
    """
    inputs = None
    if not isinstance(model, keras.Sequential):
        # Keras would give the inputs new names.
        entries = [op for op in model.operations if isinstance(op, keras.layers.InputLayer)]
        names = {id(entry.output): entry.name for entry in entries}
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input(
                batch_shape=tensor.shape, dtype=tensor.dtype, name=names[id(tensor)]
            ),
            model.input,
        )
    copy = keras.models.clone_model(model, inputs, clone_function=_clone_layer, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _clone_layer(layer: Any) -> Any:
    return instantiate(described(layer, layer.name), wrap=True)
