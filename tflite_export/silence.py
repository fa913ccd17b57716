"""Keeps the converter's and the interpreter's log lines off the user's terminal."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards what is written to the standard error stream while the block runs.

    The lines come from native code, which no Python logging level reaches, so the process's file
    descriptor is pointed elsewhere for the length of the block and restored after it, also when
    the block fails. Where there is no standard error stream, nothing is done.
    """
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
