"""Models that cross between the Kerases compute the same, under the same names."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import random_models
from tests.crossings import BOTH, assert_crosses, cross, randomise, sequential, several_outputs
from tests.tiers import regular
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.tf_keras import reader as tf_keras_reader

FACTOR = 3.0


def network_of(model) -> Network:
    return read(model) if isinstance(model, keras.Model) else tf_keras_reader.read(model)


def assert_same_names(one, other):
    """Equal layer names and weights, layer by layer."""
    first, second = network_of(one), network_of(other)
    assert list(first.layers) == list(second.layers)
    for name, layer in first.layers.items():
        assert second.layers[name].cls is layer.cls
        assert set(layer.weights) == set(second.layers[name].weights)
        for key, weight in layer.weights.items():
            np.testing.assert_array_equal(weight, second.layers[name].weights[key])


def sequential_built_later(k):
    model = k.Sequential([k.layers.Dense(3, activation="tanh"), k.layers.Dense(2)])
    model.build((None, 4))
    return model


def shared_layer(k):
    x = k.Input((4,))
    dense = k.layers.Dense(4, activation="tanh", name="twice")
    return k.Model(x, dense(k.layers.ReLU()(dense(x))))


def part_of_a_model(k):
    """Calls of a layer outside the model do not count."""
    x, other = k.Input((4,)), k.Input((4,))
    dense = k.layers.Dense(4, activation="tanh")
    k.Model(x, dense(dense(dense(x))))
    return k.Model(other, dense(k.layers.ReLU()(other)))


def nested(k):
    inner = k.Sequential([k.Input((6, 6, 3)), k.layers.Conv2D(4, 3, name="conv")], name="inner")
    y = k.Input((6, 6, 2))
    middle = k.Model(y, inner(k.layers.Conv2D(3, 1, name="conv")(y)), name="middle")
    x = k.Input((6, 6, 2))
    return k.Model(x, k.layers.Flatten()(middle(x)))


def nested_without_input(k):
    inner = k.Sequential([k.layers.Dense(3, activation="tanh"), k.layers.Dense(4)])
    x = k.Input((4,))
    return k.Model(x, k.layers.Add()([inner(x), inner(inner(x))]))


def nested_called_twice(k):
    y = k.Input((4,))
    inner = k.Model(y, k.layers.Dense(4, activation="tanh", name="dense")(y))
    x = k.Input((4,))
    first = inner(x)
    return k.Model(x, {"second": inner(k.layers.ReLU()(first)), "first": first})


def nested_with_dicts(k):
    y = {name: k.Input((3,), name=name) for name in ("b", "a")}
    inner = k.Model(y, {"b": k.layers.Dense(2)(y["b"]), "a": k.layers.Dense(4)(y["a"])})
    x = k.Input((3,))
    found = inner({"b": x, "a": k.layers.ReLU()(x)})
    return k.Model(x, [found["a"], k.layers.Dense(3)(found["b"])])


def several_inputs(k):
    image, tokens = k.Input((4, 4, 2), name="image"), k.Input((5,), dtype="int32", name="tokens")
    embedded = k.layers.GlobalAveragePooling1D()(k.layers.Embedding(5, 3)(tokens))
    pooled = k.layers.GlobalMaxPooling2D()(image)
    return k.Model([image, tokens], k.layers.Concatenate()([pooled, embedded]))


def list_of_outputs(k):
    x = k.Input((4,))
    return k.Model(x, [k.layers.Dense(2)(x), k.layers.Dense(3)(x)])


def recurrent_with_state(k):
    x = k.Input((5, 4))
    found, *state = k.layers.LSTM(3, return_sequences=True, return_state=True)(x)
    return k.Model(x, k.layers.LSTM(3)(found, initial_state=state))


def composite(k):
    x = k.Input((5, 4))
    y = k.layers.Bidirectional(k.layers.GRU(3, return_sequences=True))(x)
    y = k.layers.MultiHeadAttention(2, 3)(y, y)
    y = k.layers.TimeDistributed(k.layers.Dense(2, activation="relu"))(y)
    y = k.layers.LayerNormalization()(y)
    cells = k.layers.StackedRNNCells([k.layers.LSTMCell(2), k.layers.GRUCell(3)])
    return k.Model(x, k.layers.RNN(cells)(y))


def image_layers(k):
    layers, x = k.layers, k.Input((8, 8, 3))
    y = layers.Rescaling([0.1, 0.2, 0.3], offset=-1.0)(x)
    y = layers.ZeroPadding2D(((0, 1), (1, 0)))(y)
    y = layers.SeparableConv2D(4, 3, depth_multiplier=2, activation="swish")(y)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(y)
    y = layers.PReLU(shared_axes=[1, 2])(layers.GroupNormalization(2)(y))
    y = layers.Conv2DTranspose(4, 2, strides=2)(layers.SpatialDropout2D(0.2)(y))
    y = layers.Conv2D(4, 3, groups=2, dilation_rate=2)(layers.UpSampling2D(2)(y))
    y = layers.LeakyReLU()(layers.Resizing(5, 5)(y))
    y = layers.GaussianNoise(0.1)(layers.Cropping2D(1)(y))
    y = layers.Permute((2, 1, 3))(layers.ELU(0.5)(layers.AveragePooling2D(2)(y)))
    return k.Model(x, layers.Dense(2, activation="softmax")(layers.Reshape((-1,))(y)))


def normalization(k):
    layer = k.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(32, 4)).astype("float32"))
    x = k.Input((4,))
    return k.Model(x, layer(x))


def lambdas(k):
    offset, x = 2.0, k.Input((3,))
    y = k.layers.Lambda(lambda v: v * FACTOR + offset)(x)
    return k.Model(x, k.layers.Lambda(lambda v, power: v**power, arguments={"power": 2})(y))


def own_activation(k):
    x = k.Input((3,))
    return k.Model(x, k.layers.Dense(4, activation=lambda v: tf.maximum(v, 0.1 * v))(x))


def activation_layer(k):
    x = k.Input((3,))
    return k.Model(x, k.layers.Dense(4, activation=k.layers.LeakyReLU())(x))


def hard_sigmoid(k):
    """Everywhere that an activation can stand, and on a layer that is called twice."""
    x = k.Input((6, 6, 2))
    conv = k.layers.Conv2D(2, 3, padding="same", activation="hard_sigmoid", name="conv")
    y = k.layers.Activation("hard_sigmoid", name="gate")(conv(conv(x)))
    return k.Model(x, k.layers.Dense(2, activation="hard_sigmoid", name="head")(y))


STRUCTURES = (
    sequential,
    sequential_built_later,
    shared_layer,
    part_of_a_model,
    nested,
    nested_without_input,
    nested_called_twice,
    nested_with_dicts,
    several_inputs,
    several_outputs,
    list_of_outputs,
    recurrent_with_state,
    composite,
    image_layers,
    normalization,
    lambdas,
    own_activation,
    activation_layer,
    hard_sigmoid,
)
FLAT = (sequential, shared_layer, several_inputs, several_outputs, composite, image_layers)


@BOTH
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("build", regular(STRUCTURES, 10))
def test_structures(build, kerases):
    assert_crosses(build(kerases))


@BOTH
@pytest.mark.parametrize("build", regular(FLAT, 3))
def test_names_and_weights_stay(build, kerases):
    model = randomise(build(kerases))
    there = cross(model)
    assert_same_names(model, there)
    assert_same_names(model, cross(there))
    assert there.name == model.name


@BOTH
def test_dict_outputs_keep_their_keys_and_order(kerases):
    there = cross(several_outputs(kerases))
    assert list(there.output) == ["zebra", "ant", "input"]
    assert list(there(np.ones((1, 4), "float32"))) == ["zebra", "ant", "input"]


@given(st.integers(0, 1_000_000))
@settings(max_examples=4)
def test_random_networks(seed):
    model = random_models.family(seed, tasks=2, unknown=False).models["t0"]
    there = assert_crosses(model)
    assert set(read(model).layers) <= {layer.name for layer in there.layers}


@BOTH
def test_configurations_stay(kerases):
    x = kerases.Input((4,))
    layer = kerases.layers.Dense(
        3,
        kernel_regularizer=kerases.regularizers.L2(0.25),
        kernel_constraint=kerases.constraints.MaxNorm(2.0),
        bias_initializer=kerases.initializers.Constant(0.5),
        name="dense",
    )
    there = cross(kerases.Model(x, layer(x))).get_layer("dense")
    assert float(there.kernel_regularizer.l2) == 0.25
    assert float(there.kernel_constraint.max_value) == 2.0
    assert float(there.bias_initializer.value) == 0.5


@BOTH
def test_frozen_layers_stay_frozen(kerases):
    x = kerases.Input((3,))
    frozen = kerases.layers.Dense(2, trainable=False, name="frozen")
    there = cross(kerases.Model(x, kerases.layers.Dense(2)(frozen(x))))
    assert not there.get_layer("frozen").trainable
    assert len(there.trainable_weights) == 2


@BOTH
def test_mixed_precision(kerases):
    x = kerases.Input((6,))
    y = kerases.layers.Dense(4, dtype="mixed_float16", activation="hard_sigmoid")(x)
    there = cross(kerases.Model(x, kerases.layers.Dense(2, dtype="float32")(y)))
    assert [layer.compute_dtype for layer in there.layers[1:3]] == ["float16", "float16"]
    assert there.layers[-1].compute_dtype == "float32"


@BOTH
def test_optimizers_are_left_behind(kerases):
    model = sequential(kerases)
    model.compile("adam", "mse")
    assert getattr(cross(model), "optimizer", None) is None


def test_a_trained_sparsity_pattern_stays():
    model = sequential(tf_keras)
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0.0
    model.get_layer("conv").set_weights([kernel, bias])
    there = cross(model)
    np.testing.assert_array_equal(there.get_layer("conv").get_weights()[0], kernel)


def test_slashes_in_names_become_underscores():
    x = tf_keras.Input((4,))
    model = tf_keras.Model(x, tf_keras.layers.Dense(2, name="block/dense")(x))
    assert cross(model).get_layer("block_dense")


@pytest.mark.parametrize("layer_first", [True, False])
def test_layers_may_have_the_names_that_keras_numbers_its_operations_by(layer_first):
    x = keras.Input((4,))
    last = keras.Function(x, keras.ops.multiply(x, 2.0)).operations[-1].name
    stem, _, number = last.partition("_")
    x = tf_keras.Input((4,))
    dense = tf_keras.layers.Dense(4, name=f"{stem}_{int(number or 0) + 1}")
    model = tf_keras.Model(x, dense(x) * 2.0 if layer_first else dense(x * 2.0))
    there = assert_crosses(model)
    assert there.get_layer(dense.name)
