"""Writes what a benchmark measured: JSON for machines, a Markdown table for people."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "ai-edge-litert")


def environment() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def one_thread() -> None:
    """Has TensorFlow use one thread in the processes that are started from here.

    And oneDNN, which is on by itself on some processors only; a training step takes 0.6 x with it.
    """
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def end_with_parent() -> None:
    """Has this worker end with the process that started it, should that be killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of records that have the same keys."""
    keys = list(rows[0])
    lines = [keys, ["---"] * len(keys), *[[str(row[key]) for key in keys] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(
    directory: str, name: str, text: str, data: Mapping[str, Any], *, show: bool = True
) -> None:
    """Writes `name`.json and `name`.md, and prints the Markdown."""
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment(), **data}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    if show:
        print(text)
