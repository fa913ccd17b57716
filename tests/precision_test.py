"""Models of half and of double precision: merged, trained, pruned, crossed and exported."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tflite_export
import tfmot_pam
from tests.tiers import regular
from tflite_export import verify
from tflite_export.compile import checks, subnetworks
from tflite_export.compile.quantization import QUANTIZATIONS
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.precision import in_float32, is_in_float32
from tfmot_pam.graph.reader import read

layers = keras.layers
# Of which the first runs each time: float32 beside half precision.
POLICIES = ["mixed_bfloat16", "float64", "float16", "bfloat16", "mixed_float16"]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(48, 8, 8, 2)).astype("float32")


def model(policy: str, width=6, classes=3) -> keras.Model:
    """All its layers, those of a model in it included, are of one policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        image = keras.Input((8, 8, 2), name="image")
        stem = [layers.Conv2D(width, 3, activation="relu"), layers.BatchNormalization()]
        h = keras.Sequential([keras.Input((8, 8, 2)), *stem])(image)
        h = layers.GlobalAveragePooling2D()(layers.Conv2D(width, 3, activation="relu")(h))
        return keras.Model(image, layers.Dense(classes, bias_initializer="random_normal")(h))
    finally:
        keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module", params=regular(POLICIES))
def models(request):
    return {"a": model(request.param, 6, 3), "b": model(request.param, 8, 2)}


@pytest.fixture(scope="module")
def merged(models, x):
    return tfmot_pam.merge(models, x, min_group=1, verbose=0)


def test_a_separate_merge_rounds_as_the_originals_do(models, x):
    separate = tfmot_pam.merge(models, x, method="separate", verbose=0)
    found = separate.predict(x, verbose=0)
    for task, original in models.items():
        expected = original.predict(x, verbose=0)
        assert found[task].dtype == expected.dtype
        np.testing.assert_array_equal(found[task], expected)


def test_what_is_merged_trains_and_loses_channels_in_its_precision(models, merged, x):
    tuned = tfmot_pam.fine_tune(merged, x, models, epochs=1, verbose=0)
    gated = tfmot_pam.prune_channels(tuned, 0.5, "reconstruction", data=x)
    small = tfmot_pam.strip_pruning(gated)
    assert small.count_params() < merged.count_params()
    for task, original in models.items():
        assert small.output[task].dtype == original.outputs[0].dtype
        assert np.isfinite(small.predict(x, verbose=0)[task].astype("float32")).all()


def test_crossing_keeps_the_precision(models, merged):
    back = tfmot_pam.from_tf_keras(tfmot_pam.to_tf_keras(merged))
    for task, original in models.items():
        assert back.output[task].dtype == original.outputs[0].dtype


def test_files_are_of_float32(merged, x, tmp_path):
    files = tflite_export.export(merged, tmp_path / "files", samples=x[:8], verbose=0)
    assert len(files) == 4
    assert all(file.max_abs_error <= 1e-5 for file in files)


def test_int8_files(x, tmp_path):
    options = {"quantization": "int8", "representative_data": x, "mode": "files", "verbose": 0}
    (file,) = tflite_export.export(model("mixed_float16"), tmp_path / "files", **options)
    assert file.max_abs_error <= 0.1


def one_layer(layer, size=(4, 4, 2)) -> Network:
    image = keras.Input(size, dtype=layer.compute_dtype)
    return read(keras.Model(image, layer(image)))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(2, 1, dtype="float64"),
        layers.TimeDistributed(layers.Dense(2, dtype="float16"), dtype="float16"),
        tfmot_pam.TaskGroup(layers.Dense(2, dtype="bfloat16"), ("a",)),
    ],
)
def test_layers_become_float32_and_those_within(layer):
    network = one_layer(layer)
    assert not is_in_float32(network)
    changed = in_float32(network)
    assert is_in_float32(changed)
    assert "float16" not in repr([found.config for found in changed.layers.values()])
    weights = [w for found in changed.layers.values() for w in found.weights.values()]
    assert {weight.dtype for weight in weights} == {np.dtype("float32")}


def test_casts_become_float32():
    image = keras.Input((4,))
    network = read(keras.Model(image, keras.ops.cast(image, "float16")))
    assert not is_in_float32(network)
    assert is_in_float32(in_float32(network))


def test_integers_and_text_stay():
    tokens = keras.Input((4,), dtype="int32")
    embedded = layers.Embedding(5, 3, dtype="float16")(tokens)
    changed = in_float32(read(keras.Model(tokens, embedded)))
    entry, embedding = changed.layers.values()
    assert entry.config["dtype"] == "int32"
    assert embedding.config["dtype"] == "float32"


def test_what_is_in_float32_stays_itself():
    assert is_in_float32(one_layer(layers.Conv2D(2, 1)))


def test_files_may_be_as_far_off_as_keras_rounds(tmp_path, monkeypatch):
    """A file is held against Keras, and where both round badly against double precision."""
    exact = np.zeros((2, 3))
    keras_value, near, far = (np.full((2, 3), error) for error in (2e-4, -3e-4, -5e-4))
    answers = iter((near, far))
    monkeypatch.setattr(verify, "run_file", lambda *_: {"a": next(answers)})
    found = checks.Checks(
        QUANTIZATIONS["none"],
        {"a": ("a",)},
        {"x": np.zeros((2, 3))},
        {"a": keras_value},
        lambda: {"a": exact},
    )
    assert found.agreement(tmp_path / "a.tflite", "a", ["a"])["a"].max_abs_error == 5e-4
    with pytest.raises(ValueError, match="disagrees with the Keras model"):
        found.agreement(tmp_path / "a.tflite", "a", ["a"])


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_double_precision_tells_how_networks_round(policy, x):
    network = in_float32(read(model(policy)))
    network = network.replace(outputs={"a": network.outputs})
    found = subnetworks.exact_outputs(network, {"image": x})["a"]
    assert found.dtype == np.float64
    expected = emit(network)(x)["a"]
    error = np.abs(found - expected).max()
    assert 0.0 < error < 1e-5
