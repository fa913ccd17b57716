"""The time that the search goes by against measured time, over networks that searches made.

One command, from the repository's root, after `benchmarks.suite` has left its checkpoints:

    python -m benchmarks.time_model_benchmark --work_dirs=build/suites --data_dir=DIR

Takes networks of all rounds, evenly spread over searches, and every combination's time in turn:
what the model of time says of the network, and what its exported file takes on one thread. Rank
correlations are Spearman's, of each suite and of all. Files that were timed are not timed again.
"""

from __future__ import annotations

import functools
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags
from scipy import stats

import tflite_export
from benchmarks import results_io, suites
from tfmot_pam.graph.reader import read
from tfmot_pam.pipeline.price import combination_costs

_WORK = flags.DEFINE_list("work_dirs", ["build/suites"], "Folders of benchmarks.suite.")
_DATA = flags.DEFINE_string("data_dir", "data", "Folder that holds the data sets.")
_NETWORKS = flags.DEFINE_integer("networks", 200, "Number of networks.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each file is timed.", lower_bound=1)
_RUNS = flags.DEFINE_integer("runs", 100, "Timed runs of a file and round.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Page's folder.")
_KEPT = flags.DEFINE_string("kept", "build/time_model.jsonl", "What was timed already.")


def checkpoints(folders: Sequence[str], count: int) -> list[tuple[str, pathlib.Path]]:
    """Suites and networks: as many as are wanted, spread over all rounds of all searches."""
    found = []
    for folder in folders:
        for path in sorted(pathlib.Path(folder, "rounds").glob("*/*/round-*/model.keras")):
            found.append((path.parts[-4].rsplit("-", 4)[0], path))
    if len(found) < count:
        raise app.UsageError(f"{len(found)} networks in {list(folders)}. Expected {count}.")
    places = np.linspace(0, len(found) - 1, count).round().astype(int)
    return [found[place] for place in places]


@functools.cache
def samples(suite: str) -> np.ndarray:
    """Inputs to check files with."""
    return suites.SUITES[suite].load(pathlib.Path(_DATA.value), 0)["validation"][0][:256]


def rows_of(suite: str, path: pathlib.Path, turn: int) -> dict[str, Any]:
    """One network: one of its combinations, estimated and timed."""
    model = keras.saving.load_model(path, compile=False)
    costs = {name: combination_costs(read(model), name) for name in ("macs", "latency")}
    chosen = list(costs["latency"])
    combination = chosen[turn % len(chosen)]
    with tempfile.TemporaryDirectory() as root:
        (file,) = tflite_export.export(
            model,
            pathlib.Path(root, "out"),
            combinations=[combination],
            mode="files",
            samples=samples(suite),
            verbose=0,
        )
        times = [
            tflite_export.measure_latency(file.path, runs=_RUNS.value) for _ in range(_ROUNDS.value)
        ]
    return {
        "suite": suite,
        "network": "/".join(path.parts[-4:-1]),
        "combination": "+".join(combination),
        "macs": costs["macs"][combination],
        "estimated": costs["latency"][combination],
        "ms": min(times),
    }


def measured(wanted: Sequence[tuple[str, pathlib.Path]]) -> Iterator[dict[str, Any]]:
    """A row a network; those that were timed by an earlier call are read."""
    kept = pathlib.Path(_KEPT.value)
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    known = {row["path"]: row for row in map(json.loads, lines)}
    for turn, (suite, path) in enumerate(wanted):
        if str(path) not in known:
            known[str(path)] = {"path": str(path), **rows_of(suite, path, turn)}
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[str(path)]) + "\n")
        yield {key: value for key, value in known[str(path)].items() if key != "path"}


def correlations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlations with the measured time, of every suite and of all."""
    table = []
    for suite in [*sorted({row["suite"] for row in rows}), "all"]:
        chosen = [row for row in rows if suite in ("all", row["suite"])]
        times = [row["ms"] for row in chosen]
        table.append(
            {
                "suite": suite,
                "networks": len(chosen),
                "ms": f"{min(times):.3f} to {max(times):.3f}",
                **{
                    name: f"{stats.spearmanr([row[key] for row in chosen], times).statistic:.3f}"
                    for name, key in (("model of time", "estimated"), ("MACs", "macs"))
                },
            }
        )
    return table


def main(argv):
    del argv
    results_io.one_thread()
    rows = list(measured(checkpoints(_WORK.value, _NETWORKS.value)))
    table = correlations(rows)
    text = "\n".join(
        [
            "# Estimated and measured time: rank correlation over networks that searches made\n",
            "Files of one combination, float32, one thread; the smallest of "
            f"{_ROUNDS.value} medians of {_RUNS.value} runs.\n",
            results_io.markdown_table(table),
        ]
    )
    results_io.write(_OUTPUT.value, "time_model", text, rows)


if __name__ == "__main__":
    app.run(main)
