"""Tests of the folder that is written as a whole or not at all."""

import pathlib
import subprocess
import sys

import pytest

from tflite_export import folder


def _write_notes(directory: pathlib.Path) -> None:
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")


def test_killed_export_leaves_no_folder(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from tflite_export import folder\n"
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
