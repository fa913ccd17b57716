"""Tasks may be called anything: spaces, umlauts, slashes and plus signs go the whole way."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tflite_export
import tfmot_pam
from tests.tiers import regular

layers = keras.layers
NAMES = [("what digit", "who is it"), ("größe", "日本"), ("a/b", "a+b")]
OTHERS = [("a b", "a_b"), (" a", "a "), ("a:b", "line\nbreak"), ("shared", "A")]


def model(width, classes) -> keras.Model:
    keras.utils.set_random_seed(width)
    image = keras.Input((8, 8, 2), name="image")
    h = layers.Conv2D(width, 3, activation="relu", name="conv1")(image)
    h = layers.Conv2D(width, 3, activation="relu", name="conv2")(h)
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="head")(h))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(48, 8, 8, 2)).astype("float32")


@pytest.mark.parametrize("names", regular(NAMES))
def test_names_go_the_whole_way(names, x, tmp_path):
    models = dict(zip(names, (model(8, 3), model(6, 2)), strict=True))
    labels = {task: np.arange(len(x)) % 2 for task in names}
    merged = tfmot_pam.merge(models, (x, labels), min_group=1, verbose=0)
    assert list(merged.output) == list(names)
    tuned = tfmot_pam.fine_tune(merged, (x, labels), models, epochs=1, verbose=0)
    gated = tfmot_pam.prune_channels(tuned, 0.4, "reconstruction", data=x, measure="macs")
    small = tfmot_pam.strip_pruning(gated)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    expected = small.predict(x, verbose=0)
    for task in names:
        np.testing.assert_allclose(again.predict(x, verbose=0)[task], expected[task], atol=1e-6)
        alone = tfmot_pam.select_tasks(again, [task]).predict(x, verbose=0)
        np.testing.assert_allclose(alone[task], expected[task], atol=1e-6)
    back = tfmot_pam.from_tf_keras(tfmot_pam.to_tf_keras(small))
    groups = tfmot_pam.report(small).groups
    assert groups == tfmot_pam.report(back).groups
    assert {tasks for found in groups.values() for tasks in found} <= {names, names[:1], names[1:]}
    assert set(groups) == {"conv1", "conv2"}
    files = tflite_export.export(small, tmp_path / "files", samples=x[:8], verbose=0)
    assert [file.tasks for file in files] == [names[:1], names[1:], names, names]


@pytest.mark.parametrize("names", OTHERS)
def test_groups_are_told_apart_by_any_names(names, x):
    models = dict(zip(names, (model(8, 3), model(6, 2)), strict=True))
    merged = tfmot_pam.merge(models, x, min_group=1, verbose=0)
    assert set(merged.predict(x, verbose=0)) == set(names)
    assert set(tfmot_pam.report(merged).groups) == {"conv1", "conv2"}
    shared = tfmot_pam.merge(models, x, method="shared", verbose=0)
    groups = tfmot_pam.report(shared).groups
    assert groups == {name: {names: 6, names[:1]: 2} for name in ("conv1", "conv2")}
    assert groups == tfmot_pam.report(tfmot_pam.to_tf_keras(shared)).groups
    swapped = dict(zip(names, reversed(models.values()), strict=True))
    shared = tfmot_pam.merge(swapped, x, method="shared", verbose=0)
    groups = tfmot_pam.report(shared).groups
    assert groups == {name: {names: 6, names[1:]: 2} for name in ("conv1", "conv2")}


@pytest.mark.parametrize("name", ["", None, 3])
def test_what_is_no_name_is_refused(name, x):
    with pytest.raises(TypeError, match="Task names must be non-empty strings"):
        tfmot_pam.merge({name: model(8, 3), "b": model(6, 2)}, x, verbose=0)


@pytest.mark.slow
def test_compress_takes_any_name(x, tmp_path):
    models = {"what digit": model(8, 3), "größe/+": model(6, 2)}
    options = {"arms": ["separate"], "effort": 2, "target": 0.9, "verbose": 0, "seed": 0}
    options |= {"directory": tmp_path / "kept", "portfolio": True}
    result = tfmot_pam.compress(models, x, 0.95, **options)
    assert list(result.model.output) == list(models)
    again = tfmot_pam.compress(models, x, 0.95, **options)
    assert [arm.rounds for arm in again.arms] == [arm.rounds for arm in result.arms]
    result.save(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved" / "networks").iterdir()} == {
        "what digit.keras",
        "größe%2F%2B.keras",
        "what digit+größe%2F%2B.keras",
    }
