"""`compress` on one suite: every arm against separate pruning at equal effort, over seeds.

One command, from the repository's root; called again, it goes on where it stopped:

    python -m benchmarks.suite --suite=products --seeds=3 --data_dir=DIR

A cell is one seed. It trains a network per task (or takes those of an earlier call), compresses
them to 1 point with the arms that are named, and measures the test split, which nothing before has
seen. Cells run in processes of their own; the pages are written anew from all cells there are.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags

import tfmot_pam
from benchmarks import results_io, suite_files, suites
from benchmarks.suite_pages import FIELDS, write_pages
from tfmot_pam.graph.reader import read
from tfmot_pam.pipeline.price import combination_costs

_SUITE = flags.DEFINE_enum("suite", "composites", sorted(suites.SUITES), "Which suite.")
_DATA = flags.DEFINE_string("data_dir", "data", "Folder that holds the data sets.")
_SEEDS = flags.DEFINE_integer("seeds", None, "Number of seeds; None takes the suite's.")
_FIRST = flags.DEFINE_integer("first_seed", 0, "The first seed.")
_ARMS = flags.DEFINE_list("arms", ["auto"], "Arms of compress().")
_IMPORTANCE = flags.DEFINE_string("importance", "reconstruction", "Importance of channels.")
_MEASURE = flags.DEFINE_enum("measure", "macs", ["macs", "latency"], "What is to become small.")
_EFFORT = flags.DEFINE_integer("effort", None, "Epochs per network; None takes the suite's.")
_DROP = flags.DEFINE_float("max_accuracy_drop", 0.01, "Tolerance per task.")
_WORK = flags.DEFINE_string("work_dir", "build/suites", "Networks, checkpoints and cells.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Where the pages go.")
_WORKERS = flags.DEFINE_integer(
    "workers", 2, "Processes: of cells, one thread each, or of their searches.", lower_bound=1
)
_WHOLE = flags.DEFINE_bool("whole", False, "Also separate pruning with the whole effort.")
_FILES = flags.DEFINE_bool("files", False, "Also export, run and time every arm's networks.")
_QUICK = flags.DEFINE_bool("quick", False, "One seed at a third of the effort.")


def run_cell(settings: Mapping[str, Any]) -> None:
    """Runs one seed of a suite and writes its rows."""
    name, seed = settings["suite"], settings["seed"]
    suite, folder = suites.SUITES[name], pathlib.Path(settings["work_dir"])
    data = pathlib.Path(settings["data_dir"])
    splits = suite.load(data, seed)
    models = suites.networks(name, seed, splits, folder, data)
    way = {key: settings[key] for key in ("importance", "measure", "effort")}
    label = "-".join([name, *map(str, way.values()), str(seed)])
    began = time.perf_counter()

    def compressed(name, **options):
        return tfmot_pam.compress(
            models,
            splits["train"],
            settings["drop"],
            validation_data=splits["validation"],
            directory=folder / "rounds" / name,
            augment=suite.augment,
            seed=seed,
            workers=settings["workers"],
            verbose=1,
            **options,
        )

    arms = "auto" if settings["arms"] == ["auto"] else settings["arms"]
    result = compressed(label, arms=arms, **way)
    found = {arm.name: arm for arm in result.arms}
    if settings["whole"]:
        effort = round(result.epochs / len(models))
        patient = compressed(f"{label}-whole", arms=["separate"], **{**way, "effort": effort})
        found["separate, whole effort"] = patient.best
    measured = [
        row
        for arm, values in found.items()
        for row in _of_arm(arm, values, suites.losses(suite, models, values.model, splits["test"]))
    ]
    measured += _of_portfolio(
        result, lambda model: suites.losses(suite, models, model, splits["test"])
    )
    original = {task: tfmot_pam.cost(model).macs for task, model in models.items()}
    for row in measured:
        row.update(suite=name, **way, seed=seed)
        row["original_macs"] = sum(original[task] for task in row["combination"].split("+"))
    cell = {
        "rows": [{field: row[field] for field in FIELDS} for row in measured],
        "verdict": result.verdict,
        "probes": dict(result.probes),
        "trial_epochs": result.trial_epochs,
        "seconds": round(time.perf_counter() - began),
    }
    if settings["files"]:
        cell["files"] = [
            {"suite": name, **way, "seed": seed, **row}
            for row in suite_files.file_rows(suite, models, result, splits)
        ]
    results_io.write_raw(folder / "cells" / f"{label}.json", cell)


def _of_arm(name: str, arm: tfmot_pam.ArmResult, lost) -> list[dict[str, Any]]:
    return _of_combinations(
        arm.macs,
        arm.times,
        lost,
        arm=name,
        start=arm.start,
        accepted=arm.accepted,
        epochs=arm.epochs,
        training_macs=f"{arm.training_macs:.3e}",
        seconds=round(arm.seconds),
    )


def _of_portfolio(result: tfmot_pam.CompressionResult, losses) -> list[dict[str, Any]]:
    """The rows of the cheapest network for every combination."""
    envelope = result.portfolio()
    lost = {
        f"{task} in {chosen}": loss
        for chosen, model in envelope.models.items()
        for task, loss in losses(model).items()
    }
    return _of_combinations(
        {chosen: tfmot_pam.cost(model).macs for chosen, model in envelope.models.items()},
        {
            chosen: combination_costs(read(model), "latency")[chosen]
            for chosen, model in envelope.models.items()
        },
        lost,
        arm="portfolio",
        start="+".join(sorted(set(envelope.arms.values()))),
        accepted=True,
        epochs=result.epochs,
        training_macs="",
        seconds="",
    )


def _of_combinations(costs, times, lost, **common) -> list[dict[str, Any]]:
    """A row a combination."""
    worst, error = max(lost.values())
    expected = float(np.mean(list(costs.values())))
    return [
        {
            **common,
            "combination": "+".join(chosen),
            "macs": macs,
            "expected_macs": round(expected),
            "estimated_time": round(times[chosen]),
            "worst_loss": round(worst, 3),
            "worst_loss_error": round(error, 3),
        }
        for chosen, macs in costs.items()
    ]


def main(argv):
    del argv
    suite = suites.SUITES[_SUITE.value]
    seeds = 1 if _QUICK.value else _SEEDS.value or suite.seeds
    effort = _EFFORT.value or suite.effort
    cells = [
        {
            "suite": _SUITE.value,
            "seed": seed,
            "effort": max(3, effort // 3) if _QUICK.value else effort,
            "importance": _IMPORTANCE.value,
            "measure": _MEASURE.value,
            "arms": _ARMS.value,
            "drop": _DROP.value,
            "whole": _WHOLE.value,
            "files": _FILES.value,
            "data_dir": _DATA.value,
            "work_dir": _WORK.value,
            "workers": max(1, _WORKERS.value // seeds),
        }
        for seed in range(_FIRST.value, _FIRST.value + seeds)
    ]
    for _ in results_io.in_processes(run_cell, cells, _WORKERS.value):
        write_pages(pathlib.Path(_WORK.value), pathlib.Path(_OUTPUT.value))
    print(pathlib.Path(_OUTPUT.value, "suites.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    app.run(main)
