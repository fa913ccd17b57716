"""Layers that are random in training: networks are looked at as they run in inference."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tf_keras

import tflite_export
import tfmot_pam
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.network import iterate_tensors
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.runner import Stepper, evaluate

layers = keras.layers
# RandomShear writes a configuration that its own from_config() refuses.
OPTIONS = {
    **{name: {} for name in dir(layers) if name.startswith("Random") and name != "RandomShear"},
    "AugMix": {},
    "CutMix": {},
    "MixUp": {},
    "RandAugment": {},
    "Solarization": {},
    "Pipeline": {"layers": [layers.RandomFlip(), layers.RandomRotation(0.1)]},
    "RandomBrightness": {"factor": 0.2},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomContrast": {"factor": 0.2},
    "RandomCrop": {"height": 8, "width": 8},
    "RandomHue": {"factor": 0.2},
    "RandomPosterization": {"factor": 4},
    "RandomRotation": {"factor": 0.1},
    "RandomSaturation": {"factor": 0.3},
    "RandomSharpness": {"factor": 0.5},
    "RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1},
    "RandomZoom": {"height_factor": 0.1},
    "AlphaDropout": {"rate": 0.5},
    "Dropout": {"rate": 0.5},
    "GaussianDropout": {"rate": 0.5},
    "GaussianNoise": {"stddev": 0.5},
    "SpatialDropout2D": {"rate": 0.5},
}
# In inference tf_keras crops from the middle, Keras 3 not at all.
CROSSING = sorted(OPTIONS.keys() - {"RandomCrop"})
IN_BOTH = {name for name in OPTIONS if hasattr(tf_keras.layers, name)}


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)).astype("float32")


def model(first, width=4, classes=3, **kwargs) -> keras.Model:
    """A small classifier behind a layer, or a model, that is called with `kwargs`."""
    image = keras.Input((8, 8, 3))
    h = layers.Rescaling(1 / 255.0)(first(image, **kwargs))
    h = layers.Conv2D(width, 3, activation="relu")(h)
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(image, layers.Dense(classes, bias_initializer="random_normal")(h))


def random_layer(name):
    return getattr(layers, name)(**OPTIONS[name])


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_networks_run_as_in_inference(name, x):
    trained = model(random_layer(name), training=True)
    network, expected = read(trained), trained(x, training=False)
    (output,) = iterate_tensors(network.outputs)
    assert_same(evaluate(network, x, [output])[output], expected)
    stepper = Stepper(network, x)
    (pooled,) = stepper.gather(output.node, lambda span, value: value)
    before = keras.Model(trained.input, trained.layers[-1].input)
    assert_same(pooled, before(x, training=False))


def augmentation():
    return keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])


@pytest.mark.parametrize(
    "first", [augmentation, lambda: layers.Dropout(0.5), lambda: layers.Pipeline([augmentation()])]
)
def test_a_separate_merge_computes_what_the_originals_do(first, x):
    models = {"a": model(first(), 4, 3, training=True), "b": model(first(), 6, 2)}
    merged = tfmot_pam.merge(models, x, method="separate", verbose=0)
    found = merged.predict(x, verbose=0)
    for task, original in models.items():
        assert_same(found[task], original.predict(x, verbose=0))


def test_compensation_fits_what_runs_in_inference(x):
    # All channels shared: the fit meets the outputs that it is to keep, or random ones.
    models = {"a": model(augmentation(), 4), "b": model(augmentation(), 4)}
    merged = tfmot_pam.merge(models, x, method="shared", width="union", verbose=0)
    found = merged.predict(x, verbose=0)
    for task, original in models.items():
        assert_same(found[task], original.predict(x, verbose=0))


def test_training_keeps_the_augmentation(x):
    again = emit(read(model(layers.RandomFlip())))
    quiet, busy = (np.array(again(x, training=training)) for training in (False, True))
    assert np.abs(busy - quiet).max() > 1e-4


@pytest.mark.filterwarnings("ignore:tf_keras has no")
@pytest.mark.parametrize("name", CROSSING)
def test_crossing(name, x):
    trained = model(random_layer(name), training=True)
    there = tfmot_pam.to_tf_keras(trained)
    back = tfmot_pam.from_tf_keras(there)
    for found in (there, back):
        assert_same(found(x, training=False), trained(x, training=False))
    kind = name if name in IN_BOTH else "Activation"
    assert [type(found.layers[1]).__name__ for found in (there, back)] == [kind, kind]


@pytest.mark.parametrize("name", ["RandomHue", "AugMix"])
def test_what_the_other_keras_lacks_is_named(name):
    with pytest.warns(UserWarning, match=f"tf_keras has no {name}: 'mine'.*linear activation"):
        tfmot_pam.to_tf_keras(model(getattr(layers, name)(**OPTIONS[name], name="mine")))


def test_what_keras_lacks_and_acts_in_training_only_is_named():
    image = tf_keras.Input((8, 8, 3))
    source = tf_keras.Model(image, StochasticDepth(name="mine")(image))
    with pytest.warns(UserWarning, match="keras has no StochasticDepth: 'mine'"):
        back = tfmot_pam.from_tf_keras(source)
    assert [type(layer).__name__ for layer in back.layers] == ["InputLayer", "Activation"]


class StochasticDepth(tf_keras.layers.Layer):
    """A layer of a user's own."""

    def call(self, inputs, training=None):
        return inputs * 0.0 if training else inputs


@pytest.mark.parametrize("nested", [False, True])
def test_layers_of_tf_keras_that_train_in_inference_are_named(nested):
    image = tf_keras.Input((8, 8, 3))
    dropout = tf_keras.layers.Dropout(0.5, name="mine")
    called = tf_keras.Sequential([dropout]) if nested else dropout
    source = tf_keras.Model(image, called(image, training=True))
    assert tfmot_pam.cost(source).macs == 0
    with pytest.raises(ValueError, match=r"\['mine'\] with training=True"):
        tfmot_pam.from_tf_keras(source)


def test_files_compute_what_runs_in_inference(x, tmp_path):
    models = {"a": model(augmentation(), 4), "b": model(augmentation(), 4)}
    merged = tfmot_pam.merge(models, x, verbose=0)
    files = tflite_export.export(merged, tmp_path / "files", mode="files", samples=x, verbose=0)
    assert len(files) == 3
    assert all(file.max_abs_error <= 1e-4 for file in files)


@keras.saving.register_keras_serializable("tests")
class Noise:
    """What can be written out, and cannot be copied or pickled."""

    def __init__(self):
        self.lock = threading.Lock()

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable("tests")
class Noisy(layers.Layer):
    """A layer whose configuration holds an object."""

    def __init__(self, noise, **kwargs):
        super().__init__(**kwargs)
        self.noise = noise

    def call(self, inputs):
        return inputs * 2.0

    def get_config(self):
        return {**super().get_config(), "noise": self.noise}


def test_configurations_need_no_copying(x):
    models = {task: model(Noisy(Noise()), width) for task, width in (("a", 4), ("b", 6))}
    merged = tfmot_pam.merge(models, x, method="separate", verbose=0)
    assert_same(merged.predict(x, verbose=0)["b"], models["b"].predict(x, verbose=0))
