"""Checkpoints of `compress` survive anything, and belong to one compression alone."""

from __future__ import annotations

import errno
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
from tests.quick_compress import QUICK, both, model, samples
from tests.small_nets import all_outputs
from tfmot_pam.pipeline.checkpoints import Checkpoints
from tfmot_pam.pipeline.identity import digest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def models():
    return both()


def adder(number):
    return lambda x, rng: x + number


OPTIONS = {**QUICK, "effort": 2, "arms": ["trunk"], "target": 0.7}


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """What a search that nothing disturbed came to, and the folder of its rounds."""
    folder = tmp_path_factory.mktemp("whole") / "rounds"
    return tfmot_pam.compress(models, samples(), 0.1, directory=folder, **OPTIONS), folder


def test_a_finished_call_made_again_goes_on_from_its_last_round(models, whole):
    first, folder = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.keras")}
    again = tfmot_pam.compress(models, samples(), 0.1, directory=folder, **OPTIONS)
    assert again.best.rounds == first.best.rounds
    assert again.probes == first.probes
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for found, expected in zip(
        all_outputs(again.model, samples()[0]), all_outputs(first.model, samples()[0]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


PROGRAM = """
import sys, keras, numpy as np, tfmot_pam
from tests.checkpoints_test import OPTIONS, samples
models = {t: keras.saving.load_model(f"{sys.argv[1]}/{t}.keras") for t in ("sign", "sum")}
options = {**OPTIONS, "directory": sys.argv[1] + "/rounds"}
result = tfmot_pam.compress(models, samples(), 0.1, **options)
print(repr(result.best.rounds))
np.savez(sys.argv[1] + "/out.npz", **result.model.predict(samples()[0], verbose=0))
"""


def test_killed_at_any_moment_it_goes_on_with_nothing_lost(models, whole, tmp_path):
    for task, net in models.items():
        net.save(tmp_path / f"{task}.keras")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("rounds/trunk-*/round-0001")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    (rounds,) = tmp_path.glob("rounds/trunk-*")
    kept = sorted(path.name for path in rounds.glob("round-*"))
    assert kept[:2] == ["round-0000", "round-0001"]
    again = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    result, _ = whole
    assert again.stdout.strip() == repr(result.best.rounds)
    found, expected = np.load(tmp_path / "out.npz"), result.model.predict(samples()[0], verbose=0)
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
    kept.save(2, {"n": 2}, tiny())
    with pytest.warns(UserWarning, match="round-0001' is damaged"):
        states = kept.states()
    assert states == [{"n": 0}]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["round-0000"]


def test_checkpoints_of_something_else_are_refused(tmp_path):
    Checkpoints(tmp_path, {"models": "1", "data": "2"}).save(0, {}, tiny())
    with pytest.raises(ValueError, match="other data.*choose another directory"):
        Checkpoints(tmp_path, {"models": "1", "data": "3"}).states()
    with pytest.raises(ValueError, match="other models and data"):
        Checkpoints(tmp_path, {"models": "9", "data": "3"}).states()
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds \['holiday.jpg'\]"):
        Checkpoints(tmp_path, {"models": "1"}).states()
    with pytest.raises(ValueError, match="is a file"):
        Checkpoints(tmp_path / "holiday.jpg", {}).states()


def test_resuming_with_other_models_or_data_is_refused(models, tmp_path):
    options = {**QUICK, "effort": 1, "directory": tmp_path, "target": 0.9}
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
print("states", kept.states())
"""


def test_a_full_disk_leaves_the_rounds_before_it(tmp_path):
    """A limit on the size of files makes every write fail from some point on, as a full disk."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "Round 1 could not be saved" in run.stdout
    assert "states [{'n': 0}]" in run.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["round-0000"]


def test_an_unwritable_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be saved") as caught:
        Checkpoints(tmp_path / "file" / "below", {}).save(0, {}, tiny())
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST), os.strerror(caught.value.errno)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x, rng: x + 1.0, lambda x, rng: x + 2.0),
        (keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.2)),
        (
            tfmot_pam.MergePlan(("a",), "pam", {}, ("0",), ()),
            tfmot_pam.MergePlan(("b",), "pam", {}, ("0",), ()),
        ),
        (np.zeros(3), np.ones(3)),
        ({"share": 0.5}, {"share": 0.4}),
        (adder(1), adder(2)),
    ],
)
def test_options_that_differ_have_different_digests(one, other):
    assert digest(one) == digest(one) != digest(other)
