"""Spoilt plans, histories, manifests and checkpoints: refused in words, or harmless.

Of the 20,000 a share runs each time, and all of them with the slow tests.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import warnings

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.model_card_test import _entry, _signature
from tests.mutations import mutated
from tests.small_nets import classes, dense_net, vectors
from tflite_export import json_files
from tflite_export.bench import loading_cost
from tflite_export.ship import manifest, model_card, records
from tfmot_pam.pipeline.checkpoints import Checkpoints
from tfmot_pam.pipeline.result import Round
from tfmot_pam.pipeline.round_check import RoundCheck
from tfmot_pam.pipeline.strategy import allot, next_action

EACH, ALL = 100, 5000
COUNTS = [EACH, pytest.param(ALL, marks=pytest.mark.slow)]
USED = 12  # of those that are read, so many are used to the end in a hundred


def in_words(error: Exception) -> bool:
    """Whether an error is one of ours, and a sentence that says what to do."""
    words = str(error)
    return type(error) in (ValueError, TypeError) and len(words) > 60 and words.endswith(".")


def try_all(count, text, use):
    """Uses so many spoilt texts; returns how many were refused, each in words."""
    refused = 0
    for seed in range(count):
        content = mutated(text, np.random.default_rng(seed))
        try:
            use(content)
        except Exception as error:
            if not in_words(error):
                raise AssertionError(f"seed {seed}, {content[:300]!r}: {error!r}") from error
            refused += 1
    return refused


@pytest.fixture(scope="module")
def models():
    return {"a": dense_net(0), "b": dense_net(1, (8, 7), 2)}


@pytest.fixture(scope="module")
def plan(models):
    x = vectors(48)
    data = (x, {"a": classes(x, 3), "b": classes(x, 2, seed=1)})
    merged = tfmot_pam.merge(models, data, compensation=False, min_group=1, verbose=0)
    return merged.merge_plan


@pytest.mark.parametrize("count", COUNTS)
def test_spoilt_plans(models, plan, count, tmp_path):
    path, x, read = tmp_path / "plan.json", vectors(4), []

    def use(content):
        path.write_bytes(content)
        found = tfmot_pam.MergePlan.load(path)
        again = tfmot_pam.MergePlan.from_json(found.to_json())
        assert (again.tasks, again.frozen, again.shared) == (
            found.tasks,
            found.frozen,
            found.shared,
        )
        read.append(found)
        if len(read) <= USED * count // 100:
            # Replayed it gives a model of these tasks, or says why it cannot.
            merged = tfmot_pam.merge(models, x, plan=found, compensation=False, verbose=0)
            assert list(merged.output) == ["a", "b"]
            assert all(np.isfinite(value).all() for value in merged(x).values())

    refused = try_all(count, plan.to_json(), use)
    assert count // 2 < refused < count
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("count", COUNTS)
def test_spoilt_histories(models, count, tmp_path):
    path, read = tmp_path / "history.json", []
    history = tfmot_pam.PruningHistory({"fc0": 6, "fc1": 5}, {"fc0": (1, 4), "fc1": (0,)})
    history.apply(models["a"])

    def use(content):
        path.write_bytes(content)
        found = tfmot_pam.PruningHistory.load(path)
        assert tfmot_pam.PruningHistory.from_json(found.to_json()) == found
        read.append(found)
        if len(read) <= USED * count // 100:
            assert found.apply(models["a"]).count_params() <= models["a"].count_params()

    refused = try_all(count, history.to_json(), use)
    assert count // 2 < refused < count
    assert [entry.name for entry in tmp_path.iterdir()] == ["history.json"]


def whole_manifest():
    alone = [("digit",), ("$c",), ("digit", "$c")]
    return {
        "schema_version": 1,
        "tasks": ["digit", "$c"],
        "mode": "both",
        "quantization": "none",
        "quantization_aware_training": False,
        "quantizer": "converter",
        "tune": "auto",
        "checked_on": {"inputs": "given", "number": 20},
        "calibrated_on": None,
        "accuracy": {"digit": 0.975},
        "files": [
            *(_entry(f"{'+'.join(tasks)}.tflite", _signature(*tasks)) for tasks in alone),
            _entry("all_combinations.tflite", *(_signature(*tasks) for tasks in alone)),
        ],
        "other_files": ["README.md"],
        "versions": {"keras": "3.15.1"},
    }


@pytest.mark.parametrize("count", COUNTS)
def test_spoilt_manifests(count, tmp_path):
    path = tmp_path / manifest.FILE_NAME

    def use(content):
        path.write_bytes(content)
        assert manifest.FILE_NAME in manifest.listed_names(tmp_path) or not manifest.listed_names(
            tmp_path
        )
        found = manifest.read(tmp_path)
        assert "# Tasks" in model_card.text(found)
        ways = loading_cost.bytes_to_load(found)
        assert set(ways) <= {"files", "signatures"}
        for entry in found["files"]:
            assert pathlib.Path(tmp_path, entry["file"]).parent == tmp_path
            assert records.record(tmp_path, entry, "none").signatures

    refused = try_all(count, json.dumps(whole_manifest()), use)
    assert count // 2 < refused < count
    assert [entry.name for entry in tmp_path.iterdir()] == [manifest.FILE_NAME]


def rounds(tasks):
    def row(number, stage, parent, ratio):
        return Round(
            number=number,
            stage=stage,
            parent=parent,
            cost=1000.0 / (number + 1),
            share=1 / (number + 1),
            macs=1000.0 / (number + 1),
            accuracy=dict.fromkeys(tasks, 0.9),
            lost=dict.fromkeys(tasks, 0.01 * ratio),
            ratio=ratio,
            accepted=ratio <= 1.0,
            epochs=number,
            training_macs=1e6,
            task_weights=dict.fromkeys(tasks, 1.0),
        )

    path = [("start", None, 0.0), ("cut", 0, 0.5), ("cut", 1, 3.0), ("tail", 1, 0.8)]
    return [row(number, *rest) for number, rest in enumerate(path)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of rounds, and the files in it."""
    folder = tmp_path_factory.mktemp("kept") / "rounds"
    checkpoints = Checkpoints(folder, {"models": "1", "data": "2"}, RoundCheck(("a", "b")))
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for found in rounds(("a", "b")):
        checkpoints.save(found.number, dataclasses.asdict(found), net)
    files = {path: path.read_bytes() for path in folder.glob("*/*")}
    return checkpoints, files


