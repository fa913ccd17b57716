"""Free operations in both Kerases."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import ops

from tests.crossings import assert_crosses, cross, layer_names

KERAS = {
    "arithmetic": lambda x: (2.0 * x - 1.0) / 3.0 + x * x - (1.0 - x) ** 2,
    "constants": lambda x: x / np.array([1.0, 2.0, 3.0], "float32"),
    "matmul": lambda x: x @ np.ones((3, 2), "float32"),
    "concatenate": lambda x: ops.concatenate([x, x * x], axis=-1),
    "slice": lambda x: x[:, 1:, ..., 0],
    "mean": lambda x: ops.mean(x, axis=[1, 2], keepdims=True) + ops.max(x, axis=1, keepdims=True),
    "sum": lambda x: ops.sum(x, axis=-1) - ops.min(x, axis=-1),
    "reshape": lambda x: ops.reshape(x, (-1, 48)),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "where": lambda x: ops.where(x > 0, x, 0.1),
    "stack": lambda x: ops.stack([x, x + 1.0], axis=1),
    "split": lambda x: ops.split(x, 3, axis=-1)[1],
    "places": lambda x: ops.split(x, [1, 2], axis=-1)[2],
    "dims": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "pad": lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 2], [0, 0]], constant_values=2.0),
    "reflect": lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]], mode="reflect"),
    "clip": lambda x: ops.clip(x, -0.5, 0.5) + ops.maximum(x, 0.1) - ops.minimum(x, 0.2),
    "unary": lambda x: ops.sqrt(ops.square(x)) + ops.exp(-ops.abs(x)) * ops.tanh(x),
    "cast": lambda x: ops.cast(ops.cast(x, "int32"), "float32"),
    "relu6": lambda x: ops.relu6(x + 3.0) / 6.0,
    "activations": lambda x: ops.silu(x) + ops.leaky_relu(x, 0.3) + ops.sigmoid(x) + ops.elu(x),
    "softmax": lambda x: ops.softmax(x, axis=1) + ops.softplus(x),
    "hard": lambda x: ops.hard_sigmoid(x) + ops.hard_silu(x),
}
TF_KERAS = {
    "arithmetic": lambda x: (2.0 * x - 1.0) / 3.0 + x * x - (1.0 - x) ** 2,
    "constants": lambda x: x / np.array([1.0, 2.0, 3.0], "float32"),
    "matmul": lambda x: x @ tf.ones((3, 2)),
    "concat": lambda x: tf.concat([x, x * x], -1),
    "slice": lambda x: x[:, 1:, ..., 0],
    "mean": lambda x: tf.reduce_mean(x, [1, 2], keepdims=True) + tf.reduce_max(x, 1, True),
    "reshape": lambda x: tf.transpose(tf.reshape(x, (-1, 48))),
    "transpose": lambda x: tf.transpose(x, (0, 2, 1, 3)),
    "where": lambda x: tf.where(x > 0, x, 0.1),
    "stack": lambda x: tf.stack([x, x + 1.0], axis=1),
    "split": lambda x: tf.split(x, 3, -1)[1],
    "sizes": lambda x: tf.split(x, [1, 2], -1)[1],
    "dims": lambda x: tf.squeeze(tf.expand_dims(x, 1), 1),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 2], [0, 0]], constant_values=2.0),
    "reflect": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]], mode="REFLECT"),
    "clip": lambda x: tf.clip_by_value(x, -0.5, 0.5) + tf.maximum(x, 0.1) - tf.minimum(x, 0.2),
    "unary": lambda x: tf.sqrt(tf.square(x)) + tf.exp(-tf.abs(x)) * tf.nn.tanh(x),
    "cast": lambda x: tf.cast(tf.cast(x, tf.int32), tf.float32),
    "relu6": lambda x: tf.nn.relu6(x + 3.0) / 6.0,
    "activations": lambda x: tf.nn.silu(x) + tf.nn.leaky_relu(x, 0.3) + tf.nn.elu(x),
    "functions": lambda x: tf_keras.activations.hard_sigmoid(x) + tf_keras.activations.relu(x),
    "softmax": lambda x: tf.nn.softmax(x, axis=1) + tf.nn.softplus(x),
}


@pytest.mark.parametrize("operation", KERAS.values(), ids=KERAS.keys())
def test_operations_of_keras(operation):
    x = keras.Input((4, 4, 3))
    assert_crosses(keras.Model(x, operation(x)))


@pytest.mark.parametrize("operation", TF_KERAS.values(), ids=TF_KERAS.keys())
def test_operations_of_tf_keras(operation):
    x = tf_keras.Input((4, 4, 3))
    assert_crosses(tf_keras.Model(x, operation(x)))


def test_operations_keep_their_names():
    x = tf_keras.Input((4,), name="x")
    model = tf_keras.Model(x, tf.nn.relu(x * 2.0) + 1.0)
    there = cross(model)
    assert layer_names(there) == layer_names(model)
    assert layer_names(cross(there)) == layer_names(model)


@pytest.mark.parametrize("kerases", [keras, tf_keras])
def test_slices_are_saved(kerases, tmp_path):
    x = kerases.Input((4, 4, 3))
    there = cross(kerases.Model(x, x[:, 1:, ..., 0]))
    there.save(tmp_path / "model.keras")
    package = tf_keras if kerases is keras else keras
    loaded = package.models.load_model(tmp_path / "model.keras")
    data = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    np.testing.assert_array_equal(loaded(data), data[:, 1:, :, 0])


def test_options_that_the_other_side_lacks():
    x = keras.Input((4, 6))
    with pytest.raises(ValueError, match=r"'elu.*TensorFlow's nn.elu has no equal of \['alpha'\]"):
        cross(keras.Model(x, ops.elu(x, alpha=0.5)))
    x = tf_keras.Input((4, 4))
    with pytest.raises(ValueError, match=r"'tf.linalg.matmul.*no equal of \['transpose_b'\]"):
        cross(tf_keras.Model(x, tf.matmul(x, x, transpose_b=True)))
