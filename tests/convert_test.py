"""Models that cross between the Kerases compute the same, under the same names."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmot_pam
from benchmarks.applications import SIDES
from tests import random_models
from tests.tiers import regular
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.tf_keras import reader as tf_keras_reader
from tfmot_pam.graph.tf_keras.convert import check_crossing, relative_error
from tfmot_pam.toolkit.crossing import import_tfmot

ROOT = pathlib.Path(__file__).resolve().parents[1]
BOTH = pytest.mark.parametrize("kerases", [keras, tf_keras], ids=["keras", "tf_keras"])
FACTOR = 3.0


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


# --- structures -------------------------------------------------------------------------------


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


def several_outputs(k):
    x = k.Input((4,), name="x")
    heads = {n: k.layers.Dense(size, name=n)(x) for n, size in (("zebra", 2), ("ant", 3))}
    return k.Model(x, {**heads, "input": x})


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


# --- files in a fresh process -----------------------------------------------------------------

PROGRAM = """
import sys
import keras, numpy as np, tf_keras
import tfmot_pam
for path in sys.argv[2:]:
    legacy = path.endswith("tf_keras.keras")
    model = (tf_keras if legacy else keras).models.load_model(path)
    there = (tfmot_pam.from_tf_keras if legacy else tfmot_pam.to_tf_keras)(model)
    found = keras.tree.flatten(there(np.load(sys.argv[1]), training=False))
    np.savez(path + ".npz", *[np.array(value) for value in found])
"""


def check_in_a_fresh_process(models, folder):
    """Both Kerases' files are loaded and cross in one other process."""
    x = data_for(models[0], samples=2)
    np.save(folder / "x.npy", x)
    paths = []
    for index, model in enumerate(models):
        package = "keras" if isinstance(model, keras.Model) else "tf_keras"
        paths.append(folder / f"{index}_{package}.keras")
        model.save(paths[-1])
    arguments = map(str, [folder / "x.npy", *paths])
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, cwd=ROOT)
    for model, path in zip(models, paths, strict=True):
        found = np.load(f"{path}.npz").values()
        for value, wanted in zip(found, values(model, x), strict=True):
            assert relative_error(wanted, value) < 1e-5


def test_saved_models_cross_in_a_fresh_process(tmp_path):
    models = [randomise(several_outputs(kerases)) for kerases in (keras, tf_keras)]
    check_in_a_fresh_process([*models, *map(cross, models)], tmp_path)


IMPORTS = {
    "tf first": "import tensorflow as tf; tf.keras.layers; import tfmot_pam",
    "ours first": "import tfmot_pam; import tensorflow as tf; tf.keras.layers",
    "tfmot first": "import tensorflow_model_optimization; import tfmot_pam; import tensorflow",
    "tfmot last": "import tfmot_pam; import tensorflow_model_optimization; import tensorflow",
}
ORDER = """
import json, os
{imports}
environment = dict(os.environ)
import tensorflow as tf
before = tf.keras.layers.Dense
import keras, tf_keras, numpy as np
errors = []
for kerases, cross in ((keras, tfmot_pam.to_tf_keras), (tf_keras, tfmot_pam.from_tf_keras)):
    x = kerases.Input((4,), name="x")
    model = kerases.Model(x, {{"a": kerases.layers.Dense(2, activation="hard_sigmoid")(x)}})
    given = np.ones((1, 4), "float32")
    values = [np.array(found(given)["a"]) for found in (model, cross(model))]
    errors.append(float(abs(values[0] - values[1]).max()))
x = tf.keras.Input((4,))
mine = tf.keras.Model(x, tf.keras.layers.Dense(2)(x))
cost = tfmot_pam.cost(mine).macs
print(json.dumps({{
    "errors": errors,
    "cost": cost,
    "environment": dict(os.environ) == environment,
    "keras": tf.keras.layers.Dense is before,
}}))
"""


@pytest.mark.parametrize(
    ("order", "legacy"), regular([("tf first", "1"), ("tfmot last", None)], several=True)
)
def test_import_orders(order, legacy):
    check_import_order(IMPORTS[order], legacy)


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [None, "0", "1"])
@pytest.mark.parametrize("order", IMPORTS)
def test_all_import_orders(order, legacy):
    check_import_order(IMPORTS[order], legacy)


def check_import_order(imports, legacy):
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    if legacy is not None:
        environment["TF_USE_LEGACY_KERAS"] = legacy
    result = subprocess.run(
        [sys.executable, "-c", ORDER.format(imports=imports)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    found = json.loads(result.stdout.splitlines()[-1])
    assert max(found["errors"]) < 1e-6
    assert found["cost"] == 8
    assert found["environment"]
    assert found["keras"]


# --- applications -----------------------------------------------------------------------------

APPLICATIONS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "ResNet50", "ResNet50V2"),
    *("VGG16", "DenseNet121", "NASNetMobile", "Xception", "InceptionV3", "EfficientNetB0"),
    "EfficientNetV2B0",
)


def application(kerases, name):
    size = SIDES[name]
    model = getattr(kerases.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=7, classifier_activation=None
    )
    return randomise(model)


