"""Writes what a benchmark measured: JSON for machines, a Markdown table for people."""

from __future__ import annotations

import concurrent.futures
import csv
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def in_processes(
    run: Callable[[Mapping[str, Any]], None], cells: Sequence[Mapping[str, Any]], workers: int
) -> Iterator[None]:
    """Runs cells in processes of their own, one thread each, and yields whenever one is done."""
    one_thread()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=end_with_parent
    ) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run, cell) for cell in cells]):
            yield done.result()


def read_cells(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What cells have written into a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: pathlib.Path, fields: Sequence[str], rows: Sequence[Mapping[str, Any]]):
    """Writes a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def updated(
    path: pathlib.Path,
    fields: Sequence[str],
    cells: Sequence[list[dict]],
    key: Callable[[Mapping[str, Any]], tuple],
) -> list[dict]:
    """The rows of a CSV file, which is written with those of the cells."""
    rows = joined(read_rows(path), cells, key)
    write_rows(path, fields, rows)
    return rows


def joined(
    kept: Sequence[dict], cells: Sequence[list[dict]], key: Callable[[Mapping[str, Any]], tuple]
) -> list[dict]:
    """The rows that were kept, those of the cells in the place of older ones, in order."""
    found: dict[tuple, list[dict]] = {}
    for row in kept:
        found.setdefault(key(row), []).append(row)
    found.update((key(rows[0]), rows) for rows in cells)
    return [row for _, rows in sorted(found.items()) for row in rows]


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
