"""`compress`: rounds to a tolerance, checkpoints that survive anything, and its result."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.small_nets import all_outputs
from tfmot_pam.graph.generation import is_tf_keras
from tfmot_pam.pipeline.accuracy import ACCURACIES
from tfmot_pam.pipeline.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[1]


def samples(rows=350):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8)).astype("float32")
    return x, {"sign": (x[:, 0] > 0).astype("int64"), "sum": (x[:, :3].sum(1) > 0).astype("int64")}


def model(task: str, seed: int = 0) -> keras.Model:
    """A perceptron that does its task well, and has many more units than it needs."""
    x, labels = samples()
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8,), name="vector")
    h = layers.Dense(24, activation="relu", name="first")(inputs)
    h = layers.Dense(16, activation="relu", name="second")(h)
    net = keras.Model(inputs, layers.Dense(2, activation="softmax", name=task)(h), name=task)
    net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    net.fit(x, labels[task], epochs=15, verbose=0)
    return net


@pytest.fixture(scope="module")
def models():
    return {task: model(task) for task in ("sign", "sum")}


QUICK = {"epochs": 3, "step": 0.4, "verbose": 0, "seed": 0}


@pytest.fixture(scope="module")
def result(models):
    return tfmot_pam.compress(models, samples(), 0.1, target=0.5, **QUICK)


# --- what comes out -----------------------------------------------------------------------------


def test_every_task_stays_within_its_tolerance(result):
    assert result.best.share <= 0.5
    for task, alone in result.original_accuracy.items():
        assert alone - result.best.accuracy[task] <= 0.1 + 1e-9
    for found in result.rounds:
        lost = [result.original_accuracy[t] - a for t, a in found.accuracy.items()]
        assert found.accepted == (max(lost) <= 0.1 + 1e-9)
    shares = [found.share for found in result.rounds if found.accepted]
    assert shares == sorted(shares, reverse=True)


def test_the_result_is_what_its_best_round_says(result, models):
    report = tfmot_pam.report(result.model, originals=models)
    assert report.expected_macs == pytest.approx(result.best.macs)
    assert set(result.models) == {("sign",), ("sum",), ("sign", "sum")}
    x = samples()[0][:5]
    whole = result.model(x)
    for chosen, network in result.models.items():
        for task in chosen:
            np.testing.assert_allclose(network(x)[task], whole[task], atol=1e-6)


def test_results_are_saved_and_never_overwritten_silently(result, tmp_path):
    result.save(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.keras", "report.json", "report.csv", "curve.csv", "result.json"}
    loaded = keras.models.load_model(tmp_path / "out" / "model.keras")
    x = samples()[0][:5]
    np.testing.assert_allclose(loaded(x)["sign"], result.model(x)["sign"], atol=1e-6)
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(content["rounds"]) == len(result.rounds)
    assert (tmp_path / "out" / "curve.csv").read_text().count("\n") == len(result.rounds) + 1
    with pytest.raises(ValueError, match="not an empty directory"):
        result.save(tmp_path / "out")
    result.save(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_other_importances_and_single_models(models, importance):
    x, labels = samples()
    found = tfmot_pam.compress(
        models["sign"],
        (x, {"sign": labels["sign"]}),
        0.1,
        target=0.7,
        importance=importance,
        **QUICK,
    )
    assert found.best.share <= 0.7
    assert not isinstance(found.model.output, dict)
    named = tfmot_pam.compress(
        {"which": models["sign"]}, (x, {"which": labels["sign"]}), 0.1, target=0.7, **QUICK
    )
    assert list(named.model.output) == ["which"]


def test_tf_keras_models_come_back_as_tf_keras_models(models):
    x, labels = samples()
    twin = {"sign": tfmot_pam.to_tf_keras(models["sign"])}
    found = tfmot_pam.compress(twin, (x, {"sign": labels["sign"]}), 0.1, target=0.8, **QUICK)
    assert is_tf_keras(found.model)
    with pytest.raises(ValueError, match="mixes the two generations"):
        tfmot_pam.compress({**twin, "sum": models["sum"]}, samples(), 0.1)


def test_without_labels_accuracy_is_agreement(models):
    found = tfmot_pam.compress(models, samples()[0], 0.1, target=0.8, **QUICK)
    assert found.original_accuracy == {"sign": 1.0, "sum": 1.0}


def test_nothing_is_kept_that_breaks_a_tolerance(models):
    (x, labels), options = samples(), {**QUICK, "epochs": 1, "step": 0.5}
    found = tfmot_pam.compress(models["sum"], (x, {"sum": labels["sum"]}), 0.0, **options)
    assert found.best.accuracy["sum"] >= found.original_accuracy["sum"]
    assert any(not one.accepted for one in found.rounds)


def test_accuracies_in_closed_form():
    outputs = np.array([[0.2, 0.8], [0.6, 0.4]])
    assert ACCURACIES["classes"](outputs, np.array([1, 1])) == 0.5
    assert ACCURACIES["distribution"](outputs, np.eye(2)) == 0.0
    assert ACCURACIES["binary"](outputs, np.array([[0, 1], [1, 1]])) == 0.75
    assert ACCURACIES["binary"](outputs - 0.5, np.array([[-1, 1], [1, 1]])) == 0.75
    y = np.array([[1.0], [3.0]])
    assert ACCURACIES["real"](y, y) == 1.0
    assert ACCURACIES["real"](np.full((2, 1), 2.0), y) == 0.0


# --- checkpoints --------------------------------------------------------------------------------


def test_a_finished_call_made_again_goes_on_from_its_last_round(models, tmp_path):
    options = {**QUICK, "directory": tmp_path / "rounds"}
    first = tfmot_pam.compress(models, samples(), 0.1, target=0.6, **options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rounds").rglob("*.keras")}
    again = tfmot_pam.compress(models, samples(), 0.1, target=0.6, **options)
    assert again.rounds == first.rounds
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for found, expected in zip(
        all_outputs(again.model, samples()[0]), all_outputs(first.model, samples()[0]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


PROGRAM = """
import sys, keras, numpy as np, tfmot_pam
from tests.compress_test import QUICK, samples
models = {t: keras.saving.load_model(f"{sys.argv[1]}/{t}.keras") for t in ("sign", "sum")}
options = {**QUICK, "directory": sys.argv[1] + "/rounds", "step": 0.3}
result = tfmot_pam.compress(models, samples(), 0.1, target=0.5, **options)
print(repr(result.rounds))
np.savez(sys.argv[1] + "/out.npz", **result.model.predict(samples()[0], verbose=0))
"""


def test_killed_at_any_moment_it_goes_on_with_nothing_lost(models, tmp_path):
    outputs = []
    for name in ("killed", "whole"):
        folder = tmp_path / name
        folder.mkdir()
        for task, net in models.items():
            net.save(folder / f"{task}.keras")
        command = [sys.executable, "-c", PROGRAM, str(folder)]
        if name == "killed":
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            while process.poll() is None and not (folder / "rounds" / "round-0001").exists():
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.returncode == -signal.SIGKILL
            kept = sorted(path.name for path in (folder / "rounds").glob("round-*"))
            assert kept[:2] == ["round-0000", "round-0001"]
        outputs.append(
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        )
    assert outputs[0] == outputs[1]
    found, expected = (np.load(tmp_path / name / "out.npz") for name in ("killed", "whole"))
    for task in ("sign", "sum"):
        np.testing.assert_allclose(found[task], expected[task], atol=1e-6)


def tiny() -> keras.Model:
    return keras.Sequential([keras.Input((2,)), layers.Dense(1)])


def test_a_damaged_checkpoint_is_left_out_with_a_warning(tmp_path):
    kept = Checkpoints(tmp_path, {"models": "1"})
    kept.save(0, {"n": 0}, tiny())
    kept.save(1, {"n": 1}, tiny())
    path = tmp_path / "round-0001" / "model.keras"
    path.write_bytes(path.read_bytes()[:-10])
    (tmp_path / ".unfinished-abc").mkdir()
    with pytest.warns(UserWarning, match="round-0001' is damaged"):
        state, _ = kept.latest()
    assert state == {"n": 0}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["round-0000"]


def test_checkpoints_of_something_else_are_refused(tmp_path):
    Checkpoints(tmp_path, {"models": "1", "data": "2"}).save(0, {}, tiny())
    with pytest.raises(ValueError, match="other data.*choose another directory"):
        Checkpoints(tmp_path, {"models": "1", "data": "3"}).latest()
    with pytest.raises(ValueError, match="other models and data"):
        Checkpoints(tmp_path, {"models": "9", "data": "3"}).latest()
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds \['holiday.jpg'\]"):
        Checkpoints(tmp_path, {"models": "1"}).latest()
    with pytest.raises(ValueError, match="is a file"):
        Checkpoints(tmp_path / "holiday.jpg", {}).latest()


def test_resuming_with_other_models_or_data_is_refused(models, tmp_path):
    options = {**QUICK, "directory": tmp_path, "target": 0.9}
    x, labels = samples()
    one = {"sign": labels["sign"]}
    tfmot_pam.compress(models["sign"], (x, one), 0.2, **options)
    with pytest.raises(ValueError, match="other models"):
        tfmot_pam.compress(model("sign", 1), (x, one), 0.2, **options)
    with pytest.raises(ValueError, match="with other data"):
        tfmot_pam.compress(models["sign"], (x + 1.0, one), 0.2, **options)
    with pytest.raises(ValueError, match="with other options"):
        tfmot_pam.compress(models["sign"], (x, one), 0.1, **options)


FULL = """
import resource, signal, sys, keras
from keras import layers
from tfmot_pam.pipeline.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kept = Checkpoints(sys.argv[1], {"models": "1"})
big = keras.Sequential([keras.Input((300,)), layers.Dense(300)])
kept.save(0, {"n": 0}, keras.Sequential([keras.Input((2,)), layers.Dense(1)]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    kept.save(1, {"n": 1}, big)
except OSError as error:
    print("refused:", error)
print("state", kept.latest()[0])
"""


def test_a_full_disk_leaves_the_rounds_before_it(tmp_path):
    """A limit on the size of files makes every write fail from some point on, as a full disk."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "Round 1 could not be saved" in run.stdout
    assert "state {'n': 0}" in run.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["round-0000"]


def test_an_unwritable_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be saved") as caught:
        Checkpoints(tmp_path / "file" / "below", {}).save(0, {}, tiny())
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST), os.strerror(caught.value.errno)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_accuracy_drop": {"sign": 0.1}}, ValueError, r"lacks \['sum'\]"),
        (
            {"max_accuracy_drop": {"sign": 0.1, "sum": 0.1, "age": 0.1}},
            ValueError,
            r"unknown tasks \['age'\]",
        ),
        ({"max_accuracy_drop": 1.5}, ValueError, "is a share"),
        ({"max_accuracy_drop": "small"}, TypeError, "must be a number"),
        ({"target": 0.0}, ValueError, "`target` is a share"),
        ({"step": 1.0}, ValueError, "`step` is a share"),
        ({"epochs": 0}, ValueError, "`epochs` must be"),
        ({"usage": {("sign",): 0.4}}, ValueError, "must sum to 1"),
        ({"importance": "luck"}, ValueError, "Unknown `importance`"),
        ({"models": "models"}, TypeError, "`models` must be a dict"),
        ({"data": "data"}, TypeError, "accepted forms"),
        ({"data": samples(6)}, ValueError, "Expected at least 7"),
        ({"method": "best"}, ValueError, "Unknown `method`"),
    ],
)
def test_bad_arguments_are_explained(models, changes, error, message):
    arguments = {"models": models, "data": samples(), "max_accuracy_drop": 0.1, **QUICK}
    with pytest.raises(error, match=message):
        tfmot_pam.compress(**{**arguments, **changes})


def test_streams_are_refused(models):
    import tensorflow as tf

    with pytest.raises(ValueError, match="keeps its data in memory"):
        tfmot_pam.compress(models, tf.data.Dataset.from_tensor_slices(samples()).batch(8), 0.1)


def test_a_merge_that_breaks_the_tolerance_says_so(models):
    options = {**QUICK, "method": "random", "merge_options": {"compensation": False, "share": 0.1}}
    with pytest.raises(ValueError, match="before anything is removed"):
        tfmot_pam.compress(
            models, samples(), 0.0, fine_tune_options={"learning_rate": 1e-9}, **options
        )
