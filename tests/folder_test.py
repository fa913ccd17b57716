"""Tests of the folder that is written as a whole or not at all."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest

from tflite_export.ship import folder


def _write_notes(directory: pathlib.Path) -> None:
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")


def test_killed_export_leaves_no_folder(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from tflite_export.ship import folder\n"
        "with folder.whole_folder(sys.argv[1], False) as staging:\n"
        "    (staging / 'digit.tflite').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    directory = tmp_path / "out"
    result = subprocess.run([sys.executable, "-c", program, str(directory)], check=False)
    assert result.returncode == -9
    assert not directory.exists()


def test_folder_that_cannot_be_put_in_place(tmp_path):
    directory = tmp_path / "parent" / "out"
    with (
        pytest.raises(ValueError, match=r"Cannot put the finished folder at '.*out'"),
        folder.whole_folder(directory, False),
    ):
        directory.parent.write_text("now a file")
    assert directory.parent.read_text() == "now a file"


def test_folder_that_fails_at_the_last_step_keeps_the_old_one(tmp_path):
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "manifest.json").write_text('{"files": []}')
    with (
        pytest.raises(ValueError, match="Cannot put the finished folder"),
        folder.whole_folder(directory, True) as staging,
    ):
        staging.rmdir()
    assert (directory / "manifest.json").exists()


def test_folder_that_fills_up_meanwhile_is_kept(tmp_path):
    directory = tmp_path / "out"
    with (
        pytest.raises(ValueError, match="exists and is not empty"),
        folder.whole_folder(directory, False),
    ):
        _write_notes(directory)
    assert (directory / "notes.txt").read_text() == "mine"


# Replaces an old folder with a new one and kills itself at the n-th thing it does to the file
# system; where Python does not report it (the exchange), right before and right after.
_REPLACE_AND_DIE = """
import os, signal, sys
from tflite_export.ship import folder
target, fatal = sys.argv[1], int(sys.argv[2])
seen = 0
def count(*_):
    global seen
    seen += 1
    if seen == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
exchange = folder._exchange
def counted(one, other):
    count()
    done = exchange(one, other)
    count()
    return done
folder._exchange = counted
watched = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")
sys.addaudithook(lambda event, _: count() if event in watched else None)
with folder.whole_folder(target, True) as staging:
    for name in ("digit.tflite", "manifest.json"):
        with open(staging / name, "w") as file:
            file.write('{"files": [{"file": "digit.tflite"}], "age": "new"}')
            file.flush()
"""


def _old_folder(target):
    target.mkdir()
    for name in ("digit.tflite", "manifest.json"):
        (target / name).write_text('{"files": [{"file": "digit.tflite"}], "age": "old"}')


def test_export_killed_at_any_moment_leaves_the_old_folder_or_the_new_one(tmp_path):
    ages, fatal, code = [], 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        fatal += 1
        target = tmp_path / str(fatal) / "out"
        target.parent.mkdir()
        _old_folder(target)
        command = [sys.executable, "-c", _REPLACE_AND_DIE, str(target), str(fatal)]
        code = subprocess.run(command, check=False, capture_output=True).returncode
        found = {path.name: json.loads(path.read_text())["age"] for path in target.iterdir()}
        assert set(found) == {"digit.tflite", "manifest.json"}
        assert len(set(found.values())) == 1
        ages.append(found["manifest.json"])
    assert code == 0
    assert ages == sorted(ages, reverse=True)  # old ... old, new ... new
    assert ages.count("old") >= 5
    assert ages.count("new") >= 3


def test_without_the_exchange_a_failing_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_exchange", lambda one, other: False)
    directory = tmp_path / "out"
    _old_folder(directory)
    with (
        pytest.raises(ValueError, match="Cannot put the finished folder"),
        folder.whole_folder(directory, True) as staging,
    ):
        staging.rmdir()
    assert json.loads((directory / "manifest.json").read_text())["age"] == "old"
    with folder.whole_folder(directory, True) as staging:
        (staging / "new.txt").write_text("new")
    assert [path.name for path in directory.iterdir()] == ["new.txt"]


def test_what_a_killed_run_left_in_the_folder_is_not_foreign(tmp_path):
    directory = tmp_path / "out"
    _old_folder(directory)
    (directory / ".tflite_export-abc").write_text("half")
    with folder.whole_folder(directory, True):
        pass
    assert list(directory.iterdir()) == []


def test_text_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "notes.txt"
    folder.replace_file(path, "old")
    path.chmod(0o640)
    folder.replace_file(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    with pytest.raises(OSError, match="notes"):
        folder.replace_file(tmp_path / "notes.txt" / "inner", "x")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
