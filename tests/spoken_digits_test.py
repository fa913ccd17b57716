"""The demo runs from training to files, on few epochs."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfmot_pam
from examples import spoken_digits

ROOT = pathlib.Path(__file__).parents[1]


def run_demo(folder: pathlib.Path, *options: str) -> dict:
    """Runs the demo as users do, and returns its report."""
    program = [sys.executable, "-m", "examples.spoken_digits", f"--output_dir={folder}"]
    subprocess.run([*program, *options], check=True, cwd=ROOT, capture_output=True, text=True)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> pathlib.Path:
    """On a twelfth of the recordings: what it writes, not how good that is."""
    folder = tmp_path_factory.mktemp("demo")
    with np.load(spoken_digits.ARCHIVE) as archive:
        recordings = {**archive, **{name: archive[name][::12] for name in ("x_train", "y_train")}}
        np.savez(folder / "some.npz", **recordings)
    options = [f"--data={folder / 'some.npz'}", "--epochs=1", "--effort=1", "--workers=1"]
    options += ["--arms=separate"]
    run_demo(folder / "out", *options, "--max_accuracy_drop=0.2")
    return folder / "out"


def test_every_combination_is_reported_and_exported(output):
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    combinations = [tuple(row["tasks"]) for row in report["rows"]]
    assert combinations == [("digit",), ("speaker",), ("digit", "speaker")]
    for row in report["rows"]:
        assert (output / "tflite" / f"{'+'.join(row['tasks'])}.tflite").stat().st_size > 10_000
        assert row["accuracy"].keys() == row["original_accuracy"].keys() == set(row["tasks"])
    assert (output / "groups.png").stat().st_size > 10_000
    page = (output / "page.html").read_text(encoding="utf-8")
    assert 'href="tflite/digit+speaker.tflite"' in page.replace("%2B", "+")


def test_model_and_plan_can_be_read_again(output):
    model = keras.models.load_model(output / "compressed" / "model.keras")
    plan = tfmot_pam.MergePlan.load(output / "plan.json")
    assert tuple(model.output) == plan.tasks == tuple(spoken_digits.CLASSES)
    assert plan.options["width"] == "own"
    assert 0 < plan.shared < 1


@pytest.mark.slow
def test_all_tasks_stay_near_their_tolerance_on_recordings_held_out(tmp_path):
    options = ["--epochs=6", "--effort=2", "--max_accuracy_drop=0.03"]
    for row in run_demo(tmp_path / "out", *options)["rows"]:
        for task, reached in row["accuracy"].items():
            assert reached >= row["original_accuracy"][task] - 0.04


@pytest.mark.slow
def test_reconstruction_keeps_the_accuracy_before_any_training():
    """At 30 % of the MACs, at most 2 points below the original; the test split is only measured."""
    train = spoken_digits.load_data(str(spoken_digits.ARCHIVE), "train")
    x, labels = spoken_digits.load_data(str(spoken_digits.ARCHIVE), "test")
    keras.utils.set_random_seed(0)
    for task in spoken_digits.CLASSES:
        model = spoken_digits.train_network(task, train[0], train[1][task], 12)
        options = {"data": train[0], "measure": "macs"}
        gated = tfmot_pam.prune_channels(model, 0.7, "reconstruction", **options)
        small = tfmot_pam.strip_pruning(gated)
        alone, reached = (spoken_digits.accuracies(m, x, labels)[task] for m in (model, small))
        print(task, alone, reached)
        assert tfmot_pam.cost(small).macs <= 0.3 * tfmot_pam.cost(model).macs + 1
        assert alone - reached <= 0.02


@pytest.mark.slow
def test_merging_keeps_the_accuracy_before_any_training():
    train = spoken_digits.load_data(str(spoken_digits.ARCHIVE), "train")
    x, labels = spoken_digits.load_data(str(spoken_digits.ARCHIVE), "test")
    keras.utils.set_random_seed(0)
    models, alone = {}, {}
    for task in spoken_digits.CLASSES:
        models[task] = spoken_digits.train_network(task, train[0], train[1][task], 5)
        alone |= spoken_digits.accuracies(models[task], x, labels)
    lost = {}
    for compensation in (True, False):
        merged = tfmot_pam.merge(
            models, train, share=0.5, width="union", compensation=compensation, verbose=0
        )
        reached = spoken_digits.accuracies(merged, x, labels)
        lost[compensation] = max(alone[task] - reached[task] for task in models)
    assert min(alone.values()) > 0.9
    assert lost[True] <= 0.02
    assert lost[False] > 0.2
