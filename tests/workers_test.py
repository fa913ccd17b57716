"""`compress(workers=)`: searches in processes of their own find what one process finds."""

from __future__ import annotations

import json
import os
import signal

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.quick_compress import QUICK, both, samples
from tests.tiers import regular
from tfmot_pam.pipeline import workers as workers_module


@pytest.fixture(scope="module")
def models():
    return both()


@pytest.mark.parametrize("arms", regular([["separate"], ["trunk", "separate"]]))
def test_workers_find_what_one_process_finds(models, capfd, arms):
    options = {**QUICK, "effort": 1, "target": 0.7, "arms": arms, "verbose": 1}
    results, told = [], []
    for count in (1, 2):
        results.append(tfmot_pam.compress(models, samples(), 0.1, workers=count, **options))
        lines = capfd.readouterr().out.splitlines()
        told.append(sorted(line for line in lines if line.startswith("compress: ")))
    one, two = results
    assert told[0] == told[1]
    assert one.probes == two.probes
    assert one.trial_epochs == two.trial_epochs
    assert [arm.name for arm in two.arms] == arms
    for alone, beside in zip(one.arms, two.arms, strict=True):
        assert alone.start == beside.start
        assert alone.rounds == beside.rounds
        for ours, theirs in zip(alone.model.weights, beside.model.weights, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_worker_goes_on_from_what_one_process_left(models, tmp_path):
    options = {**QUICK, "arms": ["separate"], "directory": tmp_path}
    first = tfmot_pam.compress(models, samples(), 0.1, **options)
    kept = set(tmp_path.rglob("state.json"))
    last = max(path.parent for path in kept if "sum" in str(path))
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    again = tfmot_pam.compress(models, samples(), 0.1, workers=2, **options)
    assert again.best.rounds == first.best.rounds
    assert set(tmp_path.rglob("state.json")) == kept


@pytest.mark.slow
def test_a_loss_that_cannot_be_sent_is_named(models):
    def own(y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    options = {**QUICK, "arms": ["separate"], "fine_tune_options": {"losses": {"sign": own}}}
    with pytest.raises(TypeError, match="sent to a process.*own"):
        tfmot_pam.compress(models, samples(), 0.1, workers=2, **options)


def _die(folder, job, threads, shown):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told(models, monkeypatch, tmp_path):
    monkeypatch.setattr(workers_module, "_go_on", _die)
    options = {**QUICK, "arms": ["separate"], "directory": tmp_path}
    with pytest.raises(RuntimeError, match="ended before its search did.*fewer `workers`"):
        tfmot_pam.compress(models, samples(), 0.1, workers=2, **options)
    assert len(list(tmp_path.rglob("state.json"))) == 2


def _fail_at_sign(folder, job, threads, verbose):
    if job.tasks == ("sign",):
        raise OSError("no space is left")
    workers_module._go_on(folder, job, threads, verbose)


@pytest.mark.slow
def test_where_a_worker_fails_the_others_do_not_search_to_the_end(models, monkeypatch, tmp_path):
    monkeypatch.setattr(workers_module, "_go_on", _fail_at_sign)
    options = {**QUICK, "effort": 2000, "arms": ["separate"], "directory": tmp_path}
    with pytest.raises(OSError, match="no space is left"):
        tfmot_pam.compress(models, samples(), 0.1, workers=2, **options)
    states = [json.loads(path.read_text()) for path in tmp_path.rglob("state.json")]
    assert len(states) >= 2
    assert sum(state["state"]["epochs"] for state in states) < 2000


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "two"])
def test_wrong_numbers_of_workers(models, wrong):
    with pytest.raises(ValueError, match="`workers` must be a whole number"):
        tfmot_pam.compress(models, samples(), 0.1, workers=wrong)


def test_the_data_of_all_workers_is_one_file(tmp_path):
    x = np.arange(12.0).reshape(3, 4)
    workers_module._write({"x": x, "again": x, "empty": np.zeros((0, 2))}, tmp_path)
    found = workers_module._read(tmp_path)
    np.testing.assert_array_equal(found["x"], x)
    assert found["again"] is found["x"]
    assert not found["x"].flags.writeable
    assert found["empty"].shape == (0, 2)
