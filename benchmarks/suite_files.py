"""What of a win is left in the files: the arms of one cell exported, run and timed."""

from __future__ import annotations

import math
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import keras

import tflite_export
import tfmot_pam
from benchmarks import results_io, suites
from tflite_export import verify

_CALIBRATION, _ROUNDS, _RUNS = 256, 5, 100
_QUANTIZATIONS = ("none", "int8")
_WAYS = ("separate", "merged")

FIELDS = [
    *("suite", "importance", "measure", "effort", "seed", "arm", "start", "quantization"),
    *("combination", "below"),
    *(
        f"{number}.{way}"
        for number in ("bytes", "ms", "peak_memory", "lost", "lost_error")
        for way in _WAYS
    ),
]


def file_rows(
    suite: suites.Suite,
    models: Mapping[str, keras.Model],
    result: tfmot_pam.CompressionResult,
    splits: Mapping[str, suites.Split],
) -> list[dict[str, Any]]:
    """A row for every merged arm, quantisation and combination, against the separate networks.

    Both have the same tolerance, tuning and quantisation, and are timed in turn in one run. Of
    several separate networks sizes, times and memory are added up; losses are those of the worst
    task, on the test split, against the originals in floating point.
    """
    arms = {arm.name: arm for arm in result.arms}
    separate = arms.pop("separate")
    return [
        {"arm": name, "start": arm.start, "quantization": quantization, **row}
        for name, arm in arms.items()
        for quantization in _QUANTIZATIONS
        for row in _compared(suite, models, separate.model, arm.model, splits, quantization)
    ]


def _compared(suite, models, separate, merged, splits, quantization) -> list[dict[str, Any]]:
    calibration = splits["train"][0][:_CALIBRATION].astype("float32")
    options = {
        "mode": "files",
        "quantization": quantization,
        "representative_data": calibration,
        "tune": "measure",
        "verbose": 0,
    }
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root)
        alone = {}
        for task in models:
            network = tfmot_pam.select_tasks(separate, [task])
            (alone[task],) = tflite_export.export(network, folder / task, **options)
        files = tflite_export.export(merged, folder / "merged", **options)
        measured = tflite_export.benchmark(
            folder / "merged",
            alone={task: file.path for task, file in alone.items()},
            threads=(1,),
            rounds=_ROUNDS,
            runs=_RUNS,
            verbose=0,
        )
        lost = {file.path.name: _losses(suite, models, file, splits["test"]) for file in files}
        lost_alone = {
            task: _losses(suite, models, file, splits["test"])[task] for task, file in alone.items()
        }
    single = {row.tasks[0]: row for row in measured.alone}
    return [
        _row(row, [single[task] for task in row.tasks], lost[row.file], lost_alone)
        for row in measured.rows
    ]


def _row(merged, single, lost, lost_alone) -> dict[str, Any]:
    """One combination's file beside the files of its tasks."""

    def pair(value) -> dict[str, Any]:
        return {"separate": sum(map(value, single)), "merged": value(merged)}

    times = pair(lambda row: row.latency[0].lowest_ms)
    return {
        "combination": "+".join(merged.tasks),
        "bytes": pair(lambda row: row.bytes),
        "ms": {way: round(time, 4) for way, time in times.items()},
        "below": round(times["separate"] / times["merged"], 3),
        "peak_memory": pair(
            lambda row: math.nan if row.peak_memory_bytes is None else row.peak_memory_bytes
        ),
        "lost": {
            "separate": max(lost_alone[task] for task in merged.tasks),
            "merged": max(lost[task] for task in merged.tasks),
        },
    }


def _losses(suite, models, file, split: suites.Split) -> dict[str, tuple[float, float]]:
    """Points lost by a file, by task, with their standard errors."""
    (name,) = {model.inputs[0].name for model in models.values()}
    outputs = verify.run_file(file.path, {name: split[0].astype("float32")}, file.signature)
    return suites.drops(suite, models, outputs, split)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the CSV holds it, each loss apart from its standard error."""
    lost = {
        name: {way: row["lost"][way][place] for way in _WAYS}
        for place, name in enumerate(("lost", "lost_error"))
    }
    return results_io.flat({**row, **lost})


def shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the CSV as the page shows it: separate, then merged."""

    def number(name: str, way: str) -> float:
        return float(row[f"{name}.{way}"])

    def both(name: str, scale: float, form: str) -> str:
        return " / ".join(format(number(name, way) * scale, form) for way in _WAYS)

    return {
        **{name: str(row[name]) for name in ("seed", "arm", "start")},
        "weights": "float32" if row["quantization"] == "none" else row["quantization"],
        "combination": row["combination"],
        "kB": both("bytes", 1e-3, ".1f"),
        "ms": both("ms", 1.0, ".3f"),
        "time, below separate": f"{float(row['below']):.2f}",
        "peak memory, MB": both("peak_memory", 1e-6, ".2f"),
        "worst loss": " / ".join(
            f"{number('lost', way):.2f} ± {number('lost_error', way):.2f}" for way in _WAYS
        ),
    }
