"""TFMOT's quantisation aware training of merged models: trained, converted, run, measured."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfmot_pam
from tests.toolkit_models import (
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


def check_quantized(model, source) -> list[np.ndarray]:
    """Trains, converts and runs a model in LiteRT against Keras; its kernels in int8."""
    train(model)
    content = tfmot_pam.convert_quantized(model)
    assert len(content) < 4 * sum(np.size(weight) for weight in source.get_weights())
    runner = Interpreter(model_content=content).get_signature_runner("serving_default")
    assert list(runner.get_input_details()) == ["spectrogram"]
    assert sorted(runner.get_output_details()) == sorted(model.output)
    expected = model(X[:32], training=False)
    found = [runner(spectrogram=sample[None]) for sample in X[:32]]
    for task, value in expected.items():
        outputs = np.concatenate([result[task] for result in found])
        # Outputs are probabilities; an int8 step of an output is 1/256.
        assert np.abs(outputs - value).mean() < 0.02
        assert np.mean(outputs.argmax(axis=1) == np.argmax(value, axis=1)) >= 0.85
    stored = stored_kernels(content, np.int8)
    assert len(stored) == len(kernels(source))
    return stored


@HEADS
@pytest.mark.slow
def test_quantisation_aware_training(heads):
    merged = merged_model(heads)
    check_quantized(tfmot_pam.quantize_model(merged), tfmot_pam.to_tf_keras(merged))


@HEADS
@pytest.mark.slow
def test_quantisation_that_keeps_sparsity(heads):
    source = treated("half", heads)
    stored = check_quantized(tfmot_pam.quantize_model(source, preserve="sparsity"), source)
    assert sum(np.sum(kernel == 0) for kernel in stored) >= sum(
        np.sum(kernel == 0) for kernel in kernels(source).values()
    )


@HEADS
@pytest.mark.slow
def test_quantisation_that_keeps_clusters(heads):
    source = treated("clusters", heads)
    stored = check_quantized(tfmot_pam.quantize_model(source, preserve="clusters"), source)
    assert most_values(stored) <= 8


@HEADS
@pytest.mark.slow
def test_quantisation_that_keeps_sparsity_and_clusters(heads):
    source = treated("sparse clusters", heads)
    model = tfmot_pam.quantize_model(source, preserve="sparsity+clusters")
    stored = check_quantized(model, source)
    assert most_values(stored) <= 9
    assert np.mean([zeros(kernel) for kernel in stored]) > 0.45


@HEADS
@pytest.mark.slow
def test_convolutions_without_zeros_are_named(heads):
    with pytest.warns(UserWarning, match="'conv1_.*no zeros, so that TFMOT may keep none of those"):
        tfmot_pam.quantize_model(merged_model(heads), preserve="sparsity+clusters")


@HEADS
@pytest.mark.slow
def test_quantised_combinations(heads):
    model = tfmot_pam.quantize_model(merged_model(heads))
    train(model)
    whole = tfmot_pam.convert_quantized(model)
    part = tfmot_pam.convert_quantized(model, "digit")
    assert len(part) < len(whole)
    runners = [Interpreter(model_content=c).get_signature_runner() for c in (whole, part)]
    assert list(runners[1].get_output_details()) == ["digit"]
    first, second = (runner(spectrogram=X[:1])["digit"] for runner in runners)
    np.testing.assert_array_equal(first, second)


def test_layers_that_tfmot_cannot_quantise():
    """They compute in floats, their outputs are quantised, and the rest is as always."""
    layers = keras.layers
    x = keras.Input((32, 32, 1), name="spectrogram")
    h = layers.Conv2D(4, 3, 2, activation="hard_silu", name="conv")(layers.Rescaling(0.5)(x))
    h = layers.BatchNormalization(name="alone")(layers.MaxPooling2D()(h))
    h = layers.LayerNormalization(name="norm")(layers.Flatten()(h))
    model = keras.Model(x, {"digit": layers.Dense(10, activation="softmax", name="digit")(h)})
    quantized = tfmot_pam.quantize_model(model)
    train(quantized)
    content = tfmot_pam.convert_quantized(quantized)
    found = Interpreter(model_content=content).get_signature_runner()(spectrogram=X[:1])["digit"]
    np.testing.assert_allclose(found, quantized(X[:1])["digit"], atol=0.05)
    assert len(stored_kernels(content, np.int8)) == 2
