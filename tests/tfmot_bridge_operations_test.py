"""Quantisation aware training of what TFMOT alone does not take: operations, normalisations."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import tflite_export
import tfmot_pam
from tests.tiers import regular
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.tfmot_bridge.operations import LAYERS, operations_as_layers

SIDES = np.array([0.5, -1.0, 2.0], "float32")  # a number a channel
OPERATIONS = {
    "x * 2": lambda x: x * 2.0,
    "2 * x": lambda x: 2.0 * x,
    "x * array": lambda x: x * SIDES,
    "x + 1": lambda x: x + 1.0,
    "x + array": lambda x: x + SIDES,
    "x - 1": lambda x: x - 1.0,
    "1 - x": lambda x: 1.0 - x,
    "x / 2": lambda x: x / 2.0,
    "divide": lambda x: ops.divide(x, 4.0),
    "-x": lambda x: -x,
    "x + x": lambda x: x + x,
    "x - y": lambda x: x - ops.relu(x),
    "x * y": lambda x: x * ops.sigmoid(x),
    "maximum": lambda x: ops.maximum(x, ops.tanh(x)),
    "minimum": lambda x: ops.minimum(x, ops.tanh(x)),
    "maximum of 0": lambda x: ops.maximum(x, 0.0),
    "relu": ops.relu,
    "relu6": ops.relu6,
    "clip": lambda x: ops.clip(x, 0.0, 0.5),
    "leaky relu": lambda x: ops.leaky_relu(x, 0.1),
    "silu": ops.silu,
    "elu": ops.elu,
    "elu of 0.5": lambda x: ops.elu(x, 0.5),
    "named": lambda x: ops.subtract(x2=x, x1=1.0),
    "selu": ops.selu,
    "softplus": ops.softplus,
    "softmax": ops.softmax,
    "concatenate": lambda x: ops.concatenate([x, x], axis=-1),
    "mean": lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
    "reshape": lambda x: ops.reshape(x, (-1, 16, 6, 3)),
}
STAYING = {
    "2 / x": lambda x: 2.0 / (x + 9.0),
    "maximum of 1": lambda x: ops.maximum(x, 1.0),
    "minimum of 1": lambda x: ops.minimum(x, 1.0),
    "clip below 0": lambda x: ops.clip(x, -1.0, 1.0),
    "square": ops.square,
    "mean of channels": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "wide array": lambda x: ops.add(x[..., :1], SIDES),
}


def model(body) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 12, 3), name="image")
    h = layers.Conv2D(4, 3, padding="same", activation="relu")(body(image))
    head = layers.Dense(3, name="head", bias_initializer="random_normal")
    return keras.Model(image, {"head": head(layers.GlobalAveragePooling2D()(h))})


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(16, 8, 12, 3)).astype("float32")


def free_operations(network) -> list[str]:
    return [
        layer.kind
        for layer in network.layers.values()
        if not issubclass(layer.cls, keras.layers.Layer)
    ]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_become_layers_that_compute_the_same(name, x):
    source = model(OPERATIONS[name])
    network = read(source)
    assert free_operations(network)
    changed = operations_as_layers(network)
    assert free_operations(changed) == []
    assert list(changed.layers) == list(network.layers)
    found, expected = emit(changed)(x)["head"], source(x)["head"]
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-5, atol=1e-6)


def test_every_entry_of_the_table_is_tried():
    tried = set()
    for body in OPERATIONS.values():
        tried |= set(free_operations(read(model(body))))
    assert set(LAYERS) <= tried


@pytest.mark.parametrize("name", STAYING)
def test_other_operations_stay(name, x):
    source = model(STAYING[name])
    changed = operations_as_layers(read(source))
    assert free_operations(changed)
    found, expected = emit(changed)(x)["head"], source(x)["head"]
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-5, atol=1e-6)


NORMALISED = {
    "activated": lambda h: layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(h)),
    "depthwise, activated": lambda h: layers.BatchNormalization()(
        layers.DepthwiseConv2D(3, activation="relu")(h)
    ),
    "folded": lambda h: layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(h))),
    "two readers": lambda h: layers.Add()(
        [(c := layers.Conv2D(4, 3)(h)), layers.ReLU()(layers.BatchNormalization()(c))]
    ),
    "behind pooling": lambda h: layers.BatchNormalization()(layers.MaxPooling2D()(h)),
}
TRAINED = ("1 - x", "x * array", "relu")
QUANTISED = {**NORMALISED, **{name: OPERATIONS[name] for name in TRAINED}}


@pytest.mark.parametrize("name", regular(QUANTISED, 2))
def test_quantisation_aware_training(name, x, tmp_path):
    aware = tfmot_pam.quantize_model(model(QUANTISED[name]))
    aware.compile("adam", {"head": "mse"})
    aware.fit(x, {"head": np.zeros((len(x), 3), "float32")}, epochs=1, verbose=0)
    options = {"quantization": "int8", "samples": x, "mode": "files", "verbose": 0}
    (file,) = tflite_export.export(aware, tmp_path / "files", **options)
    assert file.max_abs_error <= 0.1