def restore(files):
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def states(checkpoints):
    """The states, and whether a round was left out with a warning."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        return checkpoints.states(), any("is damaged" in str(one.message) for one in found)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("digest", [True, False], ids=["digest", "before states had a digest"])
def test_spoilt_checkpoints(kept, count, digest):
    checkpoints, files = kept
    whole = [json.loads(json.dumps(dataclasses.asdict(found))) for found in rounds(("a", "b"))]
    number = 2 if digest else 3
    path = next(path for path in files if path.parts[-2:] == (f"round-{number:04d}", "state.json"))
    content = json.loads(files[path])
    if not digest:
        del content["state_sha256"]

    def use(content):
        restore(files)
        path.write_bytes(content)
        found, left_out = states(checkpoints)
        assert len(found) == (number if left_out else len(whole))
        assert found[:number] == whole[:number]
        if digest and b"state_sha256" in content:
            assert found == whole[: len(found)]
        rows = [Round(**state) for state in found]
        # A search of the rounds that are left goes on or ends.
        assert repr(next_action(rows, allot(24, False), 0.1))
        if left_out:
            raise ValueError(
                "A round is left out with those after it, and the ones before it are there."
            )

    refused = try_all(count // 2, json.dumps(content), use)
    assert count // 4 < refused < count // 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_networks_of_checkpoints_that_were_cut_off(kept, share):
    checkpoints, files = kept
    restore(files)
    path = next(path for path in files if path.parts[-2:] == ("round-0001", "model.keras"))
    path.write_bytes(files[path][: int(share * len(files[path]))])
    found, left_out = states(checkpoints)
    assert left_out
    assert [state["number"] for state in found] == [0]


@pytest.mark.parametrize(
    ("check", "value", "reason"),
    [
        (json_files.whole, True, "expected a whole number"),
        (json_files.whole, 2.0, "expected a whole number"),
        (json_files.whole, 2**53 + 1, "expected a whole number"),
        (json_files.number, float("nan"), "expected a finite number"),
        (json_files.number, "1", "expected a whole number"),
        (json_files.text, "\ud800", "no proper Unicode"),
        (json_files.switch, 1, "expected true or false"),
        (json_files.one_of(1), True, r"expected one of \[1\]"),
        (json_files.many(json_files.whole, 1), [], "expected a list of 1 entries or more"),
        (json_files.many(json_files.whole), [0, -1], r"it\[1\] is -1, expected"),
        (json_files.table(json_files.whole), {"a": None}, r"it\['a'\] is None, expected"),
        (json_files.record({"a": json_files.whole}), {}, "the entry 'a' is missing in it"),
        (json_files.record({}, {"a": json_files.whole}), {"a": ""}, r"it\.a is '', expected"),
    ],
)
def test_checks_say_what_is_wrong_where(check, value, reason):
    with pytest.raises(ValueError, match=reason):
        check(value, "it")
