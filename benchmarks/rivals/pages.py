"""The pages of the rivals: one CSV of all rows, and a table for each suite."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import results_io

FIELDS = [
    "suite",
    "effort",
    "level",
    "rival",
    "seed",
    "choice",
    "combination",
    "macs",
    "original_macs",
    "expected_macs",
    "lost",
    "lost_error",
    "worst_loss",
    "worst_loss_error",
    "epochs",
    "training_macs",
    "seconds",
]
_SEARCHED = pathlib.Path(__file__).parents[1] / "results" / "suites.csv"


def searched(suite: str, seed: int, effort: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of the suite's arms in `compress`, by arm, where they were within the tolerance."""
    run = {"suite": suite, "importance": "reconstruction", "measure": "macs"}
    run |= {"seed": str(seed), "effort": str(effort), "accepted": "True"}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in results_io.read_rows(_SEARCHED):
        if all(row[key] == value for key, value in run.items()) and row["arm"] != "portfolio":
            found.setdefault(row["arm"], []).append(row)
    return found


def share_of(rows: Sequence[Mapping[str, Any]]) -> float:
    """What a network's combinations cost in the mean, as a share of what the originals cost."""
    macs, original = (sum(float(row[key]) for row in rows) for key in ("macs", "original_macs"))
    return macs / original


def write_pages(work: pathlib.Path, output: pathlib.Path) -> None:
    """Writes the pages from the cells in the work folder and from what the pages held before."""
    cells = results_io.read_cells(work / "rivals")
    rows = results_io.updated(output / "rivals.csv", FIELDS, cells, _cell_of)
    parts = [
        "# Simple rivals at equal effort",
        "Networks that are cut once to a level of cost, or made narrower, and trained with as many "
        "sample passes times networks as an arm of `compress`, trials included; and what "
        "`compress` came to. Levels are the expected cost at which its separate arm ended, its "
        "best one, and half of the former; or shares of the originals' expected cost. Expected: "
        "all combinations alike. Points lost on the test split against the originals, by task in "
        "their order; of the worst task with the standard error, or of several seeds the mean and "
        "spread. Made by `python -m benchmarks.rivals_benchmark`.",
    ]
    for (suite, effort), group in itertools.groupby(rows, _run_of):
        parts.append(f"## {suite}: {effort} epochs a network")
        parts.append(results_io.markdown_table(_table(suite, list(group))))
    (output / "rivals.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _run_of(row: Mapping[str, Any]) -> tuple:
    return row["suite"], int(row["effort"])


def _cell_of(row: Mapping[str, Any]) -> tuple:
    return (*_run_of(row), row["level"], row["rival"], int(row["seed"]))


def _table(suite: str, rows: list[dict]) -> list[dict[str, str]]:
    """The arms of `compress` on the same seeds, then the rivals, dear levels first."""
    arms: dict[tuple[str, str], list[dict]] = {}
    for seed, effort in sorted({(int(row["seed"]), int(row["effort"])) for row in rows}):
        for arm, own in searched(suite, seed, effort).items():
            arms.setdefault(("", f"compress: {arm}"), []).extend(own)
    rivals: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        rivals.setdefault((row["level"], row["rival"]), []).append(row)
    costs: dict[str, list[dict]] = {}
    for row in rows:
        costs.setdefault(row["level"], []).append(row)
    dearest = sorted(costs, key=lambda level: -share_of(costs[level]))
    ordered = sorted(rivals, key=lambda key: dearest.index(key[0]))
    return [_shown(*key, arms[key]) for key in arms] + [
        _shown(*key, rivals[key]) for key in ordered
    ]


def _shown(level: str, name: str, rows: list[dict]) -> dict[str, str]:
    """One line: means over seeds, with spreads where there are several."""
    by_seed = [
        {row["combination"]: row for row in own}
        for _, own in itertools.groupby(rows, lambda row: row["seed"])
    ]
    combinations = list(by_seed[0])
    alone, whole = [c for c in combinations if "+" not in c], combinations[-1]

    def told(values: Sequence[float], digits: str, error: float | None = None) -> str:
        spread = np.std(values) if len(values) > 1 else error
        return f"{np.mean(values):{digits}}" + ("" if spread is None else f" ± {spread:{digits}}")

    def column(key: str, combination: str) -> list[float]:
        return [float(found[combination][key]) for found in by_seed]

    def macs(combination: str, key: str = "macs") -> str:
        return told([value / 1e6 for value in column(key, combination)], ".3f")

    error = float(by_seed[0][whole]["worst_loss_error"])
    return {
        "level": level,
        "network": name,
        "seeds": str(len(by_seed)),
        "chosen": ", ".join(dict.fromkeys(found[whole].get("choice") or "" for found in by_seed)),
        "M MACs expected": macs(whole, "expected_macs"),
        "of the originals": told([share_of([*found.values()]) for found in by_seed], ".4f"),
        "each task": ", ".join(macs(task) for task in alone),
        "all": macs(whole),
        "lost": ", ".join(
            told(column("lost", task), ".2f") if "lost" in rows[0] else "" for task in alone
        ).strip(", "),
        "worst": told(column("worst_loss", whole), ".2f", error),
        "epochs": told(column("epochs", whole), ".0f"),
        "training MACs": told(column("training_macs", whole), ".2e"),
        "seconds": told(column("seconds", whole), ".0f"),
    }
