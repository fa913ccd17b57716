"""TFMOT's quantisation aware training of merged models: trained, converted, run, measured."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import tflite_export
import tfmot_pam
from tests.tfmot_bridge_models import (
    HEADS,
    X,
    kernels,
    merged_model,
    most_values,
    stored_kernels,
    train,
    treated,
    zeros,
)
from tflite_export import verify


def check_quantized(model, source, folder) -> list[np.ndarray]:
    """Trains, exports and runs every combination against Keras; the largest file's int8 kernels."""
    train(model)
    expected = {task: np.asarray(value) for task, value in model(X[:32], training=False).items()}
    files = tflite_export.export(
        model, folder / "out", quantization="int8", samples=X[:64], verbose=0
    )
    assert [file.tasks for file in files[:-1]] == tfmot_pam.combinations(source)
    assert len(files[-1].signatures) == len(files) - 1
    for file in files:
        for signature in file.signatures:
            found = verify.run_file(file.path, {"spectrogram": X[:32]}, signature.name)
            assert set(found) == set(signature.tasks)
            for task, values in found.items():
                # Outputs are probabilities; an int8 step of an output is 1/256.
                assert np.abs(values - expected[task]).mean() < 0.01
            assert signature.label_agreement >= 0.9
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    for entry in manifest["files"]:
        for signature in entry["signatures"]:
            counted = tfmot_pam.cost(source, signature["tasks"])
            found = signature["macs"], signature["parameters"]
            assert found == (counted.macs, counted.parameters)
    content = files[-2].path.read_bytes()
    assert len(content) < 4 * sum(np.size(weight) for weight in source.get_weights())
    stored = stored_kernels(content, np.int8)
    assert len(stored) == len(kernels(source))
    return stored


@HEADS
@pytest.mark.slow
def test_quantisation_aware_training(heads, tmp_path):
    merged = merged_model(heads)
    check_quantized(tfmot_pam.quantize_model(merged), tfmot_pam.to_tf_keras(merged), tmp_path)


@HEADS
@pytest.mark.slow
def test_quantisation_that_keeps_sparsity(heads, tmp_path):
    source = treated("half", heads)
    model = tfmot_pam.quantize_model(source, preserve="sparsity")
    stored = check_quantized(model, source, tmp_path)
    assert sum(np.sum(kernel == 0) for kernel in stored) >= sum(
        np.sum(kernel == 0) for kernel in kernels(source).values()
    )


@HEADS
@pytest.mark.slow
def test_quantisation_that_keeps_clusters(heads, tmp_path):
    source = treated("clusters", heads)
    model = tfmot_pam.quantize_model(source, preserve="clusters")
    assert most_values(check_quantized(model, source, tmp_path)) <= 8


@HEADS
@pytest.mark.slow
def test_quantisation_that_keeps_sparsity_and_clusters(heads, tmp_path):
    source = treated("sparse clusters", heads)
    model = tfmot_pam.quantize_model(source, preserve="sparsity+clusters")
    stored = check_quantized(model, source, tmp_path)
    assert most_values(stored) <= 9
    assert np.mean([zeros(kernel) for kernel in stored]) > 0.45


@HEADS
@pytest.mark.slow
def test_convolutions_without_zeros_are_named(heads):
    with pytest.warns(UserWarning, match="'conv1_.*no zeros, so that TFMOT may keep none of those"):
        tfmot_pam.quantize_model(merged_model(heads), preserve="sparsity+clusters")


@pytest.mark.slow
def test_layers_that_tfmot_cannot_quantise(tmp_path):
    """They compute in floats, their outputs are quantised, and the rest is as always."""
    layers = keras.layers
    x = keras.Input((32, 32, 1), name="spectrogram")
    h = layers.Conv2D(4, 3, 2, activation="hard_silu", name="conv")(layers.Rescaling(0.5)(x))
    h = layers.BatchNormalization(name="alone")(layers.MaxPooling2D()(h))
    h = layers.LayerNormalization(name="norm")(layers.Flatten()(h))
    model = keras.Model(x, {"digit": layers.Dense(10, activation="softmax", name="digit")(h)})
    quantized = train(tfmot_pam.quantize_model(model))
    (file,) = tflite_export.export(quantized, tmp_path / "out", quantization="int8", verbose=0)
    found = verify.run_file(file.path, {"spectrogram": X[:1]})["digit"]
    np.testing.assert_allclose(found, quantized(X[:1])["digit"], atol=0.05)
    assert len(stored_kernels(file.path.read_bytes(), np.int8)) == 2
