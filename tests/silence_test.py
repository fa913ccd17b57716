"""Tests of the silence around native code."""

import os

import pytest

from tflite_export import silence


def _fail_noisily() -> None:
    with silence.quiet_stderr():
        os.write(2, b"hidden")
        raise KeyError


def test_hides_native_output_and_restores_the_stream_after_an_error(capfd):
    with pytest.raises(KeyError):
        _fail_noisily()
    os.write(2, b"shown")
    assert capfd.readouterr().err == "shown"
