"""Networks of two tasks, schedules, and training with gates."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

import tfmot_pam
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

tfmot = import_tfmot()
schedules = tfmot.sparsity.keras


def constant(fraction=0.5, begin=3, frequency=1):
    return schedules.ConstantSparsity(fraction, begin_step=begin, frequency=frequency)


def two_heads(width=8):
    """A shared group, one group for each of the two tasks, and their heads."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="vector")
    shared = tfmot_pam.TaskGroup(layers.Dense(width, "relu", name="shared"), ("a", "b"))(x)
    heads = {}
    for task in ("a", "b"):
        own = tfmot_pam.TaskGroup(layers.Dense(width, "relu", name=f"own_{task}"), (task,))(x)
        heads[task] = layers.Dense(3, name=task)(layers.Concatenate()([shared, own]))
    return keras.Model(x, heads)


def data(tasks=("a", "b"), rows=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x, {task: (x @ rng.normal(size=(6, 3))).astype("float32") for task in tasks}


def trained(gated, epochs=1, callbacks=None):
    x, y = data()
    gated.compile(keras.optimizers.SGD(0.01), {"a": "mse", "b": "mse"})
    callbacks = [tfmot_pam.UpdatePruningStep()] if callbacks is None else callbacks
    gated.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks)
    return gated


def widths(model):
    return {layer.name: layer.units for layer in dense_layers(model)}


def dense_layers(model):
    found = [getattr(layer, "layer", layer) for layer in model.layers]
    return [layer for layer in found if isinstance(layer, layers.Dense)]
