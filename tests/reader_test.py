"""Models that are read into networks and written again compute the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.round_trips import assert_round_trip
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read

# --- models -----------------------------------------------------------------------------------


def test_sequential():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    network = assert_round_trip(model)
    kinds = ["InputLayer", "Conv2D", "BatchNormalization", "Flatten", "Dense"]
    assert [network.layer_of(node).kind for node in network.nodes] == kinds


def test_sequential_built_later():
    model = keras.Sequential([layers.Dense(3), layers.Dense(2)])
    model.build((None, 4))
    assert_round_trip(model)


def test_functional_with_branches():
    x = keras.Input((6, 6, 2), name="image")
    left = layers.Conv2D(3, 3, padding="same", name="left")(x)
    right = layers.Conv2D(3, 1, name="right")(x)
    model = keras.Model(x, layers.Add(name="sum")([left, right]))
    network = assert_round_trip(model)
    assert [tensor.node for tensor in network.node("sum").inputs] == ["left", "right"]
    assert emit(network).input.name == "image"


def test_part_of_a_model():
    """Calls of a layer outside the model do not count."""
    x = keras.Input((4,))
    dense = layers.Dense(4, activation="tanh")
    keras.Model(x, dense(dense(dense(x))))
    other = keras.Input((4,))
    model = keras.Model(other, dense(layers.ReLU()(other)))
    network = assert_round_trip(model)
    assert sum(node.layer == dense.name for node in network.nodes) == 1


def test_shared_layer():
    x = keras.Input((4,))
    dense = layers.Dense(4, activation="tanh", name="twice")
    network = assert_round_trip(keras.Model(x, dense(layers.ReLU()(dense(x)))))
    assert network.calls()["twice"] == 2
    assert sum(layer.kind == "Dense" for layer in network.layers.values()) == 1


def test_nested_models_are_looked_into():
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(4, 3, name="conv"), layers.ReLU()], name="inner"
    )
    y = keras.Input((6, 6, 2))
    middle = keras.Model(y, inner(layers.Conv2D(3, 1, name="conv")(y)), name="middle")
    x = keras.Input((6, 6, 2))
    model = keras.Model(x, layers.Flatten()(middle(x)))
    network = assert_round_trip(model)
    kinds = [network.layer_of(node).kind for node in network.nodes]
    assert kinds == ["InputLayer", "Conv2D", "Conv2D", "ReLU", "Flatten"]
    assert len(network.layers) == 5


@pytest.mark.parametrize("sequential", [True, False])
def test_nested_model_whose_output_is_the_output(sequential):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="tanh")])
    if not sequential:
        inner = keras.Model(inner.inputs, inner.outputs[0])
    x = keras.Input((4,))
    first = inner(x)
    assert_round_trip(keras.Model(x, {"second": inner(layers.ReLU()(first)), "first": first}))
    assert_round_trip(keras.Model(x, inner(x)))


def test_nested_model_called_twice():
    y = keras.Input((4,))
    inner = keras.Model(y, layers.Dense(4, activation="tanh", name="dense")(y))
    x = keras.Input((4,))
    network = assert_round_trip(keras.Model(x, layers.Add()([inner(x), inner(inner(x))])))
    assert network.calls()["dense"] == 3


@pytest.mark.parametrize("names", [("b", "a"), ("a", "b")])
def test_nested_model_with_dicts(names):
    """Keras sorts the keys of dicts; the model's own order must not matter."""
    first, second = names
    y = {first: keras.Input((3,), name=first), second: keras.Input((3,), name=second)}
    inner = keras.Model(
        y, {first: layers.Dense(2)(y[first]), second: layers.Dense(4)(y[second] * 2.0)}
    )
    x = keras.Input((3,))
    found = inner({first: x, second: layers.ReLU()(x)})
    assert_round_trip(keras.Model(x, [found[second], layers.Dense(3)(found[first])]))


def test_several_inputs_of_several_types():
    image, tokens = keras.Input((4, 4, 2), name="image"), keras.Input((5,), dtype="int32")
    embedded = layers.GlobalAveragePooling1D()(layers.Embedding(5, 3)(tokens))
    pooled = layers.GlobalMaxPooling2D()(image)
    model = keras.Model([image, tokens], layers.Concatenate()([pooled, embedded]))
    network = assert_round_trip(model)
    assert len(network.inputs) == 2


