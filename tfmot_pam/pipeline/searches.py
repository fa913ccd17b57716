"""The searches of one compression, each made when it is first asked for."""

from __future__ import annotations

import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import task_names
from tfmot_pam.merging.merge import merge
from tfmot_pam.pipeline.arms import ARMS, ArmPart, ArmStart
from tfmot_pam.pipeline.checkpoints import Checkpoints, folder_name
from tfmot_pam.pipeline.identity import digest
from tfmot_pam.pipeline.inputs import with_task
from tfmot_pam.pipeline.problem import Problem
from tfmot_pam.pipeline.result import Round
from tfmot_pam.pipeline.room import with_room
from tfmot_pam.pipeline.round_check import RoundCheck
from tfmot_pam.pipeline.search import Search
from tfmot_pam.pipeline.strategy import allot
from tfmot_pam.pipeline.summaries import RoundSummaries

# Pruned networks are merged at so many times the multiply-accumulates at which they end, at most:
# those that end near what they were, halfway, in factors.
_PRUNED = 3.0


class Searches:
    """The searches of one compression.

    Args:
        problem: What is compressed.
        merge_options: Further arguments of `merge`.
        directory: Where checkpoints are kept, or None.
        known: What a run is told apart by.
        show: Takes how far a search is, as `Display.show` does.
        log_dir: Where rounds are written for TensorBoard, or None.
    """

    def __init__(
        self,
        problem: Problem,
        merge_options: Mapping[str, Any],
        directory: pathlib.Path | None,
        known: Mapping[str, str],
        show: Callable[..., None],
        log_dir: str | os.PathLike[str] | None = None,
    ):
        self._log_dir = log_dir
        self._problem, self._merge_options = problem, merge_options
        self._directory, self._known, self._show = directory, known, show
        self._made: dict[str, Search] = {}

    def of(self, start: ArmStart, part: ArmPart, purpose: str) -> Search:
        """The search from a part of a start, for an arm or for a trial, by its name."""
        if part.found:
            return self.alone(*part.tasks)
        label = "-".join([purpose, start.name, *(part.tasks if len(start.parts) > 1 else ())])
        if label not in self._made:
            self._made[label] = self._make(label, part)
        return self._made[label]

    def alone(self, task: str) -> Search:
        """The search of the arm `separate` for a task."""
        arm = ARMS["separate"]
        (start,) = arm.starts(self._problem.tasks)
        (part,) = (part for part in start.parts if part.tasks == (task,))
        return self.of(start, part, arm.name)

    def label(self, search: Search) -> str:
        """What a search is called."""
        return next(label for label, made in self._made.items() if made is search)

    def _make(self, label: str, part: ArmPart) -> Search:
        problem = self._problem.only(part.tasks)
        marks = problem.examination.marks(part.tasks)
        name = folder_name(label)
        folder = None if self._directory is None else self._directory / name
        inherited = self._inherited(part)
        epochs = sum(row.epochs for row in inherited)
        total = problem.goal.effort * len(part.tasks)
        options: dict[str, Any] = {}
        if self._log_dir is not None:
            options["watch"] = RoundSummaries(self._log_dir, name)
        return Search(
            problem,
            lambda: self._network(problem, part),
            allot(total, part.method is not None, epochs),
            Checkpoints(folder, {**self._known, "start": digest(part)}, RoundCheck(marks)),
            functools.partial(self._show, label),
            inherited,
            **options,
        )

    def _inherited(self, part: ArmPart) -> list[Round]:
        """The rounds of separate pruning that made what a part merges; their effort counts."""
        if not part.pruned:
            return []
        merged = self._merged_rounds(part).items()
        return [row for task, number in merged for row in self.alone(task).line(number)]

    def _network(self, problem: Problem, part: ArmPart) -> keras.Model:
        """The network that a search starts from."""
        if part.method is None:
            ((task, model),) = problem.originals.items()
            # A lone output is named like its layer, which need not be the task's name.
            return model if task_names(read(model)) == (task,) else with_task(model, task)
        options = {"seed": problem.training.seed, "verbose": 0, **self._merge_options}
        if not part.pruned:
            return merge(problem.originals, problem.data, method=part.method, **options)
        rounds = self._merged_rounds(part)
        pruned = {task: self.alone(task).model(number) for task, number in rounds.items()}
        merged = read(merge(pruned, problem.data, method=part.method, **options))
        return emit(with_room(merged, problem.measure, problem.usage, problem.training.seed))

    def _merged_rounds(self, part: ArmPart) -> dict[str, int]:
        """By task, the round of separate pruning whose network a part merges."""
        return {task: _roomy(self.alone(task)) for task in part.tasks}


def _roomy(search: Search) -> int:
    """The round of a task's own search whose network is the least with room for others.

    Room is counted in multiply-accumulates: a part of the time is there whatever the widths.
    """
    whole = search.rounds[0]
    if search.best is None:
        return whole.number
    best = search.best.macs
    least = min(_PRUNED * best, math.sqrt(whole.macs * best))
    large = [row for row in search.rounds if row.accepted and row.macs >= least]
    return min(large, key=lambda row: row.macs, default=whole).number
