"""Tests of folders in which each combination is a file of a network of its own."""

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from tflite_export import verify
from tflite_export.ship import manifest

TOGETHER = ("digit", "speaker")


def network(tasks, seed, name="signal", size=6):
    keras.utils.set_random_seed(seed)
    signal = keras.Input((size,), name=name)
    hidden = layers.Dense(5 + seed, activation="relu")(signal)
    heads = {task: layers.Dense(3, bias_initializer="random_normal")(hidden) for task in tasks}
    return keras.Model(signal, heads)


@pytest.fixture(scope="module")
def models():
    # The network of the second key serves more tasks than it is wanted for.
    return {("digit",): network(["digit"], 0), ("speaker", "digit"): network(TOGETHER, 1),
            ("speaker",): network(TOGETHER, 2)}  # fmt: skip


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks") / "out"
    tflite_export.export(models, folder, verbose=0)
    return folder


def test_every_combination_is_a_file_of_its_own_network(models, folder):
    x = np.random.default_rng(0).normal(size=(9, 6)).astype("float32")
    files = manifest.read(folder)["files"]
    names = ["digit.tflite", "digit+speaker.tflite", "speaker.tflite"]
    assert [file["file"] for file in files] == names
    for name, model in zip(names, models.values(), strict=True):
        found = verify.run_file(folder / name, {"signal": x})
        assert list(found) == name.removesuffix(".tflite").split("+")
        for task, outputs in found.items():
            np.testing.assert_allclose(outputs, model(x)[task], atol=1e-5)


def test_the_folder_has_one_manifest_and_can_be_measured(folder):
    about = manifest.read(folder)
    assert (about["tasks"], about["mode"]) == (["digit", "speaker"], "files")
    macs = [file["signatures"][0]["macs"] for file in about["files"]]
    assert macs == [6 * 5 + 5 * 3, 6 * 6 + 6 * 6, 6 * 7 + 7 * 3]
    found = tflite_export.benchmark(folder, threads=(1,), rounds=1, runs=2, verbose=0, update=False)
    assert [row.tasks for row in found.rows] == [("digit",), TOGETHER, ("speaker",)]


def test_some_combinations_of_a_dict(models, tmp_path):
    chosen = ["speaker+digit", ("digit",)]
    options = {"combinations": chosen, "mode": "files", "verbose": 0}
    files = tflite_export.export(models, tmp_path / "out", **options)
    assert [file.tasks for file in files] == [TOGETHER, ("digit",)]


def test_task_names_with_a_plus_are_keys_too(tmp_path):
    files = tflite_export.export({"a+b": network(["a+b"], 0)}, tmp_path / "out", verbose=0)
    assert [file.tasks for file in files] == [("a+b",)]


def test_a_dict_in_int8(models, tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    options = {"quantization": "int8", "representative_data": x, "verbose": 0}
    files = tflite_export.export(models, tmp_path / "out", **options)
    assert len(files) == 3


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ({}, {}, ValueError, "dict of models is empty"),
        ({7: network(["digit"], 0)}, {}, TypeError, "combination must be a sequence of task names"),
        (
            {("a", "b"): network(["a", "b"], 0), "b+a": network(["a", "b"], 1)},
            {},
            ValueError,
            r"\['a', 'b'\] twice",
        ),
        (
            {("a",): network(["a"], 0)},
            {"combinations": [("b",)]},
            ValueError,
            r"\['b'\] are unknown",
        ),
        (
            {("a",): network(["a"], 0), ("b",): network(["b"], 0)},
            {"combinations": ["b", "a+b"]},
            ValueError,
            r"no model for the combinations \[\('a', 'b'\)\]",
        ),
        ({("a",): network(["a"], 0)}, {"combinations": "a"}, TypeError, "'all' or a list"),
        ({("a",): network(["a"], 0)}, {"mode": "signatures"}, ValueError, "share no weights"),
        ({("a",): network(["b"], 0)}, {}, ValueError, r"\['a'\] are unknown"),
        ({("a",): "model.keras"}, {}, TypeError, "must be a keras.Model"),
        (
            {("a",): network(["a"], 0), ("b",): network(["b"], 0, name="sound")},
            {},
            ValueError,
            "must take the same input.*sound",
        ),
        (
            {("a",): network(["a"], 0), ("b",): network(["b"], 0, size=7)},
            {},
            ValueError,
            "must take the same input",
        ),
    ],
)
def test_wrong_dicts_are_refused(models, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        tflite_export.export(models, tmp_path / "out", verbose=0, **options)
    assert not (tmp_path / "out").exists()
