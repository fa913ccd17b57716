"""The arms of one compression: starts compared by trials, the best searched at equal effort."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfmot_pam.display import Display
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.juxtapose import juxtapose
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.alignment import NoCommonTrunk
from tfmot_pam.metrics.examination import used
from tfmot_pam.pipeline.apart import tasks_apart
from tfmot_pam.pipeline.arms import ARMS, AUTO, Arm, ArmPart, ArmStart
from tfmot_pam.pipeline.price import (
    TaskSet,
    combination_costs,
    expected_cost,
    find_price,
    measure_name,
)
from tfmot_pam.pipeline.problem import Problem
from tfmot_pam.pipeline.result import ArmResult, CompressionResult, Round, cheapest
from tfmot_pam.pipeline.search import Search
from tfmot_pam.pipeline.searches import Searches
from tfmot_pam.pipeline.strategy import Action
from tfmot_pam.pipeline.verdict import verdict
from tfmot_pam.pipeline.workers import Job, run_jobs
from tfmot_pam.reporting.report import report

# A trial of a start: its cost in units of separate pruning's, or of the originals' where that has
# not run, its share of the effort, and that of all trials.
_TRIAL_COST, _TRIAL_SHARE, _TRIAL_EFFORT, _TRIALS_EFFORT = 0.9, 0.3, 0.08, 0.32
# Losses of trials, or costs, that are as good as equal.
_ALIKE = 1.05


class Competition:
    """The arms of one compression.

    Args:
        problem: What is compressed.
        merge_options: Further arguments of `merge`.
        directory: Where checkpoints are kept, or None.
        known: What a run is told apart by.
        workers: How many searches may run at a time, in processes of their own; they need a
            directory.
        display: Shows how far searches are.
        log_dir: Where rounds are written for TensorBoard, or None.
    """

    def __init__(
        self,
        problem: Problem,
        merge_options: Mapping[str, Any],
        directory: pathlib.Path | None,
        known: Mapping[str, str],
        workers: int,
        display: Display,
        log_dir: str | os.PathLike[str] | None = None,
    ):
        self.problem, self.workers, self._display = problem, workers, display
        self._log_dir = log_dir
        self.searches = Searches(problem, merge_options, directory, known, display.show, log_dir)
        self.probes: dict[str, float] = {}
        self.trial_epochs = 0
        self.separate_ran = False

    def run(self, arms: Sequence[Arm] | None) -> CompressionResult:
        """Searches from the best start of every arm, or of all that `"auto"` stands for."""
        separate, obstacle = ARMS["separate"], None
        if arms is None:
            found = self._searched([self._only_start(separate)])
            if len(self.problem.tasks) > 1:
                try:
                    found += self._searched([self._best_start([ARMS[name] for name in AUTO])])
                except NoCommonTrunk as error:
                    obstacle = str(error)
            return self._result(tuple(found), obstacle)
        first = [arm for arm in arms if arm is separate]
        found = self._searched([self._only_start(arm) for arm in first])
        found += self._searched([self._best_start([arm]) for arm in arms if arm not in first])
        places = {arm.name: place for place, arm in enumerate(arms)}
        return self._result(tuple(sorted(found, key=lambda result: places[result.name])), obstacle)

    def _only_start(self, arm: Arm) -> tuple[Arm, ArmStart]:
        (start,) = self._starts(arm)
        return arm, start

    def _starts(self, arm: Arm) -> Sequence[ArmStart]:
        tasks, apart = self.problem.tasks, self._apart() if arm.apart else ()
        alone = tuple(ArmPart((task,), pruned=True) for task in apart)
        starts = [
            ArmStart(start.name, (*start.parts, *alone))
            for start in arm.starts_of(tuple(task for task in tasks if task not in apart))
        ]
        for start in starts:
            _check_start(arm, start, tasks)
        return starts

    def _apart(self) -> tuple[str, ...]:
        """The tasks that stay out of merged networks, by what separate pruning came to."""
        if len(self.problem.tasks) < 3:
            return ()
        self._make_separate()
        alone = self._costs_alone(self.problem.tasks)
        return tasks_apart(alone, self.problem.usage) if alone else ()

    def _make_separate(self) -> None:
        """Searches the networks alone, if that has not been done."""
        if not self.separate_ran:
            self._searched([self._only_start(ARMS["separate"])])

    def _best_start(self, arms: Sequence[Arm]) -> tuple[Arm, ArmStart]:
        """Of some arms' starts the best, by short trials where there are several."""
        starts = [(arm, start) for arm in arms for start in self._starts(arm)]
        if any(part.pruned for _, start in starts for part in start.parts):
            self._make_separate()
        if len(starts) == 1:
            return starts[0]
        self.probes |= self._trials([start for _, start in starts])
        return starts[self.problem.devices.told(lambda: starts.index(self._choice(starts)))]

    def _choice(self, starts: Sequence[tuple[Arm, ArmStart]]) -> tuple[Arm, ArmStart]:
        """Of starts that are as good as the best, one that costs least with all tasks together.

        Trials are noisy, and cost about the same in expectation. What shares more is smaller, runs
        in fewer operations and is trained faster.
        """
        losses = {start.name: self.probes[start.name] for _, start in starts}
        alike = [pair for pair in starts if losses[pair[1].name] <= _ALIKE * min(losses.values())]
        together = {start.name: self._cost_together(start) for _, start in alike}
        most = _ALIKE * min(together.values())
        least = [pair for pair in alike if together[pair[1].name] <= most]
        return min(least, key=lambda pair: losses[pair[1].name])

    def _cost_together(self, start: ArmStart) -> float:
        """What all tasks cost in the networks that a start's trial made."""
        networks = [
            read(search.model(search.rounds[-1].number)) for search in self._trial_searches(start)
        ]
        costs = [combination_costs(network, self.problem.measure) for network in networks]
        return sum(max(found.values()) for found in costs)

    def _trial_searches(self, start: ArmStart) -> list[Search]:
        """The searches of a start's trial: there is nothing to try of networks that are found."""
        return [self.searches.of(start, part, "trial") for part in start.parts if not part.found]

    def _trials(self, starts: Sequence[ArmStart]) -> dict[str, float]:
        """The mean loss of starts that were cut and trained a little, in units of the tolerances.

        The mean and not the largest: weights of the tasks' losses move losses between tasks. Many
        starts are tried for fewer epochs each: before any training, what they lose tells little.
        """
        trials = []
        share = min(_TRIAL_EFFORT, _TRIALS_EFFORT / len(starts))
        for start in starts:
            for search in self._trial_searches(start):
                if not search.rounds:
                    search.take(Action("start", None, 0))
                epochs = max(1, round(share * search.allotment.total))
                fraction = max(
                    0.0, 1.0 - self._trial_share(search.problem) / search.rounds[0].share
                )
                trials.append((search, (epochs, fraction)))
        self._ahead(trials)
        for search, trial in trials:
            search.trial(*trial)
            self.trial_epochs += search.rounds[-1].epochs
        found = {}
        for start in starts:
            last = [search.rounds[-1] for search in self._trial_searches(start)]
            losses = [loss for row in last for loss in self._used(row)]
            found[start.name] = sum(losses) / max(1, len(losses))
        return found

    def _ahead(self, searches: Sequence[tuple[Search, tuple[int, float] | None]]) -> None:
        """Lets workers go on with searches, each to the end or by a trial.

        They leave checkpoints: whoever goes on with the searches then finds all of it done.
        """
        left = [(s, t) for s, t in searches if (len(s.rounds) == 1 if t else not s.over)]
        if self.workers == 1 or len(left) < 2:
            return
        jobs = [
            Job(
                self.searches.label(search),
                search.problem.tasks,
                search.checkpoints,
                search.allotment,
                trial,
                self._log_dir,
            )
            for search, trial in left
        ]
        run_jobs(self.problem, jobs, self.workers, self._display)
        for search, _ in left:
            search.reload()

    def _used(self, row: Round) -> list[float]:
        """What each task has used of its tolerance; gains of one task do not pay for another."""
        losses = used(row.lost, self.problem.units)
        return [max(0.0, loss) for loss in losses.values()]

    def _searched(self, starts: Sequence[tuple[Arm, ArmStart]]) -> list[ArmResult]:
        """Searches from starts to the end."""
        found = [
            {part.tasks: self.searches.of(start, part, arm.name) for part in start.parts}
            for arm, start in starts
        ]
        every = [search for searches in found for search in searches.values()]
        for search in every:
            search.start()
        self._ahead([(search, None) for search in every])
        for search in every:
            search.run()
        self.separate_ran |= any(arm.name == ARMS["separate"].name for arm, _ in starts)
        return [
            self._arm_result(arm, start, searches)
            for (arm, start), searches in zip(starts, found, strict=True)
        ]

    def _arm_result(
        self, arm: Arm, start: ArmStart, searches: Mapping[TaskSet, Search]
    ) -> ArmResult:
        held = [search.best for search in searches.values()]
        accepted = all(row is not None for row in held)
        chosen = [
            search.best or min(search.rounds, key=lambda row: row.ratio)
            for search in searches.values()
        ]
        models = [s.model(row.number) for s, row in zip(searches.values(), chosen, strict=True)]
        model = models[0]
        if len(models) > 1:
            model = emit(juxtapose([read(found) for found in models], self.problem.tasks))
        network = read(model)
        macs, times = (combination_costs(network, measure) for measure in ("macs", "latency"))
        costs = combination_costs(network, self.problem.measure)
        cost = expected_cost(costs, self.problem.usage)
        rounds = {tasks: tuple(search.rounds) for tasks, search in searches.items()}
        every = [row for rows in rounds.values() for row in rows]
        return ArmResult(
            name=arm.name,
            start=start.name,
            model=model,
            accepted=accepted,
            cost=cost,
            share=cost / expected_cost(self.problem.original_costs, self.problem.usage),
            costs=costs,
            macs=macs,
            times=times,
            accuracy={mark: row.accuracy[mark] for row in chosen for mark in row.accuracy},
            rounds=rounds,
            epochs=sum(row.epochs for row in every),
            training_macs=sum(row.training_macs for row in every),
            seconds=sum(row.seconds for row in every),
            step_seconds=sum(row.step_seconds for row in every),
        )

    def _costs_alone(self, tasks: Sequence[str]) -> dict[str, float]:
        """What separate pruning of some tasks came to; nothing where it did not hold for all."""
        if not self.separate_ran:
            return {}
        found = {task: self.searches.alone(task).best for task in tasks}
        costs = {task: row.cost for task, row in found.items() if row is not None}
        return costs if len(costs) == len(found) else {}

    def _trial_share(self, problem: Problem) -> float:
        """The share of the originals' cost at which starts are compared: near where they end."""
        alone = self._costs_alone(problem.tasks)
        if not alone:
            return _TRIAL_SHARE
        costs = {c: sum(alone[task] for task in c) for c in problem.original_costs}
        share = expected_cost(costs, problem.usage) / expected_cost(
            problem.original_costs, problem.usage
        )
        return min(1.0, _TRIAL_COST * share)

    def _result(self, arms: tuple[ArmResult, ...], obstacle: str | None) -> CompressionResult:
        examination = self.problem.examination
        alone = examination.originals
        if not any(arm.accepted for arm in arms):
            reached = {
                arm.name: {t: round(mark, 4) for t, mark in arm.accuracy.items()} for arm in arms
            }
            raise ValueError(
                f"No arm is within the tolerances {dict(self.problem.goal.tolerances)}: they "
                f"reached {reached}, the originals { {t: round(v, 4) for t, v in alone.items()} }. "
                "Add 'separate' to `arms`, train longer (effort), or allow more."
            )
        best = cheapest(arms)
        table = report(
            best.model,
            originals=self.problem.originals,
            usage=self.problem.usage,
            accuracy=_shown(best.accuracy, examination.titles),
            original_accuracy=_shown(alone, examination.titles),
            metrics={task: examination.metric(task) for task in examination.titles},
        )
        told = verdict(arms, find_price(self.problem.measure), obstacle)
        told += self._told_metrics(best)
        self._display.say(told)
        return CompressionResult(
            model=best.model,
            arms=arms,
            measure=measure_name(self.problem.measure),
            original_accuracy=alone,
            report=table,
            verdict=told,
            probes=dict(self.probes),
            trial_epochs=self.trial_epochs,
            metrics=examination.titles,
        )

    def _told_metrics(self, best: ArmResult) -> str:
        """What tasks with a metric of their own reached, in words."""
        examination = self.problem.examination
        told = [
            f"{task}: {metric.told(best.accuracy[task])} (the original "
            f"{examination.originals[task]:.4g})"
            for task in examination.titles
            if (metric := examination.metric(task)) is not None
        ]
        return f" On the validation data, {'; '.join(told)}." if told else ""


def _check_start(arm: Arm, start: ArmStart, tasks: Sequence[str]) -> None:
    covered = [task for part in start.parts for task in part.tasks]
    if sorted(covered) != sorted(tasks) or any(
        (len(part.tasks) > 1) != (part.method is not None) for part in start.parts
    ):
        raise ValueError(
            f"The start {start.name!r} of the arm {arm.name!r} has the parts "
            f"{[(part.tasks, part.method and part.method.name) for part in start.parts]}. Expected "
            f"each of the tasks {list(tasks)} in one part, with a method where a part has several."
        )


def _shown(marks: Mapping[str, float], own: Mapping[str, str]) -> dict[str, float]:
    """Accuracies as a report takes them: R^2 may be below 0."""
    return {task: mark if task in own else min(max(mark, 0.0), 1.0) for task, mark in marks.items()}
