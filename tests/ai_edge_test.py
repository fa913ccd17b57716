"""Tests of ai-edge-quantizer in the place of the converter: every mode it has, packed and run."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from tests.quantization_test import two_heads
from tflite_export import verify
from tflite_export.compile import ai_edge, subnetworks
from tflite_export.compile.quantization import QUANTIZATIONS, QUANTIZERS, find_quantization

INSTALLED = importlib.util.find_spec("ai_edge_quantizer") is not None
needs_package = pytest.mark.skipif(
    not INSTALLED, reason="the optional package ai-edge-quantizer is not installed"
)


@pytest.fixture(scope="module")
def model():
    return two_heads(400)


@pytest.fixture(scope="module")
def data():
    # Images of very different brightness: an average of their ranges would cut off the brightest.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 12, 12, 2)) * rng.uniform(0.1, 2.0, size=(32, 1, 1, 1))
    return x.astype("float32")


@pytest.fixture(scope="module")
def exports(model, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ai_edge")
    return {
        name: tflite_export.export(
            model,
            folder / name,
            combinations=["digit", "digit+edges"],
            quantization=name,
            quantizer="ai-edge-quantizer",
            representative_data=data,
            verbose=0,
        )
        for name in ai_edge.RECIPES
    }


@needs_package
def test_every_file_is_near_keras(exports, model, data):
    expected = subnetworks.keras_outputs(model, {"image": data})
    limits = {"float16": 1e-3, "dynamic": 0.02, "int8": 0.03, "int16x8": 0.01}
    for name, files in exports.items():
        for file in files:
            for signature in file.signatures:
                outputs = verify.run_file(file.path, {"image": data}, signature.name)
                assert set(outputs) == set(signature.tasks)
                for task in signature.tasks:
                    assert outputs[task].dtype == np.float32
                    assert verify.rms_error(outputs[task], expected[task]) < limits[name]


@needs_package
def test_the_one_file_shares_weights_and_equals_the_files(exports, data):
    for *alone, together in exports.values():
        assert together.bytes < 1.1 * alone[-1].bytes
        for file in alone:
            one = verify.run_file(file.path, {"image": data[:4]})
            other = verify.run_file(together.path, {"image": data[:4]}, file.signature)
            for task, values in one.items():
                np.testing.assert_array_equal(values, other[task])


@needs_package
def test_weights_that_the_package_writes_behind_the_tables_are_packed_too(exports):
    # It does so from 256 kB on, which of these only the float16 file has.
    assert exports["float16"][-2].bytes > 2**18 > exports["int8"][-2].bytes


@needs_package
def test_files_are_as_small_as_the_modes_promise(exports, model, data, tmp_path):
    (plain,) = tflite_export.export(
        model, tmp_path / "out", combinations=["digit+edges"], samples=data, verbose=0
    )
    share = {name: files[-2].bytes / plain.bytes for name, files in exports.items()}
    assert share["float16"] < 0.55
    assert max(share[name] for name in ("dynamic", "int8", "int16x8")) < 0.3


@needs_package
def test_manifest_and_card_say_which_quantiser(exports):
    folder = exports["int8"][0].path.parent
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["quantizer"] == "ai-edge-quantizer"
    assert manifest["versions"]["ai-edge-quantizer"]
    assert manifest["calibrated_on"] == 32
    assert "made by ai-edge-quantizer" in (folder / "README.md").read_text()


@needs_package
@pytest.mark.parametrize("name", ["int8", "int16x8"])
def test_integer_inputs_and_outputs(model, data, tmp_path, name, capfd):
    (file,) = tflite_export.export(
        model,
        tmp_path / "out",
        combinations=["digit+edges"],
        quantization=name,
        quantizer="ai-edge-quantizer",
        representative_data=data,
        integer_io=True,
        verbose=0,
    )
    (tensors,) = verify.describe_file(file.path).values()
    for tensor in (*tensors["inputs"].values(), *tensors["outputs"].values()):
        assert tensor["dtype"] == QUANTIZATIONS[name].integers
        assert tensor["scale"] > 0
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.slow
@needs_package
def test_tuned_files(model, data, tmp_path):
    files = tflite_export.export(
        model,
        tmp_path / "out",
        combinations=["digit"],
        quantization="dynamic",
        quantizer="ai-edge-quantizer",
        tune="estimate",
        samples=data,
        verbose=0,
    )
    assert [file.path.stem for file in files] == ["digit"]


@needs_package
def test_integer_inputs_to_16_bits_that_the_converter_refuses(tmp_path):
    token = keras.Input((4,), dtype="int32", name="token")
    embedded = layers.GlobalMaxPooling1D()(layers.Embedding(9, 6)(token))
    head = layers.Dense(2, bias_initializer="random_normal", name="mood")
    model = keras.Model(token, head(embedded))
    x = np.random.default_rng(0).integers(0, 9, (32, 4))
    options = {"quantization": "int16x8", "representative_data": x, "verbose": 0}
    with pytest.raises(ValueError, match="TFLite converter failed"):
        tflite_export.export(model, tmp_path / "out", **options)
    (file,) = tflite_export.export(
        model, tmp_path / "out", quantizer="ai-edge-quantizer", **options
    )
    assert file.max_abs_error < 1e-3


@needs_package
def test_a_file_that_cannot_be_quantised_is_explained(model, data, tmp_path):
    (packed,) = tflite_export.export(
        model, tmp_path / "out", combinations=["digit"], samples=data, verbose=0
    )
    message = "cannot quantise 'digit' to 'dynamic' .*not unique.*Take quantizer='converter'"
    with pytest.raises(ValueError, match=message):
        ai_edge.quantize("dynamic", packed.path.read_bytes(), "digit", None, False)


def test_modes_without_a_recipe_and_unknown_quantisers(model, tmp_path):
    for arguments, message in (
        ({"quantizer": "mine"}, r"Unknown quantizer. Received: 'mine'.*'ai-edge-quantizer'"),
        ({"quantizer": "ai-edge-quantizer"}, r"no recipe for quantization='none'.*'float16'"),
    ):
        with pytest.raises(ValueError, match=message):
            tflite_export.export(model, tmp_path / "out", verbose=0, **arguments)


def test_missing_package_is_explained(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'tfmot-pam\[ai-edge-quantizer\]'"):
        find_quantization("int8", "ai-edge-quantizer")


def test_both_quantisers_hold_files_to_the_same_tolerance():
    for name, scheme in QUANTIZERS["ai-edge-quantizer"].items():
        assert scheme.tolerance == QUANTIZATIONS[name].tolerance
        assert scheme.measure is QUANTIZATIONS[name].measure
