"""Models of either Keras, and how they are brought into the other one."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tf_keras

import tfmot_pam
from tfmot_pam.graph.tf_keras.convert import relative_error

BOTH = pytest.mark.parametrize("kerases", [keras, tf_keras], ids=["keras", "tf_keras"])


def randomise(model, seed=0):
    """Draws all weights of a model of either Keras, so that every one of them tells."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name = leaf(weight)
        if name == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif name == "gamma":
            weight.assign(rng.uniform(0.8, 1.2, weight.shape))
        elif name in ("beta", "bias", "moving_mean", "alpha"):
            weight.assign(rng.normal(0.0, 0.3, weight.shape))
    return model


def leaf(weight) -> str:
    return getattr(weight, "path", weight.name).rsplit("/", 1)[-1].split(":")[0]


def data_for(model, samples=3, seed=1):
    rng = np.random.default_rng(seed)
    data = [
        rng.integers(0, 5, size=(samples, *tensor.shape[1:]))
        if "int" in str(tensor.dtype)
        else rng.normal(size=(samples, *(size or 6 for size in tensor.shape[1:]))).astype("float32")
        for tensor in model.inputs
    ]
    return data[0] if len(data) == 1 else data


def values(model, data) -> list[np.ndarray]:
    return [np.array(value) for value in keras.tree.flatten(model(data, training=False))]


def cross(model):
    """The model in the other Keras."""
    if isinstance(model, keras.Model):
        return tfmot_pam.to_tf_keras(model)
    return tfmot_pam.from_tf_keras(model)


def assert_crosses(model):
    """There and back the model computes the same; the model itself is left as it was."""
    randomise(model)
    data, config = data_for(model), json.dumps(model.get_config(), default=str)
    weights = [np.array(value) for value in model.get_weights()]
    expected = values(model, data)
    there = cross(model)
    back = cross(there)
    assert isinstance(there, tf_keras.Model if isinstance(model, keras.Model) else keras.Model)
    assert type(back).__module__.split(".")[0] == type(model).__module__.split(".")[0]
    for found in (there, back):
        for value, wanted in zip(values(found, data), expected, strict=True):
            assert value.shape == wanted.shape
            assert relative_error(wanted, value) < 1e-5
        assert [tuple(t.shape) for t in found.inputs] == [tuple(t.shape) for t in model.inputs]
    for weight in [*there.weights, *back.weights]:
        weight.assign(np.zeros(weight.shape))
    for weight, value in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert json.dumps(model.get_config(), default=str) == config
    return there


def sequential(k):
    return k.Sequential(
        [
            k.Input((6, 6, 2), name="image"),
            k.layers.Conv2D(3, 3, activation="relu", name="conv"),
            k.layers.BatchNormalization(name="norm"),
            k.layers.Flatten(),
            k.layers.Dense(2, name="head"),
        ]
    )


def several_outputs(k):
    x = k.Input((4,), name="x")
    heads = {n: k.layers.Dense(size, name=n)(x) for n, size in (("zebra", 2), ("ant", 3))}
    return k.Model(x, {**heads, "input": x})


def layer_names(model) -> set[str]:
    layers = model.operations if isinstance(model, keras.Model) else model.layers
    return {layer.name for layer in layers}
