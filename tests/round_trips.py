"""Models read and emitted, held against what they were."""

from __future__ import annotations

import keras
import numpy as np

from tests import random_models
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read


def data_for(model, samples=3, seed=0):
    rng = np.random.default_rng(seed)
    data = [
        rng.integers(0, 5, size=(samples, *tensor.shape[1:]))
        if tensor.dtype.startswith("int")
        else rng.normal(size=(samples, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    ]
    return data[0] if len(data) == 1 else data


def values(model, data):
    return [np.array(value) for value in keras.tree.flatten(model(data, training=False))]


def assert_round_trip(model):
    """Read and emitted, the model computes the same; the model itself is left as it was."""
    random_models.randomise(model, 0)
    data = data_for(model)
    weights = [np.array(weight) for weight in model.weights]
    config = model.get_config()
    before = values(model, data)
    network = read(model)
    emitted = emit(network)
    for found, expected in zip(values(emitted, data), before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    outputs = keras.tree.flatten(network.outputs)
    for tensor, expected in zip(outputs, model.outputs, strict=True):
        assert network.shape(tensor) == tuple(expected.shape)
    again = emit(read(emitted))
    for found, expected in zip(values(again, data), before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for weight in emitted.weights:
        weight.assign(np.zeros(weight.shape))
    for weight, value in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert model.get_config() == config
    return network
