"""Layers and operations that are read into networks and written again compute the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.round_trips import assert_round_trip, data_for
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.network import prune_to
from tfmot_pam.graph.reader import read

FACTOR = 3.0


class Scale(layers.Layer):
    """A custom layer that is registered nowhere."""

    def __init__(self, start: float, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale + self.start

    def get_config(self):
        return {**super().get_config(), "start": self.start}


class TwoInputs(layers.Layer):
    """A custom layer that is called with two arguments and has two outputs."""

    def call(self, first, second=None):
        return first + second, first - second


def half_positive(x):
    """An activation function that is registered nowhere."""
    return ops.maximum(x, 0.0) * 0.5


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: 2.0 * x - 1.0,
        lambda x: 1.0 - x,
        lambda x: x / np.array([1.0, 2.0, 3.0], "float32"),
        lambda x: ops.concatenate([x, x * x], axis=-1),
        lambda x: x[:, 1:, ..., 0],
        lambda x: ops.mean(x, axis=[1, 2], keepdims=True),
        lambda x: ops.reshape(x, (-1, 48)),
        lambda x: ops.transpose(x, (0, 2, 1, 3)),
        lambda x: ops.where(x > 0, x, 0.1),
        lambda x: ops.stack(ops.split(x, 3, axis=-1)[::-1], axis=1),
        lambda x: ops.relu6(x + 3.0) / 6.0,
        lambda x: x @ np.ones((3, 2), "float32"),
    ],
)
def test_free_operations(operation):
    x = keras.Input((4, 4, 3))
    assert_round_trip(keras.Model(x, operation(x)))


def test_lambda_that_refers_to_a_global_and_a_closure():
    offset = 2.0
    x = keras.Input((3,))
    y = layers.Lambda(lambda v: v * FACTOR + offset)(x)
    y = layers.Lambda(lambda v, power: v**power, arguments={"power": 2})(y)
    assert_round_trip(keras.Model(x, y))


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("function", [half_positive, lambda v: v * 0.1], ids=["named", "lambda"])
def test_unregistered_activation_functions(function):
    x = keras.Input((5, 3))
    y = layers.Dense(4, activation=function)(x)
    y = layers.Activation(function)(y)
    y = layers.LSTM(3, activation=function)(y)
    assert_round_trip(keras.Model(x, y))


def test_activation_functions_with_a_name_that_keras_has():
    def relu(v):
        return ops.tanh(v) * 0.5

    x = keras.Input((3,))
    assert_round_trip(keras.Model(x, layers.Dense(4, activation=relu)(x)))


def test_activation_layers_as_activations():
    x = keras.Input((3,))
    assert_round_trip(keras.Model(x, layers.Dense(4, activation=layers.LeakyReLU(0.3))(x)))


def test_unregistered_custom_layers():
    x = keras.Input((4, 3))
    y = Scale(0.5)(layers.Dense(3)(x))
    first, second = TwoInputs()(y, second=layers.ReLU()(y))
    assert_round_trip(keras.Model(x, layers.Add()([first, second])))


def test_custom_layer_whose_config_is_incomplete():
    class Odd(layers.Layer):
        def __init__(self, bias=False, **kwargs):
            super().__init__(**kwargs)
            self.bias = bias

        def build(self, shape):
            if self.bias:
                self.shift = self.add_weight(shape=(shape[-1],), name="shift")

        def call(self, inputs):
            return inputs + self.shift if self.bias else inputs

        def get_config(self):
            return {"name": self.name}

    x = keras.Input((3,))
    network = read(keras.Model(x, Odd(bias=True, name="odd")(x)))
    with pytest.raises(ValueError, match=r"'odd'.*\['shift'\].*return every argument"):
        emit(network)


def test_adapted_normalization():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(32, 4)).astype("float32"))
    x = keras.Input((4,))
    model = keras.Model(x, layer(x))
    emitted = emit(read(model))
    data = data_for(model)
    np.testing.assert_allclose(emitted(data), model(data), atol=1e-6)
    assert abs(np.array(emitted(data)).mean()) > 0.5


def test_composite_layers():
    x = keras.Input((5, 4))
    y = layers.Bidirectional(layers.GRU(3, return_sequences=True))(x)
    y = layers.MultiHeadAttention(2, 3)(y, y)
    y = layers.TimeDistributed(layers.Dense(2))(y)
    assert_round_trip(keras.Model(x, layers.LayerNormalization()(y)))


def test_recurrent_layer_with_an_initial_state():
    x = keras.Input((5, 4))
    found, *state = layers.LSTM(3, return_sequences=True, return_state=True)(x)
    assert_round_trip(keras.Model(x, layers.LSTM(3)(found, initial_state=state)))


def test_mixed_precision():
    x = keras.Input((6,))
    y = layers.Dense(4, dtype="mixed_float16")(x)
    network = read(keras.Model(x, layers.Dense(2, dtype="float32")(y)))
    emitted = emit(network)
    assert [layer.compute_dtype for layer in emitted.layers[1:]] == ["float16", "float32"]


def test_frozen_layers_stay_frozen():
    x = keras.Input((3,))
    frozen = layers.Dense(2, trainable=False, name="frozen")
    emitted = emit(read(keras.Model(x, layers.Dense(2)(frozen(x)))))
    assert not emitted.get_layer("frozen").trainable
    assert len(emitted.trainable_weights) == 2


def test_pruned_networks_keep_what_their_outputs_need():
    x = keras.Input((4,))
    h = layers.Dense(3, name="trunk")(x)
    heads = {"a": layers.Dense(2, name="a")(h), "b": layers.Dense(2, name="b")(h)}
    model = keras.Model(x, heads)
    network = read(model)
    part = prune_to(network, {"b": network.outputs["b"]})
    assert set(part.layers) == {network.inputs[0].node, "trunk", "b"}
    data = data_for(model)
    np.testing.assert_allclose(emit(part)(data)["b"], model(data)["b"])
