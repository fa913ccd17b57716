"""What a compression yields: the model, the way to it, and what it costs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import keras

from tfmot_pam.graph.selection import combinations, select_tasks
from tfmot_pam.reporting.result import Report


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of a compression.

    Args:
        number: Counted from 0, the model before any channel is removed.
        macs: Expected multiply-accumulates per run.
        share: The same as a share of running the original models one by one.
        accuracy: Validation accuracy by task, 0..1 (R^2 for real-valued targets).
        accepted: Whether every task was within its tolerance.
        step: Share of the computation that was removed in this round, 0 in round 0.
    """

    number: int
    macs: float
    share: float
    accuracy: Mapping[str, float]
    accepted: bool
    step: float


@dataclasses.dataclass(frozen=True, eq=False)
class CompressionResult:
    """The smallest network that keeps the accuracy, and the trade-off on the way.

    Args:
        model: The compressed model.
        rounds: Every round, rejected ones too: the trade-off curve.
        original_accuracy: Validation accuracy of the original models by task.
        report: What every combination costs, against the original models.
    """

    model: keras.Model
    rounds: tuple[Round, ...]
    original_accuracy: Mapping[str, float]
    report: Report

    @property
    def best(self) -> Round:
        """The round that `model` is from."""
        return [found for found in self.rounds if found.accepted][-1]

    @property
    def models(self) -> dict[tuple[str, ...], keras.Model]:
        """The network of every combination of tasks."""
        return {chosen: select_tasks(self.model, chosen) for chosen in combinations(self.model)}

    def curve_csv(self) -> str:
        """Returns the trade-off curve as CSV text: a row a round, a column a task."""
        text = io.StringIO()
        tasks = list(self.original_accuracy)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["round", "macs", "share", "step", "accepted", *tasks])
        for found in self.rounds:
            marks = [found.accuracy[task] for task in tasks]
            writer.writerow(
                [found.number, found.macs, found.share, found.step, found.accepted, *marks]
            )
        return text.getvalue()

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes `model.keras`, `report.json`, `report.csv`, `curve.csv` and `result.json`.

        Args:
            directory: The folder to write.
            overwrite: Whether files in it may be replaced.

        Raises:
            ValueError: the folder holds files and `overwrite` is False.
        """
        folder = pathlib.Path(directory)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
            raise ValueError(
                f"'{folder}' exists and is not an empty directory. Expected a new one. Pass "
                "overwrite=True to replace the result in it."
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder / "model.keras", overwrite=True)
        self.report.to_json(folder / "report.json", overwrite=True)
        self.report.to_csv(folder / "report.csv", overwrite=True)
        (folder / "curve.csv").write_text(self.curve_csv(), encoding="utf-8")
        content = {
            "original_accuracy": dict(self.original_accuracy),
            "rounds": [dataclasses.asdict(found) for found in self.rounds],
        }
        (folder / "result.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def round_from(state: Mapping[str, Any]) -> Round:
    """A round from plain data, as `dataclasses.asdict` wrote it."""
    return Round(**state)
