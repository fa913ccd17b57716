"""What a compression yields: the model, the ways that were searched, and what all of it costs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.graph.generation import is_tf_keras, read_model
from tfmot_pam.graph.network import MaybeNone
from tfmot_pam.graph.selection import (
    all_combinations,
    check_tasks,
    combinations,
    file_name,
    select_tasks,
    task_names,
)
from tfmot_pam.graph.tf_keras.convert import to_tf_keras
from tfmot_pam.pipeline.portfolio import Portfolio
from tfmot_pam.pipeline.price import TaskSet
from tfmot_pam.reporting.result import Report, refuse_existing


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of a search.

    Args:
        number: Counted from 0, the network that the search starts from.
        stage: `start`, `warm` (trained before anything is removed), `cut` (channels removed and
            trained on at a steady rate), `tail` (trained on while the rate falls), `trim` (both) or
            `retry` (another tail of a refused one).
        parent: The number of the round whose network it took, None for the first.
        cost: Expected cost per run, in the measure that the compression goes by.
        share: The same as a share of running the original models one by one.
        macs: Expected multiply-accumulates per run.
        accuracy: Validation accuracy by task, 0..1 (R^2 for real-valued targets), or the task's
            own metric.
        lost: What of it was lost against the original.
        ratio: The largest of these losses in units of its tolerance.
        accepted: Whether every task was within its tolerance, and on each half of the samples
            within one standard error of it.
        epochs: Epochs of training in this round.
        training_macs: Multiply-accumulates of that training, about three times those of running.
        task_weights: Factors of the tasks' losses.
        tries: Of how many tries of one structure its network is the mean: of a further try and
            those before it, where the mean lost less than the try.
        seconds: Time of the round; no part of what is compared.
        step_seconds: The part of it that went to training steps. The rest went to choosing and
            fitting channels, to making graphs and to validation.
    """

    number: int
    stage: str
    parent: int | MaybeNone
    cost: float
    share: float
    macs: float
    accuracy: Mapping[str, float]
    lost: Mapping[str, float]
    ratio: float
    accepted: bool
    epochs: int
    training_macs: float
    task_weights: Mapping[str, float]
    tries: int = 1
    seconds: float = dataclasses.field(default=0.0, compare=False, repr=False)
    step_seconds: float = dataclasses.field(default=0.0, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class ArmResult:
    """What one arm found.

    Args:
        name: The arm.
        start: Where its search started.
        model: The network of least expected cost within the tolerances; where there is
            none, the one that came closest.
        accepted: Whether it is within them.
        cost: Expected cost per run, in the measure that the compression goes by.
        share: The same as a share of running the original models one by one.
        costs: Cost of each combination, in the measure that the compression goes by.
        macs: Multiply-accumulates of each combination.
        times: Estimated time of each combination, in multiply-accumulates of a convolution.
        accuracy: Validation accuracy by task.
        rounds: Every round, by the tasks that the searched network serves.
        epochs: Epochs of training, times networks trained.
        training_macs: Multiply-accumulates of training, without the teachers'.
        seconds: Time of all rounds.
        step_seconds: The part of it that went to training steps.
    """

    name: str
    start: str
    model: keras.Model
    accepted: bool
    cost: float
    share: float
    costs: Mapping[TaskSet, float]
    macs: Mapping[TaskSet, float]
    times: Mapping[TaskSet, float]
    accuracy: Mapping[str, float]
    rounds: Mapping[TaskSet, tuple[Round, ...]]
    epochs: int
    training_macs: float
    seconds: float
    step_seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class CompressionResult:
    """The network of least expected cost that keeps the accuracy, and how it was found.

    Args:
        model: The compressed model.
        arms: What each arm found, in the order in which they ran.
        measure: What the costs are: `macs`, `latency` (estimated time), or a function's name.
        original_accuracy: Validation accuracy of the original models by task.
        report: What every combination costs, against the original models.
        verdict: Whether merging pays, in words.
        probes: The mean loss of each start in a short trial, in units of the tolerances.
        trial_epochs: Epochs of all trials together, which no arm counts.
        apart: Combinations for which a network of their own was asked.
        metrics: Name and unit of the metrics of tasks that have one of their own: what is called
            accuracy everywhere is that metric then.
    """

    model: keras.Model
    arms: tuple[ArmResult, ...]
    measure: str
    original_accuracy: Mapping[str, float]
    report: Report
    verdict: str
    probes: Mapping[str, float]
    trial_epochs: int
    apart: tuple[TaskSet, ...] = ()
    metrics: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> ArmResult:
        """The arm that `model` is from."""
        return cheapest(self.arms)

    @property
    def epochs(self) -> int:
        """Epochs of all training, times networks trained: every round once, trials included.

        What arms have in common counts in each of them: rounds of networks that another arm
        goes on from, or takes as they are.
        """
        found: list[tuple[TaskSet, Round]] = []
        for arm in self.arms:
            for tasks, rounds in arm.rounds.items():
                own = [(tasks, row) for row in rounds if row.stage != "start"]
                found += [row for row in own if row not in found]
        return sum(row.epochs for _, row in found) + self.trial_epochs

    @property
    def models(self) -> dict[TaskSet, keras.Model]:
        """The network of every combination: the cheapest where one was asked for, or `model`'s."""
        own = self.portfolio(self.apart).models if self.apart else {}
        return {
            chosen: own[chosen] if chosen in own else select_tasks(self.model, chosen)
            for chosen in combinations(self.model)
        }

    def portfolio(self, combinations: Iterable[Sequence[str]] | None = None) -> Portfolio:
        """For every combination the network that runs it at the least cost, of all arms.

        Args:
            combinations: Those that it is wanted for, sequences of task names; None takes all.

        Raises:
            ValueError: a combination names unknown tasks, or there is none.
        """
        tasks = task_names(read_model(self.model))
        every = all_combinations(tasks) if combinations is None else combinations
        wanted = dict.fromkeys(check_tasks(chosen, tasks) for chosen in every)
        if not wanted:
            raise ValueError(
                "`combinations` is empty. Expected sequences of task names, or None for all. Name "
                "at least one combination."
            )
        accepted = [arm for arm in self.arms if arm.accepted]
        best = {chosen: _cheapest_for(chosen, accepted) for chosen in wanted}
        models = {chosen: select_tasks(arm.model, chosen) for chosen, arm in best.items()}
        if is_tf_keras(self.model):
            models = {chosen: to_tf_keras(network) for chosen, network in models.items()}
        return Portfolio(
            models=models,
            arms={chosen: arm.name for chosen, arm in best.items()},
            costs={chosen: arm.costs[chosen] for chosen, arm in best.items()},
        )

    def curve_csv(self) -> str:
        """Returns the trade-off curves as CSV text: a row a round, a column a task."""
        text = io.StringIO()
        marks = list(self.original_accuracy)
        fields = [
            "number",
            "stage",
            "parent",
            "epochs",
            "cost",
            "share",
            "macs",
            "ratio",
            "accepted",
        ]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["arm", "tasks", *fields, *marks])
        for arm in self.arms:
            for chosen, rounds in arm.rounds.items():
                for row in rounds:
                    own = [row.accuracy.get(mark, "") for mark in marks]
                    values = [getattr(row, field) for field in fields]
                    writer.writerow([arm.name, "+".join(chosen), *values, *own])
        return text.getvalue()

    def plot(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Draws what every round cost and lost, and what combinations cost, into a picture file.

        Args:
            path: The file to write; its suffix chooses the format (`.png`, `.svg`, `.pdf`).
            overwrite: Whether a file that exists may be replaced.

        Raises:
            ValueError: the file exists and `overwrite` is False, or the suffix names no format.
        """
        from tfmot_pam.reporting.curves import draw

        refuse_existing(path, overwrite)
        draw(self, path)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        files: Mapping[Any, str | os.PathLike[str]] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes one page that needs no network: the verdict, the arms, and all of the report's.

        Args:
            path: The `.html` file to write.
            files: The files to ship, by combination: they are linked, with their sizes.
            overwrite: Whether a file that exists may be replaced.

        Raises:
            OSError: one of `files` does not exist.
            ValueError: the file exists and `overwrite` is False, or `files` has an unknown
                combination.
        """
        from tfmot_pam.reporting.page import result_page

        refuse_existing(path, overwrite)
        pathlib.Path(path).write_text(result_page(self, path, files), encoding="utf-8")

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes `model.keras`, `report.json`, `report.csv`, `curve.csv` and `result.json`.

        A network of its own that was asked for is in `networks/`, named by its tasks.

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
        if self.apart:
            (folder / "networks").mkdir(exist_ok=True)
            for chosen, network in self.portfolio(self.apart).models.items():
                network.save(folder / "networks" / f"{file_name(chosen)}.keras", overwrite=True)
        self.report.to_json(folder / "report.json", overwrite=True)
        self.report.to_csv(folder / "report.csv", overwrite=True)
        (folder / "curve.csv").write_text(self.curve_csv(), encoding="utf-8")
        (folder / "result.json").write_text(
            json.dumps(self._as_data(), indent=1) + "\n", encoding="utf-8"
        )

    def _as_data(self) -> dict:
        arms, by_combination = [], ("costs", "macs", "times")
        for arm in self.arms:
            values = {
                field.name: getattr(arm, field.name)
                for field in dataclasses.fields(arm)
                if field.name not in ("model", "rounds", *by_combination)
            }
            for name in by_combination:
                found = getattr(arm, name)
                values[name] = {"+".join(chosen): cost for chosen, cost in found.items()}
            values["rounds"] = {
                "+".join(chosen): [dataclasses.asdict(row) for row in rounds]
                for chosen, rounds in arm.rounds.items()
            }
            arms.append(values)
        return {
            "verdict": self.verdict,
            "measure": self.measure,
            "original_accuracy": dict(self.original_accuracy),
            "metrics": dict(self.metrics),
            "probes": dict(self.probes),
            "trial_epochs": self.trial_epochs,
            "arms": arms,
        }


def cheapest(arms: Sequence[ArmResult]) -> ArmResult:
    """The accepted arm of least expected cost; there must be one."""
    return min((arm for arm in arms if arm.accepted), key=lambda arm: arm.cost)


def _cheapest_for(combination: TaskSet, arms: Sequence[ArmResult]) -> ArmResult:
    return min(arms, key=lambda arm: arm.costs[combination])
