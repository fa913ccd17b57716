"""What a merge alone saves: cost and accuracy right after it, and after fine-tuning.

One command, from the repository's root:

    python -m benchmarks.own_width_benchmark --data_dir=DIR

For each suite and seed: networks merged at their own width and at the union's, by relevance and by
a donor's order; MACs of every combination against the originals, and points lost on the test split
before any training and after 12 and 48 epochs of distillation.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags

import tfmot_pam
from benchmarks import results_io, suites
from tfmot_pam.merging.donor import donor_method

_DATA = flags.DEFINE_string("data_dir", "data", "Folder that holds the data sets.")
_SUITES = flags.DEFINE_list("suites", ["speech", "products", "composites"], "Which suites.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds.")
_EPOCHS = flags.DEFINE_list("epochs", ["12", "48"], "Epochs of fine-tuning.")
_WORK = flags.DEFINE_string("work_dir", "build/suites", "Trained networks.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Page's folder.")


def merges(tasks):
    """Options of `merge` by name."""
    half = donor_method(tasks[0], lambda position, count: 1.0 if position == 0 else 0.5, "mixed")
    trunk = donor_method(tasks[0], lambda position, count: 1.0, "trunk")
    return {
        "pam, own width": {"method": "pam"},
        "pam, union": {"method": "pam", "width": "union"},
        "shared, own width": {"method": "shared"},
        "half of the first network's": {"method": half},
        "all of the first network's": {"method": trunk},
    }


def rows_of(name: str, seed: int) -> list[dict]:
    chosen = suites.SUITES[name]
    data = pathlib.Path(_DATA.value)
    splits = chosen.load(data, seed)
    models = suites.networks(name, seed, splits, pathlib.Path(_WORK.value), data)
    rows = []
    for way, options in merges(list(models)).items():
        merged = tfmot_pam.merge(models, splits["train"], seed=seed, verbose=0, **options)
        shares = {}
        for combination in tfmot_pam.combinations(merged):
            original = sum(tfmot_pam.cost(models[task]).macs for task in combination)
            shares["+".join(combination)] = tfmot_pam.cost(merged, combination).macs / original
        lost = {"0": merged}
        for epochs in _EPOCHS.value:
            lost[epochs] = tfmot_pam.fine_tune(
                merged, splits["train"], models, int(epochs), joint=1.0, seed=seed, verbose=0
            )
        row = {"suite": name, "seed": seed, "merge": way, "MACs of the originals'": shares}
        for epochs, model in lost.items():
            found = suites.losses(chosen, models, model, splits["test"])
            row[f"lost after {epochs}"] = {task: loss for task, (loss, _) in found.items()}
        rows.append({**row, "dearest": round(float(np.max(list(shares.values()))), 3)})
        print(rows[-1], flush=True)
    return rows


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the page shows it: all combinations or tasks in one column."""
    told = {
        key: ", ".join(f"{name} {number:.2f}" for name, number in value.items())
        for key, value in row.items()
        if isinstance(value, Mapping)
    }
    return {**row, **told}


def main(argv):
    del argv
    rows = [
        row for name in _SUITES.value for seed in range(_SEEDS.value) for row in rows_of(name, seed)
    ]
    text = "\n\n".join(
        [
            "# What a merge alone saves",
            "MACs of each combination as a share of running its originals; points lost on the test "
            "split right after the merge (0 epochs) and after distillation, all tasks in every "
            "step, without other views of the data. `dearest`: the largest share of any "
            "combination; at own width it is at most 1.",
            results_io.markdown_table([shown(row) for row in rows]),
        ]
    )
    results_io.write(_OUTPUT.value, "own_width", text, rows)


if __name__ == "__main__":
    app.run(main)
