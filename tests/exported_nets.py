"""Small models for the export."""

import keras
from keras import layers


def head(units, name=None):
    return layers.Dense(units, bias_initializer="random_normal", name=name)


def small_model(**options):
    signal = keras.Input((6,), name="signal", **options)
    hidden = layers.Dense(5, activation="relu")(signal)
    return keras.Model(signal, {task: head(3)(hidden) for task in ("digit", "speaker")})
