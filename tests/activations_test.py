"""Activations of one Keras, built of layers of the other, against their formulas."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras

import tfmot_pam

X = np.linspace(-8.0, 8.0, 257, dtype="float32")[:, None]
FORMULAS = {
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_of_keras(name):
    x = keras.Input((1,))
    model = tfmot_pam.to_tf_keras(keras.Model(x, keras.layers.Activation(name, name="last")(x)))
    np.testing.assert_allclose(model(X), FORMULAS[name](X), atol=1e-6)
    assert model.layers[-1].name == "last"
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"tf_keras"}


def test_hard_sigmoid_of_tf_keras():
    x = tf_keras.Input((1,))
    layer = tf_keras.layers.Activation("hard_sigmoid", name="last")
    model = tfmot_pam.from_tf_keras(tf_keras.Model(x, layer(x)))
    np.testing.assert_allclose(model(X), np.clip(0.2 * X + 0.5, 0, 1), atol=1e-6)
    assert model.layers[-1].name == "last"


def test_activations_without_an_equal():
    x = keras.Input((1,))
    layer = keras.layers.Dense(2, activation="squareplus", name="odd")
    with pytest.raises(ValueError, match="'odd' of class Dense.*'squareplus' has no equal in tf_k"):
        tfmot_pam.to_tf_keras(keras.Model(x, layer(x)))
