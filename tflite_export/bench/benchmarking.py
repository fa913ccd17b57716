"""The benchmark of an exported folder: latency, memory and loading of every combination."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from tflite_export import verify
from tflite_export.bench.footprint import peak_memory
from tflite_export.bench.latency_tool import Latency, run_tool, summarise
from tflite_export.bench.loading_cost import bytes_to_load
from tflite_export.ship import folder as folders
from tflite_export.ship import manifest as manifests
from tflite_export.ship import model_card

FILE_NAME = "benchmark.json"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of one signature of one file.

    Attributes:
        file: The file's name; of a single network its path.
        signature: The signature's name.
        tasks: The tasks it computes.
        bytes: Size of the file.
        macs: Multiply-accumulates per sample, None where unknown.
        latency: By number of threads.
        peak_memory_bytes: Memory that loading and running it takes; None where the system does
            not tell.
        max_abs_error: Largest absolute difference from Keras, from the manifest; None for single
            networks.
    """

    file: str
    signature: str
    tasks: tuple[str, ...]
    bytes: int
    macs: int | None
    latency: tuple[Latency, ...]
    peak_memory_bytes: int | None
    max_abs_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A combination against the single networks of its tasks, run one after the other.

    Times are those of the least disturbed round of each: other work on the machine only adds.

    Attributes:
        file: Name of the combination's file.
        signature: Name of its signature.
        threads: Threads that LiteRT could use.
        speedup: Time of the single networks divided by that of the combination.
        macs_ratio: MACs of the single networks divided by those of the combination; None where
            those of the single networks are unknown.
        realised: `speedup / macs_ratio`: 1 where fewer MACs mean as much less time.
    """

    file: str
    signature: str
    threads: int
    speedup: float
    macs_ratio: float | None
    realised: float | None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What `benchmark` measured. Printed, it is a table; speed-ups are of the fewest threads.

    Attributes:
        rows: One per signature of each file of the folder.
        alone: One per single network.
        comparisons: One per signature, number of threads, if single networks were given.
        bytes_to_load: Bytes of files that an app reads at its start (`first`) and when the set of
            running tasks changes (`mean`, `largest`), for each way of shipping.
    """

    rows: tuple[Measurement, ...]
    alone: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]
    bytes_to_load: Mapping[str, Mapping[str, float]]

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """Returns everything as JSON, and writes it to `path` if one is given."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"
        if path is not None:
            folders.replace_file(pathlib.Path(path), text)
        return text

    def __str__(self) -> str:
        import rich.box
        import rich.console
        import rich.table

        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        for position, heading in enumerate(_headings(self.rows)):
            table.add_column(heading, justify="left" if position < 2 else "right")
        for row in (*self.rows, *self.alone):
            table.add_row(*_cells(row, self.comparisons))
        # In a notebook rich would display the table instead of returning it.
        console = rich.console.Console(
            width=200, no_color=True, force_terminal=False, force_jupyter=False
        )
        with console.capture() as captured:
            console.print(table)
        return "\n".join(line.strip() for line in captured.get().splitlines() if line.strip())


def benchmark(
    directory: str | pathlib.Path,
    *,
    alone: Mapping[str, str | pathlib.Path] | None = None,
    threads: Iterable[int] | None = None,
    runs: int = 50,
    warmup: int = 10,
    rounds: int = 3,
    update: bool = True,
    verbose: int = 1,
) -> Benchmark:
    """Measures latency, memory and loading of every combination of an exported folder.

    Use it on the machine that matters, or to compare combinations with each other: a phone's
    times differ. Every signature is timed by LiteRT's own benchmark tool in a process of its own,
    all of them in turn and that several times over, so that a machine that is busy for a while
    slows all of them down and not one. Nothing here imports TensorFlow.

    Args:
        directory: A folder that `export` wrote.
        alone: The tasks' single networks to compare with, `.tflite` files with one signature. If
            `export` wrote them, their MACs are found in the manifest beside them.
        threads: Numbers of threads; by default 1 and the number of processors.
        runs: Timed runs per signature and round.
        warmup: Runs before them that are not timed.
        rounds: How often each signature is timed.
        update: Whether to write `benchmark.json` into the folder and the latencies into its
            manifest and model card.
        verbose: 1 shows a progress bar, 0 nothing.

    Returns:
        The measurements, as written to `benchmark.json`.

    Raises:
        TypeError: `directory` is no path.
        ValueError: The folder has no manifest, a file is missing, a number is less than 1, a
            single network's task is unknown, or the tool fails.

    Example:
    >>> result = tflite_export.benchmark("out")  # doctest: +SKIP
    >>> result.rows[0].tasks, result.rows[0].latency[0].median_ms  # doctest: +SKIP
    (('digit',), 0.42)
    """
    import rich.progress

    if not isinstance(directory, (str, os.PathLike)):
        raise TypeError(
            f"`directory` must be the path of a folder. Received: {directory!r} of type "
            f"{type(directory).__name__}. Pass such as 'out'."
        )
    numbers = list(dict.fromkeys(threads or (1, os.cpu_count() or 1)))
    counts = [("runs", runs), ("rounds", rounds), *(("threads", number) for number in numbers)]
    for name, value in counts:
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {value}. Pass 1 or more.")
    numbers.sort()
    root = pathlib.Path(directory)
    manifest = manifests.read(root)
    inside, outside = _targets(root, manifest), _targets_alone(alone or {}, manifest["tasks"])
    _check_files([*inside, *outside])
    targets = [*inside, *outside]
    found: dict[int, dict[int, list[Any]]] = {
        index: {number: [] for number in numbers} for index in range(len(targets))
    }
    with rich.progress.Progress(disable=not verbose) as progress:
        counter = progress.add_task("measuring", total=rounds * len(targets) * len(numbers))
        for _ in range(rounds):
            for index, target in enumerate(targets):
                for number in numbers:
                    found[index][number].append(_timed(target, number, runs, warmup))
                    progress.advance(counter)
    measured = [_measurement(target, found[index]) for index, target in enumerate(targets)]
    rows, single = measured[: len(inside)], measured[len(inside) :]
    sizes = {row.tasks[0]: row.bytes for row in single}
    result = Benchmark(
        rows=tuple(rows),
        alone=tuple(single),
        comparisons=tuple(_comparisons(rows, single)),
        bytes_to_load=bytes_to_load(manifest, sizes),
    )
    if update:
        _update(root, manifest, result)
    return result


@dataclasses.dataclass(frozen=True)
class _Target:
    file: str
    path: pathlib.Path
    signature: str
    tasks: tuple[str, ...]
    macs: int | None
    max_abs_error: float | None = None


def _targets(root: pathlib.Path, manifest: Mapping[str, Any]) -> list[_Target]:
    return [
        _Target(
            entry["file"],
            root / entry["file"],
            signature["name"],
            tuple(signature["tasks"]),
            signature["macs"],
            max(found["max_abs_error"] for found in signature["agreement"].values()),
        )
        for entry in manifest["files"]
        for signature in entry["signatures"]
    ]


def _targets_alone(alone: Mapping[str, str | pathlib.Path], tasks: Sequence[str]) -> list[_Target]:
    unknown = [task for task in alone if task not in tasks]
    if unknown:
        raise ValueError(
            f"`alone` must be keyed by tasks of the folder. Received: {unknown}. "
            f"The tasks are {list(tasks)}."
        )
    found = []
    for task, name in alone.items():
        path = pathlib.Path(name)
        _check_files([_Target(str(path), path, "", (task,), None)])
        runner_names = list(verify.open_file(path).get_signature_list())
        if len(runner_names) != 1:
            raise ValueError(
                f"A single network's file must have one signature. Received: '{path}' with "
                f"{runner_names}. Export the network alone."
            )
        found.append(_Target(str(path), path, runner_names[0], (task,), _known_macs(path)))
    return found


def _known_macs(path: pathlib.Path) -> int | None:
    try:
        entries = manifests.read(path.parent)["files"]
    except ValueError:
        return None
    found = [entry["signatures"][0]["macs"] for entry in entries if entry["file"] == path.name]
    return found[0] if found else None


def _check_files(targets: Sequence[_Target]) -> None:
    missing = sorted({str(target.path) for target in targets if not target.path.is_file()})
    if missing:
        raise ValueError(f"There is no file {missing}. Export again, or correct the paths.")


def _timed(target: _Target, threads: int, runs: int, warmup: int) -> dict[str, Any]:
    return run_tool(target.path, target.signature, threads=threads, runs=runs, warmup=warmup)


def _measurement(target: _Target, rounds: Mapping[int, Sequence[Any]]) -> Measurement:
    return Measurement(
        file=target.file,
        signature=target.signature,
        tasks=target.tasks,
        bytes=target.path.stat().st_size,
        macs=target.macs,
        latency=tuple(summarise(number, found) for number, found in rounds.items()),
        peak_memory_bytes=peak_memory(target.path, target.signature),
        max_abs_error=target.max_abs_error,
    )


def _comparisons(rows: Sequence[Measurement], alone: Sequence[Measurement]) -> list[Comparison]:
    single = {row.tasks[0]: row for row in alone}
    found = []
    for row in rows:
        if not all(task in single for task in row.tasks):
            continue
        parts = [single[task] for task in row.tasks]
        alone_macs = [part.macs for part in parts if part.macs]
        known = row.macs and len(alone_macs) == len(parts)
        macs_ratio = sum(alone_macs) / row.macs if row.macs and known else None
        for position, latency in enumerate(row.latency):
            time_alone = sum(part.latency[position].lowest_ms for part in parts)
            speedup = time_alone / max(latency.lowest_ms, 0.005)  # the tool rounds to 0.01
            realised = speedup / macs_ratio if macs_ratio else None
            found.append(
                Comparison(row.file, row.signature, latency.threads, speedup, macs_ratio, realised)
            )
    return found


def _update(root: pathlib.Path, manifest: dict[str, Any], result: Benchmark) -> None:
    times = {
        (row.file, row.signature): {str(one.threads): one.median_ms for one in row.latency}
        for row in result.rows
    }
    for entry in manifest["files"]:
        for signature in entry["signatures"]:
            signature["latency_ms"] = times[entry["file"], signature["name"]]
    manifest["other_files"] = sorted({*manifest["other_files"], FILE_NAME})
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    folders.replace_file(root / manifests.FILE_NAME, text)
    folders.replace_file(root / model_card.FILE_NAME, model_card.text(manifest))
    result.to_json(root / FILE_NAME)


def _headings(rows: Sequence[Measurement]) -> list[str]:
    counts = [one.threads for one in rows[0].latency]
    times = [f"ms, {count} thread{'s' if count > 1 else ''}" for count in counts]
    return ["file", "signature", "bytes", "MACs", *times, "memory", "largest error", "speed-up"]


def _cells(row: Measurement, comparisons: Sequence[Comparison]) -> list[str]:
    macs = "" if row.macs is None else f"{row.macs / 1e6:.2f} M"
    memory = "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.1f} MB"
    times = [f"{one.median_ms:.2f}" for one in row.latency]
    same = [c for c in comparisons if (c.file, c.signature) == (row.file, row.signature)]
    speedup = f"{same[0].speedup:.2f}" if same else ""
    error = "" if row.max_abs_error is None else f"{row.max_abs_error:.1e}"
    return [row.file, row.signature, f"{row.bytes:,}", macs, *times, memory, error, speedup]
