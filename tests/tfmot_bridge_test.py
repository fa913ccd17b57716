"""What all of TFMOT's techniques have in common here, and what none of them takes."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras

import tfmot_pam
from tests.tfmot_bridge_models import HEADS, ROOT, merged_model
from tfmot_pam.graph.generation import is_tf_keras


@HEADS
def test_the_merged_models_of_these_tests_have_groups(heads):
    """A network that shares all or nothing would show little."""
    model = merged_model(heads)
    groups = [layer for layer in model.layers if isinstance(layer, tfmot_pam.TaskGroup)]
    tasks = {tuple(group.tasks) for group in groups}
    assert tuple(model.output) in tasks
    assert len(tasks) > heads
    assert sum(isinstance(group.layer, keras.layers.Concatenate) for group in groups) > heads


TECHNIQUES = {
    "prune": tfmot_pam.prune_low_magnitude,
    "cluster": lambda model, **options: tfmot_pam.cluster_weights(model, 4, **options),
    "quantise": tfmot_pam.quantize_model,
}


def small_model(kerases):
    x = kerases.Input((8,), name="x")
    trunk = kerases.layers.Dense(6, activation="relu", name="trunk")(x)
    heads = {name: kerases.layers.Dense(3, name=name)(trunk) for name in ("b", "a")}
    return kerases.Model(x, heads)


@pytest.mark.parametrize("kerases", [keras, tf_keras])
@pytest.mark.parametrize("technique", TECHNIQUES.values(), ids=TECHNIQUES.keys())
def test_inputs_are_left_alone(technique, kerases):
    model = small_model(kerases)
    x = np.ones((2, 8), "float32")
    before, outputs = model.get_weights(), model(x)
    found = technique(model)
    assert is_tf_keras(found)
    assert list(found.output) == ["b", "a"]
    assert list(found.output_names) == ["a", "b"]
    for weight in found.weights:
        weight.assign(np.ones(weight.shape))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for task, value in outputs.items():
        np.testing.assert_array_equal(model(x)[task], value)
    assert model.get_layer("trunk").output is not None


def test_stripping_leaves_the_wrapped_model_alone():
    wrapped = tfmot_pam.prune_low_magnitude(small_model(keras))
    before = wrapped.get_weights()
    stripped = tfmot_pam.strip_wrappers(wrapped)
    assert [layer.name for layer in stripped.layers] == ["x", "trunk", "a", "b"] or [
        layer.name for layer in stripped.layers
    ] == ["x", "trunk", "b", "a"]
    for weight in stripped.weights:
        weight.assign(np.ones(weight.shape))
    for one, other in zip(before, wrapped.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert wrapped.get_layer("prune_low_magnitude_trunk").output is not None


@pytest.mark.parametrize("technique", ["prune", "cluster"])
def test_skipped_layers_stay_plain(technique):
    found = TECHNIQUES[technique](small_model(keras), skip=["a", "trunk"])
    assert {"a", "trunk"} <= {layer.name for layer in found.layers}
    assert "b" not in {layer.name for layer in found.layers}


def test_skipped_layers_are_not_quantised():
    found = tfmot_pam.quantize_model(small_model(keras), skip=["a", "trunk"])
    assert type(found.get_layer("a")).__name__ == "Dense"
    # What a quantised layer reads is quantised all the same.
    config = found.get_layer("quant_trunk").quantize_config
    assert config.get_weights_and_quantizers(found.get_layer("quant_trunk").layer) == []


PROGRAM = """
import os
import keras, tfmot_pam
x = keras.Input((8,), name="x")
model = keras.Model(x, {"a": keras.layers.Dense(4, name="a")(x)})
tfmot_pam.prune_low_magnitude(model)
import tensorflow as tf
assert tf.keras.layers.Dense is keras.layers.Dense
assert "TF_USE_LEGACY_KERAS" not in os.environ
"""


@pytest.mark.slow
def test_tfmot_changes_nothing_for_the_user():
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=ROOT, env=environment)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("technique", TECHNIQUES.values(), ids=TECHNIQUES.keys())
def test_bad_models(technique):
    with pytest.raises(TypeError, match="must be a keras.Model of Keras 3. Received: 'model'"):
        technique("model")
    with pytest.raises(ValueError, match=r"`skip` names the layers \['c'\].*Correct the names"):
        technique(small_model(keras), skip="c")
    with pytest.raises(ValueError, match="must be stripped first"):
        technique(tfmot_pam.prune_low_magnitude(small_model(keras)))


def test_nothing_to_treat():
    x = keras.Input((4, 4, 3))
    model = keras.Model(x, keras.layers.DepthwiseConv2D(3, name="depth")(x))
    for technique in ("prune", "cluster"):
        with pytest.raises(ValueError, match="no layer that TFMOT can .*'depth'.*at least one"):
            TECHNIQUES[technique](model)


def test_bad_options():
    model = small_model(keras)
    with pytest.raises(ValueError, match="number_of_clusters=1.*at least 2"):
        tfmot_pam.cluster_weights(model, 1)
    with pytest.raises(TypeError, match="'kmeans\\+\\+' of type str.*KMEANS_PLUS_PLUS"):
        tfmot_pam.cluster_weights(model, 4, "kmeans++")
    with pytest.raises(ValueError, match="Unknown `preserve`: 'zeros'.*'sparsity'"):
        tfmot_pam.quantize_model(model, preserve="zeros")


def test_models_that_were_never_wrapped():
    with pytest.raises(TypeError, match="tf_keras model that TFMOT has wrapped.*strip_pruning"):
        tfmot_pam.strip_wrappers(small_model(keras))
    with pytest.raises(ValueError, match="must not be wrapped for quantisation.*tflite_export"):
        tfmot_pam.strip_wrappers(tfmot_pam.quantize_model(small_model(keras)))
