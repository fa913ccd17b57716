"""The pages of the suites, and of their exported files: a CSV of all rows each, and tables."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import results_io, suite_files

FIELDS = [
    "suite",
    "importance",
    "measure",
    "effort",
    "seed",
    "arm",
    "start",
    "accepted",
    "combination",
    "macs",
    "original_macs",
    "expected_macs",
    "estimated_time",
    "worst_loss",
    "worst_loss_error",
    "epochs",
    "training_macs",
    "seconds",
]


def times(rows: Mapping[str, dict], combinations: Sequence[str]) -> list[float]:
    """The estimated times of combinations."""
    return [float(rows[c]["estimated_time"]) for c in combinations]


def summary(rows: list[dict]) -> list[dict]:
    """Means and spreads over seeds, as factors against separate pruning of the same seed."""
    result = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        factors: dict[str, list[float]] = {}
        own = [row for row in rows if row["arm"] == arm]
        for seed in {row["seed"] for row in own}:
            mine = {r["combination"]: r for r in own if r["seed"] == seed}
            base = {
                r["combination"]: r for r in rows if r["seed"] == seed and r["arm"] == "separate"
            }
            if not base:
                continue
            singles = [c for c in mine if "+" not in c]
            ratios = [float(mine[c]["macs"]) / float(base[c]["macs"]) for c in singles]
            whole = max(mine, key=lambda c: c.count("+"))
            first = singles[0]
            values = {
                "expected, below separate": float(base[first]["expected_macs"])
                / float(mine[first]["expected_macs"]),
                "all tasks, below the sum": float(base[whole]["macs"]) / float(mine[whole]["macs"]),
                "all tasks / dearest separate": float(mine[whole]["macs"])
                / max(float(base[c]["macs"]) for c in singles),
                "single tasks, mean": float(np.mean(ratios)),
                "single tasks, worst": max(ratios),
                "estimated time, all tasks, below the sum": sum(times(base, singles))
                / float(mine[whole]["estimated_time"]),
                "estimated time, single tasks, mean": float(
                    np.mean(np.divide(times(mine, singles), times(base, singles)))
                ),
                "worst loss on test": float(mine[first]["worst_loss"]),
            }
            for key, value in values.items():
                factors.setdefault(key, []).append(value)
        if factors:
            accepted = sum(str(r["accepted"]) == "True" for r in own if r["combination"] == first)
            result.append(
                {
                    "arm": arm,
                    "seeds": len(next(iter(factors.values()))),
                    "accepted": accepted,
                    **{k: f"{np.mean(v):.2f} ± {np.std(v):.2f}" for k, v in factors.items()},
                }
            )
    return result


def write_pages(work: pathlib.Path, output: pathlib.Path) -> None:
    """Writes the pages from the cells in the work folder and from what the pages held before."""
    output.mkdir(parents=True, exist_ok=True)
    cells = results_io.read_cells(work / "cells")
    _write_costs([cell["rows"] for cell in cells], output)
    _write_files([cell["files"] for cell in cells if "files" in cell], output)


def _run_of(row: Mapping[str, Any]) -> tuple:
    return row["suite"], row["importance"], row["measure"], int(row["effort"])


def _cell_of(row: Mapping[str, Any]) -> tuple:
    return (*_run_of(row), int(row["seed"]))


def _write_costs(cells: list[list[dict]], output: pathlib.Path) -> None:
    ordered = results_io.updated(output / "suites.csv", FIELDS, cells, _cell_of)
    parts = [
        "# Suites: compress() against separate pruning at equal effort",
        "Tolerance 1 point. Expected: all combinations alike. Mean and spread over seeds; the loss "
        "is that of the worst task, in points on the test split; the estimated time is that of one "
        "thread, in multiply-accumulates of a convolution. `portfolio` takes the cheapest "
        "network for every combination. Made by `python -m benchmarks.suite`.",
    ]
    for run, group in itertools.groupby(ordered, _run_of):
        rows = list(group)
        parts.append(_heading(run))
        parts.append(results_io.markdown_table(summary(rows)))
        parts.append(results_io.markdown_table([_shown(row) for row in rows]))
    (output / "suites.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _write_files(cells: list[list[dict]], output: pathlib.Path) -> None:
    table = output / "suites_files.csv"
    if not cells and not table.exists():
        return
    rows = [[suite_files.flat(row) for row in cell] for cell in cells]
    ordered = results_io.updated(table, suite_files.FIELDS, rows, _cell_of)
    parts = [
        "# Suites: the files",
        "TFLite files of the merged networks against those of the separately pruned ones at the "
        "same tolerance and effort: separate / merged. Sizes, times and memory of several separate "
        "networks are added up. Time: LiteRT's benchmark tool, one thread, both in turn in one "
        "run, the least disturbed round. The loss is that of the worst task against the originals "
        "in float32, in points on the test split. Made by `python -m benchmarks.suite --files`.",
    ]
    for run, group in itertools.groupby(ordered, _run_of):
        parts.append(_heading(run))
        parts.append(results_io.markdown_table([suite_files.shown(row) for row in group]))
    (output / "suites_files.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _heading(run: tuple) -> str:
    suite, importance, measure, effort = run
    return f"## {suite}: {importance}, {measure}, {effort} epochs a network"


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    macs, original = float(row["macs"]), float(row["original_macs"])
    loss, error = float(row["worst_loss"]), float(row["worst_loss_error"])
    return {
        **{name: row[name] for name in ("seed", "arm", "start", "combination")},
        "MACs": f"{macs:,.0f}",
        "of the originals": f"{macs / original:.3f}",
        "estimated time": f"{float(row['estimated_time']):,.0f}",
        "worst loss": f"{loss:.2f} ± {error:.2f}",
        "within": row["accepted"],
        "epochs": row["epochs"],
    }