def test_output_structures():
    x = keras.Input((4,))
    heads = {name: layers.Dense(size, name=name)(x) for name, size in (("zebra", 2), ("ant", 3))}
    network = assert_round_trip(keras.Model(x, heads))
    assert list(network.outputs) == ["zebra", "ant"]
    assert list(emit(network).output) == ["zebra", "ant"]
    network = assert_round_trip(keras.Model(x, list(heads.values())))
    assert isinstance(network.outputs, list)
    assert len(network.outputs) == 2


def test_an_input_that_is_an_output():
    x = keras.Input((4,))
    assert_round_trip(keras.Model(x, {"same": x, "double": x * 2.0}))


# --- what cannot be read ----------------------------------------------------------------------


def test_subclassed_model():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match="subclassed model 'mine'.*functional API"):
        read(Subclassed(name="mine"))


def test_unbuilt_sequential_model():
    with pytest.raises(ValueError, match="unbuilt sequential model 'late'.*keras.Input"):
        read(keras.Sequential([layers.Dense(2)], name="late"))


@pytest.mark.parametrize("thing", [None, "model.keras", layers.Dense(2)])
def test_no_model_at_all(thing):
    with pytest.raises(TypeError, match="must be a keras.Model of Keras 3. Received"):
        read(thing)


# --- models that are built for any size and called with one ---------------------------------------


def on_backbone(size, classes=4, depth=1) -> keras.Model:
    """A classifier of 16x16 images on a backbone that is built for `size`, some models deep."""
    keras.utils.set_random_seed(classes)
    inner = keras.Input((size, size, 3))
    h = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv1")(inner)
    backbone = keras.Model(inner, layers.Conv2D(8, 3, strides=2, name="conv2")(h))
    for _ in range(depth - 1):
        outer = keras.Input((size, size, 3))
        backbone = keras.Model(outer, backbone(outer))
    image = keras.Input((16, 16, 3))
    h = layers.GlobalAveragePooling2D(name="pool")(backbone(image))
    return keras.Model(image, layers.Dense(classes, name="head")(h))


@pytest.mark.parametrize("depth", [1, 2])
def test_models_within_have_the_sizes_that_they_are_called_with(depth):
    fixed, flexible = (read(on_backbone(size, depth=depth)) for size in (16, None))
    assert list(fixed.layers)[1:] == list(flexible.layers)[1:]
    for name in ("conv1", "conv2", "head"):
        assert flexible.node(name).shapes == fixed.node(name).shapes
        for weight, value in fixed.layers[name].weights.items():
            np.testing.assert_array_equal(flexible.layers[name].weights[weight], value)
    assert network_cost(flexible).macs == network_cost(fixed).macs
    assert network_cost(flexible).unsupported == {}


def test_models_on_backbones_of_any_and_of_one_size_merge():
    models = {"a": on_backbone(16, 4), "b": on_backbone(None, 3)}
    x = np.random.default_rng(0).normal(size=(32, 16, 16, 3)).astype("float32")
    merged = tfmot_pam.merge(models, x, method="shared", width="union", verbose=0)
    found = merged.predict(x, verbose=0)
    for task, model in models.items():
        np.testing.assert_allclose(found[task], model.predict(x, verbose=0), rtol=1e-3, atol=1e-4)
    assert tfmot_pam.cost(merged, ["a"]).unsupported == {}


@keras.saving.register_keras_serializable(package="tests")
class Nameless(keras.layers.Layer):
    """Its weights have no names of their own, as those of ConvNeXt's LayerScale."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="zeros")

    def call(self, x):
        return x * self.scale + self.shift


def test_weights_without_names_are_told_apart_by_their_order():
    x = keras.Input((3,))
    model = keras.Model(x, Nameless()(Nameless()(x)))
    model.set_weights([np.full(3, value, "float32") for value in (2.0, 3.0, 5.0, 7.0)])
    again = emit(read(model))
    np.testing.assert_array_equal(again(np.ones((1, 3))), np.full((1, 3), 32.0))