def layer_names(model) -> set[str]:
    layers = model.operations if isinstance(model, keras.Model) else model.layers
    return {layer.name for layer in layers}


def check_application(kerases, name):
    model = application(kerases, name)
    there = cross(model)
    back = cross(there)
    x = data_for(model, samples=2)
    errors = [relative_error(*values(model, x), *values(found, x)) for found in (there, back)]
    assert max(errors) < 1e-5
    names = {name.replace("/", "_") for name in layer_names(model)}
    assert names <= layer_names(there)
    assert names <= layer_names(back)
    assert model.count_params() == there.count_params() == back.count_params()
    print(f"{name:17} {kerases.__name__:9} there {errors[0]:.1e}  and back {errors[1]:.1e}")


@pytest.mark.slow
def test_the_hardest_application():
    check_application(keras, "MobileNetV3Small")


@BOTH
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_applications(name, kerases):
    check_application(kerases, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_saved_applications_cross_in_a_fresh_process(name, tmp_path):
    models = [application(kerases, name) for kerases in (keras, tf_keras)]
    check_in_a_fresh_process([*models, cross(models[0])], tmp_path)


# --- what cannot cross ------------------------------------------------------------------------


class OnlyKeras(keras.layers.Layer):
    """A layer that only one Keras has."""

    def call(self, inputs):
        return inputs * 2.0


class OnlyLegacy(tf_keras.layers.Layer):
    """A layer that only the other Keras has."""

    def call(self, inputs):
        return inputs * 2.0


@pytest.mark.parametrize(
    ("kerases", "layer"),
    [
        (keras, OnlyKeras(name="odd")),
        (tf_keras, OnlyLegacy(name="odd")),
        (tf_keras, tf_keras.layers.LocallyConnected1D(2, 1, name="odd")),
    ],
)
def test_layers_that_one_side_lacks(kerases, layer):
    x = kerases.Input((4, 4))
    with pytest.raises(ValueError, match=r"'odd' of class .* no counterpart.*register_layer_conv"):
        cross(kerases.Model(x, layer(x)))


def test_recurrent_hard_sigmoid_has_no_equal():
    for kerases in (keras, tf_keras):
        x = kerases.Input((4, 4))
        layer = kerases.layers.LSTM(2, recurrent_activation="hard_sigmoid", name="odd")
        with pytest.raises(
            ValueError, match=r"'odd' of class LSTM.*recurrent_activation.*no equal"
        ):
            cross(kerases.Model(x, layer(x)))


def test_inner_hard_sigmoid_has_no_equal():
    x = keras.Input((4, 4))
    layer = keras.layers.TimeDistributed(keras.layers.Dense(2, activation="hard_silu"), name="odd")
    with pytest.raises(ValueError, match=r"'odd' of class TimeDistributed.*no equal in tf_keras"):
        cross(keras.Model(x, layer(x)))


def test_options_that_one_side_lacks():
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Resizing(4, 4, antialias=True, name="odd")(x))
    with pytest.raises(ValueError, match=r"'odd' of class Resizing.*antialias=True is unknown"):
        cross(model)


def test_operations_that_one_side_lacks():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match=r"operation 'flip'.*Flip.*tf_keras has no such operation"):
        cross(keras.Model(x, keras.ops.flip(x, axis=1)))
    x = tf_keras.Input((4,))
    with pytest.raises(ValueError, match=r"operation 'tf.math.bessel_i0'.*TensorFlow's"):
        cross(tf_keras.Model(x, tf.math.bessel_i0(x)))


def test_models_that_disagree_are_refused():
    one, other = sequential(keras), sequential(tf_keras)
    with pytest.raises(ValueError, match="cannot be converted exactly: output 0 differs by"):
        check_crossing(one, other)


@pytest.mark.parametrize("thing", [None, "model.keras", keras.layers.Dense(2)])
def test_no_model_at_all(thing):
    with pytest.raises(TypeError, match=r"must be a keras.Model of Keras 3. Received"):
        tfmot_pam.to_tf_keras(thing)
    with pytest.raises(TypeError, match=r"must be a tf_keras.Model. Received"):
        tfmot_pam.from_tf_keras(thing)


def test_models_of_the_other_generation():
    with pytest.raises(TypeError, match=r"must be a keras.Model of Keras 3. Received.*tf_keras"):
        tfmot_pam.to_tf_keras(sequential(tf_keras))
    with pytest.raises(TypeError, match=r"must be a tf_keras.Model. Received.*keras"):
        tfmot_pam.from_tf_keras(sequential(keras))


def test_subclassed_and_unbuilt_models():
    class Subclassed(tf_keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match="subclassed model 'mine'.*functional API"):
        tfmot_pam.from_tf_keras(Subclassed(name="mine"))
    with pytest.raises(ValueError, match="unbuilt sequential model 'late'.*tf_keras.Input"):
        tfmot_pam.from_tf_keras(tf_keras.Sequential([tf_keras.layers.Dense(2)], name="late"))


def test_wrapped_models():
    tfmot = import_tfmot()
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(sequential(tf_keras))
    with pytest.raises(ValueError, match=r"must be stripped first.*PruneLowMagnitude.*strip_wrap"):
        tfmot_pam.from_tf_keras(wrapped)
