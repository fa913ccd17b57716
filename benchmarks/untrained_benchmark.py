"""Channels removed at once, without any training: accuracy by importance.

One command, from the repository's root:

    python -m benchmarks.untrained_benchmark --data_dir=DIR

For each suite, seed and task: the single network, pruned by `prune_channels` to some shares of its
multiply-accumulates by every importance that needs no training, and its accuracy on the validation
split.
"""

from __future__ import annotations

import pathlib
import time

import numpy as np
from absl import app, flags

import tfmot_pam
from benchmarks import results_io, suites

_DATA = flags.DEFINE_string("data_dir", "data", "Folder that holds the data sets.")
_SUITES = flags.DEFINE_list("suites", ["speech", "products", "composites"], "Which suites.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds.")
_SHARES = flags.DEFINE_list("shares", ["0.5", "0.3", "0.2", "0.1"], "Shares of the MACs left.")
_IMPORTANCES = flags.DEFINE_list(
    "importances", ["reconstruction", "pagcp", "magnitude", "random"], "Which importances."
)
_SAMPLES = flags.DEFINE_integer("samples", 1024, "Calibration inputs.")
_WORK = flags.DEFINE_string("work_dir", "build/suites", "Trained networks.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Page's folder.")


def rows_of(name: str, seed: int) -> list[dict]:
    chosen = suites.SUITES[name]
    data = pathlib.Path(_DATA.value)
    splits = chosen.load(data, seed)
    order = np.random.default_rng(seed).permutation(len(splits["train"][0]))
    inputs = splits["train"][0][np.sort(order[: _SAMPLES.value])]
    rows = []
    for task, model in suites.networks(name, seed, splits, pathlib.Path(_WORK.value), data).items():
        alone = _accuracy(chosen, task, model, splits["validation"])
        for importance in _IMPORTANCES.value:
            row = {"suite": name, "seed": seed, "task": task, "importance": importance}
            began = time.perf_counter()
            for share in _SHARES.value:
                small = _pruned(model, 1.0 - float(share), importance, inputs)
                found = _accuracy(chosen, task, small, splits["validation"])
                row[f"{100 * float(share):.0f} % left"] = round(found, 2)
            seconds = (time.perf_counter() - began) / len(_SHARES.value)
            rows.append({**row, "alone": round(alone, 2), "seconds": round(seconds, 1)})
            print(rows[-1], flush=True)
    return rows


def _pruned(model, fraction: float, importance: str, inputs: np.ndarray):
    data = {"data": inputs} if importance in ("reconstruction", "pagcp") else {}
    gated = tfmot_pam.prune_channels(model, fraction, importance, measure="macs", **data)
    return tfmot_pam.strip_pruning(gated)


def _accuracy(suite, task: str, model, split) -> float:
    x, labels = split
    outputs = model.predict(x, batch_size=250, verbose=0)
    return float(np.mean(suites.scores(suite, task, outputs, labels[task])))


def main(argv):
    del argv
    rows = [
        row for name in _SUITES.value for seed in range(_SEEDS.value) for row in rows_of(name, seed)
    ]
    text = "\n\n".join(
        [
            "# Channels removed at once, without any training",
            "Accuracy in percent on the validation split, of which no network was trained, at "
            "shares of the single network's multiply-accumulates; seconds for one call of "
            "`prune_channels` and `strip_pruning`.",
            results_io.markdown_table(rows),
        ]
    )
    results_io.write(_OUTPUT.value, "untrained", text, rows)


if __name__ == "__main__":
    app.run(main)
