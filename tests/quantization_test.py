"""Tests of every quantisation: errors, sizes, integer inputs and outputs, sparse weights."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from tests.tiers import regular
from tflite_export import verify
from tflite_export.compile import packing, subnetworks
from tflite_export.compile.quantization import QUANTIZATIONS, find_quantization


def two_heads(units=96):
    """A model whose tasks share a layer; `units` decides how large its largest kernel is."""
    keras.utils.set_random_seed(3)
    image = keras.Input((12, 12, 2), name="image")
    options = {"padding": "same", "activation": "relu", "bias_initializer": "random_normal"}
    shared = layers.Conv2D(24, 3, **options)(image)
    own = layers.Conv2D(16, 3, **options)(image)
    joined = layers.Concatenate()([shared, own])
    digit = layers.Dense(units, bias_initializer="random_normal")
    pooled = layers.AveragePooling2D(4)(joined)
    outputs = {
        "digit": layers.Dense(5, activation="softmax", bias_initializer="random_normal")(
            digit(layers.Flatten()(pooled))
        ),
        "edges": layers.Conv2D(3, 1, bias_initializer="random_normal")(shared),
    }
    return keras.Model(image, outputs)


@pytest.fixture(scope="module")
def model():
    return two_heads()


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(24, 12, 12, 2)).astype("float32")


@pytest.fixture(scope="module")
def exports(model, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    return {
        name: tflite_export.export(
            model,
            folder / name,
            combinations=["digit", "digit+edges"],
            quantization=name,
            representative_data=data,
            verbose=0,
        )
        for name in QUANTIZATIONS
    }


def test_every_quantization_stays_near_keras(exports, model, data):
    expected = subnetworks.keras_outputs(model, {"image": data})
    for files in exports.values():
        assert len(files) == 3
        for file in files:
            for signature in file.signatures:
                outputs = verify.run_file(file.path, {"image": data}, signature.name)
                for task in signature.tasks:
                    assert outputs[task].dtype == np.float32
                    assert verify.rms_error(outputs[task], expected[task]) < 0.05
                assert signature.label_agreement > 0.9


def test_finer_numbers_are_nearer(exports):
    errors = {name: files[-1].max_abs_error for name, files in exports.items()}
    assert errors["none"] < errors["float16"] < errors["int16x8"] <= 2 * errors["int8"]
    assert errors["none"] < 1e-5 < errors["dynamic"]


def test_sizes(exports):
    sizes = {name: files[1].bytes for name, files in exports.items()}
    assert sizes["float16"] < 0.6 * sizes["none"]
    assert max(sizes[name] for name in ("dynamic", "int8", "int16x8")) < 0.4 * sizes["none"]
    for files in exports.values():
        assert files[-1].bytes < 1.1 * files[1].bytes


def test_calibrated_exports_say_so(exports):
    for name, files in exports.items():
        manifest = json.loads((files[0].path.parent / "manifest.json").read_text())
        assert manifest["calibrated_on"] == (24 if QUANTIZATIONS[name].calibrated else None)
        assert manifest["checked_on"] == {"inputs": "given", "number": 24}


def half(converter):
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def test_a_quantization_of_the_users_own(exports, model, tmp_path):
    mine = tflite_export.Quantization("half", half, tolerance=0.01, weight_bytes=2)
    options = {"combinations": ["digit"], "verbose": 0}
    (file,) = tflite_export.export(model, tmp_path / "out", quantization=mine, **options)
    assert file.quantization == "half"
    assert file.bytes < 0.6 * exports["none"][0].bytes
    assert "stored as half" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    one, other = (
        tflite_export.export(model, tmp_path / folder, quantization=way, **options)[0]
        for folder, way in (("name", "none"), ("object", QUANTIZATIONS["none"]))
    )
    assert one.path.read_bytes() == other.path.read_bytes()
    strict = dataclasses.replace(mine, tolerance=1e-9)
    with pytest.raises(ValueError, match="digit"):
        tflite_export.export(model, tmp_path / "strict", quantization=strict, **options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": ""}, TypeError, "Received name=''"),
        ({"configure": None}, TypeError, "Pass the functions themselves"),
        ({"name": "int8"}, ValueError, "one of your own called 'int8'"),
        ({"quantizer": "ai-edge-quantizer"}, ValueError, "Leave `quantizer` out"),
    ],
)
def test_bad_quantizations(model, tmp_path, changes, error, message):
    about = {"name": "half", "configure": half, **changes}
    quantizer = about.pop("quantizer", "converter")
    with pytest.raises(error, match=message):
        tflite_export.export(
            model,
            tmp_path / "out",
            quantization=tflite_export.Quantization(**about),
            quantizer=quantizer,
            verbose=0,
        )


@pytest.mark.parametrize("name", ["int8", "int16x8"])
def test_integer_inputs_and_outputs(model, data, tmp_path, name):
    (file,) = tflite_export.export(
        model,
        tmp_path / "out",
        combinations=["digit+edges"],
        quantization=name,
        representative_data=data,
        integer_io=True,
        verbose=0,
    )
    (signature,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"][0][
        "signatures"
    ]
    tensors = {**signature["inputs"], **signature["outputs"]}
    assert set(tensors) == {"image", "digit", "edges"}
    for tensor in tensors.values():
        assert tensor["dtype"] == QUANTIZATIONS[name].integers
        assert tensor["scale"] > 0
    runner = verify.signature_runner(verify.open_file(file.path), None, "file")
    given = signature["inputs"]["image"]
    limits = np.iinfo(given["dtype"])
    stored = np.clip(data[:1] / given["scale"] + given["zero_point"], limits.min, limits.max)
    raw = runner(image=stored.round().astype(given["dtype"]))["digit"]
    assert raw.dtype == given["dtype"]
    of_digit = signature["outputs"]["digit"]
    real = (raw.astype("float32") - of_digit["zero_point"]) * of_digit["scale"]
    np.testing.assert_allclose(real, model(data[:1])["digit"], atol=0.02)


def test_quantised_file_beyond_its_tolerance_is_an_error(tmp_path):
    signal = keras.Input((4,), name="signal")
    head = layers.Dense(2, bias_initializer="random_normal", name="digit")
    model = keras.Model(signal, head(signal))
    # Activations far beyond what the quantiser was shown are cut off.
    shown = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ValueError, match=r"digit\.tflite disagrees.*rms error.*at most 0\.2"):
        tflite_export.export(
            model,
            tmp_path / "out",
            quantization="int8",
            representative_data=shown,
            samples=10 * shown,
            verbose=0,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", regular(["int8", "none", "float16"]))
def test_sparse_kernels_are_packed_where_that_works(data, tmp_path, name):
    rng = np.random.default_rng(0)
    sizes = {}
    for kind in ("dense", "sparse"):
        model = two_heads(units=160)
        if kind == "sparse":
            for layer in model.layers:
                if layer.weights and layer.name.startswith("dense"):
                    kernel, bias = layer.get_weights()
                    layer.set_weights([kernel * (rng.random(kernel.shape) > 0.9), bias])
        assert subnetworks.is_sparse(model) == (kind == "sparse")
        (file,) = tflite_export.export(
            model,
            tmp_path / kind,
            combinations=["digit"],
            quantization=name,
            representative_data=data,
            verbose=0,
        )
        sizes[kind] = file.bytes
    ratio = sizes["sparse"] / sizes["dense"]
    assert ratio < 0.75 if QUANTIZATIONS[name].sparse else ratio == pytest.approx(1, abs=0.02)


def _recurrent_model(layer):
    series = keras.Input((4, 3), name="series")
    head = layers.Dense(2, bias_initializer="random_normal", name="mood")
    return keras.Model(series, head(layer(series)))


@pytest.mark.parametrize(
    "layer", [layers.GRU(4, name="gru"), layers.Bidirectional(layers.LSTM(4), name="both")]
)
def test_loops_cannot_be_calibrated(layer, tmp_path):
    """The converter's calibration of a loop would end the process."""
    series = np.random.default_rng(0).normal(size=(16, 4, 3))
    options = {"representative_data": series, "verbose": 0}
    model = _recurrent_model(layer)
    for quantization in ("int8", "int16x8"):
        with pytest.raises(ValueError, match=rf"into loops.*\['{layer.name}'\].*unroll=True"):
            tflite_export.export(model, tmp_path / "out", quantization=quantization, **options)
    (file,) = tflite_export.export(model, tmp_path / "out", quantization="dynamic", **options)
    assert file.max_abs_error < 0.1


def test_unrolled_layers_can_be_calibrated(tmp_path):
    series = np.random.default_rng(0).normal(size=(32, 4, 3))
    model = _recurrent_model(layers.GRU(4, unroll=True))
    options = {"quantization": "int8", "representative_data": series, "verbose": 0}
    (file,) = tflite_export.export(model, tmp_path / "out", **options)
    assert file.max_abs_error < 0.1


@pytest.mark.parametrize(
    ("quantization", "weight_bytes"), [("none", 4), ("float16", 2), ("int8", 1)]
)
def test_what_is_too_large_for_a_file_is_refused_before_it_is_made(quantization, weight_bytes):
    scheme = find_quantization(quantization)
    assert scheme.weight_bytes == weight_bytes
    most = packing.LIMIT // weight_bytes
    subnetworks.check_sizes({"a": {"parameters": most}}, scheme.weight_bytes)
    reason = rf"'a\+b' has {most + 1:,} weights, 2.1 GB .* less than the 2 GB .* Choose a"
    costs = {"a": {"parameters": 1}, "a+b": {"parameters": most + 1}}
    with pytest.raises(ValueError, match=reason):
        subnetworks.check_sizes(costs, scheme.weight_bytes)
