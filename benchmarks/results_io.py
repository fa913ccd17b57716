"""Writes what a benchmark measured: a CSV of its numbers, and a Markdown page for people.

What a run needs to go on, and raw measurements, are JSON in work folders below `build/`.
"""

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


def environment() -> str:
    """What the figures depend on besides the code, in a line."""
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Measured on {platform.machine()} (cores: {os.cpu_count()}) with {told}."


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


def read_raw(path: pathlib.Path, otherwise: Any) -> Any:
    """What an earlier call left in a work folder; `otherwise` where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


def write_raw(path: pathlib.Path, data: Any) -> None:
    """Writes raw data into a work folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")


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


def write_records(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes records into a CSV file: a column for each key that one of them has."""
    rows = [flat(record) for record in records]
    write_rows(path, list(dict.fromkeys(key for row in rows for key in row)), rows)


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a row of a CSV: `outer.inner` of dicts, lists as text, numbers of 8 digits."""
    row: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            row.update((f"{key}.{inner}", entry) for inner, entry in flat(value).items())
        elif isinstance(value, (list, tuple)):
            row[key] = " ".join(map(str, value))
        else:
            row[key] = f"{value:.8g}" if isinstance(value, float) else value
    return row


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


def write_parts(path: pathlib.Path, parts: Mapping[str, str]) -> None:
    """Replaces what stands between the comments of a page that name its parts.

    Raises:
        ValueError: The page has no such comments.
    """
    text = path.read_text(encoding="utf-8")
    for name, part in parts.items():
        before, opening, rest = text.partition(f"<!-- {name} -->")
        _, closing, after = rest.partition(f"<!-- end of {name} -->")
        if not opening or not closing:
            raise ValueError(
                f"{path} has no comments '<!-- {name} -->' and '<!-- end of {name} -->'. Add them "
                "where that part belongs."
            )
        text = f"{before}{opening}\n{part}\n{closing}{after}"
    path.write_text(text, encoding="utf-8")


def write(
    directory: str, name: str, text: str, rows: Sequence[Mapping[str, Any]], *, show: bool = True
) -> None:
    """Writes `name`.csv and `name`.md, which ends with the environment, and prints the Markdown."""
    folder = pathlib.Path(directory)
    write_records(folder / f"{name}.csv", rows)
    (folder / f"{name}.md").write_text(f"{text}\n\n{environment()}\n", encoding="utf-8")
    if show:
        print(text)
