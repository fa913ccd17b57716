"""Networks of `keras.applications`, merged."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tflite_export
import tfmot_pam
from tests import random_models
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.alignment import align
from tfmot_pam.merging.assemble import assemble
from tfmot_pam.merging.grouping import fixed_masks

# Options that keep the networks small; their structure is the published one.
APPLICATIONS = {
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {},
    "ResNet50": {},
    "EfficientNetB0": {},
    "DenseNet121": {},
    "VGG16": {},
}


def two_models(name: str) -> dict[str, keras.Model]:
    """Two networks with random weights and statistics, and heads of 7 and 5 logits."""
    return {task: _model(name, task, classes) for task, classes in {"a": 7, "b": 5}.items()}


def _model(name: str, task: str, classes: int) -> keras.Model:
    build = getattr(keras.applications, name)
    body = build(
        weights=None,
        input_shape=(32, 32, 3),
        include_top=False,
        pooling="avg",
        **APPLICATIONS[name],
    )
    head = keras.layers.Dense(classes, name=task)(body.output)
    return random_models.randomise(keras.Model(body.input, head), classes)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.0, 255.0, (count, 32, 32, 3)).astype("float32")


def assert_reproduces(merged, models, x):
    found = merged(x, training=False)
    assert list(found) == list(models)
    for task, model in models.items():
        expected = keras.ops.convert_to_numpy(model(x, training=False))
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found[task] / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_separate_merges_reproduce_both_models(name):
    models, x = two_models(name), images(2)
    alignment = align(list(models), [read(model) for model in models.values()])
    assert [alignment.head(k) for k in range(2)] == [("a",), ("b",)]
    assert not any(space.frozen for space in alignment.spaces)
    merged = emit(assemble(alignment, fixed_masks(alignment)).network)
    assert_reproduces(merged, models, x)


def test_shared_merge_reproduces_both_models():
    models, x = two_models("MobileNetV2"), images(2)
    options = {"method": "shared", "width": "union", "compensation": False}
    merged = tfmot_pam.merge(models, x, **options, verbose=0)
    assert_reproduces(merged, models, x)
    assert merged.merge_plan.shared == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_shared_merges_reproduce_both_models(name):
    models, x = two_models(name), images(2)
    options = {"method": "shared", "width": "union", "compensation": False}
    merged = tfmot_pam.merge(models, x, **options, verbose=0)
    assert_reproduces(merged, models, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_pam_merges_run_and_export(name, tmp_path):
    models, x = two_models(name), images(64)
    merged = tfmot_pam.merge(models, x, samples=64, verbose=0)
    for task, value in merged(x[:4], training=False).items():
        assert value.shape == models[task](x[:4]).shape
        assert np.isfinite(value).all()
    files = tflite_export.export(merged, tmp_path / "files", verbose=0)
    assert [file.tasks for file in files] == [("a",), ("b",), ("a", "b"), ("a", "b")]
    assert files[0].bytes < files[2].bytes
