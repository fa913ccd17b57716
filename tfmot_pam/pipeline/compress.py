"""`compress`: trained models in, the smallest network that keeps their accuracy out."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.generation import are_tf_keras
from tfmot_pam.graph.juxtapose import juxtapose
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import task_names
from tfmot_pam.graph.tf_keras.convert import to_tf_keras
from tfmot_pam.graph.usage import check_usage
from tfmot_pam.merging.alignment import NoCommonTrunk
from tfmot_pam.merging.merge import merge
from tfmot_pam.pipeline.accuracy import Examination, used
from tfmot_pam.pipeline.arguments import check_count, check_goal, check_training_options
from tfmot_pam.pipeline.arms import ARMS, AUTO, Arm, ArmPart, ArmStart, find_arms
from tfmot_pam.pipeline.checkpoints import Checkpoints
from tfmot_pam.pipeline.identity import digest, identity
from tfmot_pam.pipeline.inputs import make_views, originals_by_task, split, with_task
from tfmot_pam.pipeline.price import (
    check_measure,
    combination_costs,
    expected_cost,
    original_costs,
)
from tfmot_pam.pipeline.problem import Problem, Training, prepared_distillation
from tfmot_pam.pipeline.result import ArmResult, CompressionResult, Round, cheapest, verdict
from tfmot_pam.pipeline.search import Action, Search, allot
from tfmot_pam.pruning.importance import find_importance
from tfmot_pam.pruning.settings import PruningSettings
from tfmot_pam.reporting.report import report

# A trial of a start: its share of the originals' computation, and of the effort.
_TRIAL_SHARE, _TRIAL_EFFORT = 0.3, 0.08
_TRIALS = 4  # more starts than these are looked at before any training first
_VALIDATION_VIEWS = 4  # where augment() makes other views


def compress(
    models: Mapping[str, keras.Model] | Sequence[keras.Model] | keras.Model,
    data: Any,
    max_accuracy_drop: float | Mapping[str, float] = 0.01,
    *,
    directory: str | os.PathLike[str] | None = None,
    validation_data: Any = None,
    arms: str | Sequence[str | Arm] = "auto",
    effort: int = 24,
    target: float | None = None,
    usage: Mapping[Sequence[str], float] | None = None,
    importance: Any = "reconstruction",
    measure: str = "macs",
    augment: Callable[..., Any] | None = None,
    views: int | None = None,
    merge_options: Mapping[str, Any] | None = None,
    fine_tune_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    verbose: int | str = "auto",
) -> CompressionResult:
    """Finds the network of least expected cost that does all tasks as the models do.

    Use it to go from trained models to a deployable network in one call; `merge`, `fine_tune`,
    `prune_channels` and `strip_pruning` are its parts. It searches several families of networks,
    the *arms*, at equal effort: the networks pruned separately, one network's trunk for all tasks,
    or a part of each layer shared and the rest exclusive. Each search trains by distillation from
    the originals while channels are removed, then trains the networks around the tolerance on
    while the rate falls. The cheapest within the tolerances is the result: where merging does not
    pay, the separate networks side by side.

    Works on a single model too: it is then pruned alone.

    Args:
        models: Trained models by task, a list of them, or one model. As in `merge`.
        data: Training data in any form that `merge` takes. Without labels, accuracy is agreement
            with the originals.
        max_accuracy_drop: How much validation accuracy each task may lose against its original
            model, 0..1 (R^2 for real-valued targets); one number, or one a task. It must hold on
            all validation samples, and within one standard error on each half of them.
        directory: Where to keep a checkpoint of every round. When the same call is made again, it
            goes on from the last complete one.
        validation_data: Data like `data`, for the accuracy: best samples that the originals were
            not trained on. None takes every seventh sample of `data` away from training; where the
            originals know those by heart, compression stops early.
        arms: `"auto"` runs `"separate"` and, chosen by short trials, the best start of `"trunk"`
            and `"mixed"`. Or names to run: these, `"stem"` (shared up to a layer), the merge
            methods (`"pam"`, `"pam-paper"`, `"shared"`, `"random"`), or `Arm` objects.
        effort: Epochs of training per network and arm: an arm of T tasks trains one network
            T x effort epochs, or T networks effort epochs each. Patience pays: at 12 a merged
            network can look worse than separate ones where at 36 it is better.
        target: Stop at this share of the computation of the originals run one by one, 0..1.
        usage: Probability of each combination; default: all alike.
        importance: As in `prune_channels`.
        measure: What is to become small: `"macs"`, or `"latency"`, an estimate of the time of one
            thread in which channels count in whole tiles and every operation costs something:
            small networks in many groups can have few MACs and take long.
        augment: `augment(x, rng) -> x`: other views of inputs that keep their labels, such as
            flipped images. Teachers see the same views. Accuracies are then means over 4 views of
            the validation data, which makes them less noisy.
        views: How many views are made of the training inputs, and kept in memory; None makes 16,
            or as many as 2 GiB hold. Long training learns few views by heart.
        merge_options: Further arguments of `merge`.
        fine_tune_options: `batch_size`, `learning_rate`, `label_weight` and `losses`, as in
            `fine_tune`.
        seed: Seed of everything random.
        verbose: 0 for silence, otherwise one line a round.

    Returns:
        The result: `.model`, `.models`, `.arms`, `.verdict`, `.report`, `.save(directory)`.

    Raises:
        TypeError: a model or the data is of a wrong kind.
        ValueError: an option is out of range; tolerances are for unknown tasks; no arm is within
            the tolerance; the directory holds checkpoints of other models, data or options.
        OSError: a checkpoint cannot be written; those before it are whole.

    Source: expected cost and task sets: PAM (He et al., KDD 2021, sections 3 to 5); distillation
    with the teacher on the same view and long schedules: Beyer et al., CVPR 2022.

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> x = np.random.default_rng(0).normal(size=(280, 6)).astype("float32")
    >>> y = (x[:, 0] > 0).astype("int64")
    >>> model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, activation="relu"),
    ...                           keras.layers.Dense(2, activation="softmax", name="sign")])
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> history = model.fit(x, y, epochs=30, verbose=0)
    >>> result = tfmot_pam.compress(model, (x, {"sign": y}), 0.05, effort=8, target=0.5, verbose=0)
    >>> result.best.share <= 0.5
    True
    """
    of_tf_keras = are_tf_keras(models, "models")
    originals = originals_by_task(models)
    tasks = tuple(originals)
    goal = check_goal(tasks, max_accuracy_drop, target, effort)
    usage = None if usage is None else check_usage(usage, tasks)
    find_importance(importance)
    if views is not None:
        check_count("views", views)
    check_measure(measure)
    chosen = None if arms == "auto" else find_arms(arms)
    options = check_training_options(fine_tune_options)
    training, validation = split(originals, data, validation_data)
    distillation, prepared = prepared_distillation(
        originals, training, make_views(training, augment, views, seed), options, seed
    )
    problem = Problem(
        originals=originals,
        goal=goal,
        settings=PruningSettings(importance=importance, measure=measure, usage=usage, seed=seed),
        usage=usage,
        training=Training(**options, seed=seed),
        samples=training,
        views=prepared,
        distillation=distillation,
        examination=Examination(
            originals, make_views(validation, augment, _VALIDATION_VIEWS, seed + 1)
        ),
        original_costs=original_costs({t: read(m) for t, m in originals.items()}, measure),
    )
    described = {
        "goal": goal,
        "usage": usage,
        "importance": importance,
        "measure": measure,
        "views": [augment, views],
        "merge": merge_options,
        "fine_tune": fine_tune_options,
        "seed": seed,
    }
    running = _Compression(
        problem,
        dict(merge_options or {}),
        None if directory is None else pathlib.Path(directory),
        identity(originals, training, validation, described),
        verbose,
    )
    result = running.run(chosen)
    if of_tf_keras:
        result = dataclasses.replace(result, model=to_tf_keras(result.model))
    return result


class _Compression:
    """The arms of one compression."""

    def __init__(self, problem: Problem, merge_options, directory, known, verbose):
        self.problem, self.merge_options = problem, merge_options
        self.directory, self.known, self.verbose = directory, known, verbose
        self.probes: dict[str, float] = {}
        self.trial_epochs = 0
        self.obstacle: str | None = None
        self.searches: dict[str, Search] = {}

    def run(self, arms: Sequence[Arm] | None) -> CompressionResult:
        if arms is None:
            results = [self._arm(ARMS["separate"])]
            if len(self.problem.tasks) > 1:
                try:
                    results.append(self._best_start([ARMS[name] for name in AUTO]))
                except NoCommonTrunk as error:
                    self.obstacle = str(error)
        else:
            results = [self._arm(arm) for arm in arms]
        return self._result(tuple(results))

    def _arm(self, arm: Arm) -> ArmResult:
        return self._best_start([arm])

    def _best_start(self, arms: Sequence[Arm]) -> ArmResult:
        """Searches from the best of some arms' starts, by short trials where there are several."""
        starts = [(arm, start) for arm in arms for start in arm.starts(self.problem.tasks)]
        for arm, start in starts:
            _check_start(arm, start, self.problem.tasks)
        if len(starts) > 1:
            promising = self._promising(starts)
            for _, start in promising:
                self.probes[start.name] = self._trial(start)
            starts = sorted(promising, key=lambda pair: self.probes[pair[1].name])
        arm, start = starts[0]
        return self._searched(arm.name, start)

    def _promising(self, starts: list[tuple[Arm, ArmStart]]) -> list[tuple[Arm, ArmStart]]:
        """Of many starts the two of each arm that lose least before any training."""
        if len(starts) <= _TRIALS:
            return starts
        losses = {start.name: self._untrained_loss(start) for _, start in starts}
        starts = sorted(starts, key=lambda pair: losses[pair[1].name])
        kept: dict[str, list[tuple[Arm, ArmStart]]] = {}
        for arm, start in starts:
            kept.setdefault(arm.name, []).append((arm, start))
        return [pair for found in kept.values() for pair in found[:2]]

    def _untrained_loss(self, start: ArmStart) -> float:
        """The mean loss of the tasks of a start before any training, in units of the tolerances."""
        losses = []
        for part in start.parts:
            search = self._search(start, part, "trial")
            if not search.rounds:
                search.take(Action("start", None, 0))
            losses += self._used(search.rounds[0])
        return sum(losses) / len(losses)

    def _trial(self, start: ArmStart) -> float:
        """The mean loss of a start that was cut and trained a little, in units of the tolerances.

        The mean and not the largest: weights of the tasks' losses move losses between tasks.
        """
        self._untrained_loss(start)
        losses = []
        for part in start.parts:
            search = self._search(start, part, "trial")
            if len(search.rounds) == 1:
                epochs = max(1, round(_TRIAL_EFFORT * search.allotment.total))
                share = search.rounds[0].share
                search.take(Action("cut", 0, epochs, max(0.0, 1.0 - _TRIAL_SHARE / share)))
            self.trial_epochs += search.rounds[-1].epochs
            losses += self._used(search.rounds[-1])
        return sum(losses) / len(losses)

    def _used(self, row: Round) -> list[float]:
        """What each task has used of its tolerance; gains of one task do not pay for another."""
        losses = used(row.lost, self.problem.goal.tolerances)
        return [max(0.0, loss) for loss in losses.values()]

    def _searched(self, name: str, start: ArmStart) -> ArmResult:
        began = time.perf_counter()
        searches = {}
        for part in start.parts:
            searches[part.tasks] = self._search(start, part, name)
            searches[part.tasks].run()
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
        costs = times if self.problem.measure == "latency" else macs
        cost = expected_cost(costs, self.problem.usage)
        rounds = {tasks: tuple(search.rounds) for tasks, search in searches.items()}
        every = [row for rows in rounds.values() for row in rows]
        return ArmResult(
            name=name,
            start=start.name,
            model=model,
            accepted=accepted,
            cost=cost,
            share=cost / expected_cost(self.problem.original_costs, self.problem.usage),
            macs=macs,
            times=times,
            accuracy={task: row.accuracy[task] for row in chosen for task in row.accuracy},
            rounds=rounds,
            epochs=sum(row.epochs for row in every),
            training_macs=sum(row.training_macs for row in every),
            seconds=time.perf_counter() - began,
        )

    def _search(self, start: ArmStart, part: ArmPart, purpose: str) -> Search:
        problem = self.problem.only(part.tasks)
        label = "-".join([purpose, start.name, *(part.tasks if len(start.parts) > 1 else ())])
        folder = None if self.directory is None else self.directory / _folder_name(label)
        if label not in self.searches:
            self.searches[label] = Search(
                problem,
                lambda: self._merged(problem, part),
                allot(problem.goal.effort * len(part.tasks), part.method is not None),
                Checkpoints(folder, {**self.known, "start": digest(part)}),
                lambda text: self._say(f"{label}: {text}"),
            )
        return self.searches[label]

    def _merged(self, problem: Problem, part: ArmPart) -> keras.Model:
        if part.method is None:
            ((task, model),) = problem.originals.items()
            # A lone output is named like its layer, which need not be the task's name.
            return model if task_names(read(model)) == (task,) else with_task(model, task)
        options = {"seed": problem.training.seed, "verbose": 0, **self.merge_options}
        return merge(problem.originals, problem.data, method=part.method, **options)

    def _result(self, arms: tuple[ArmResult, ...]) -> CompressionResult:
        best = cheapest(arms)
        alone = self.problem.examination.originals
        if best is None:
            reached = {
                arm.name: {t: round(mark, 4) for t, mark in arm.accuracy.items()} for arm in arms
            }
            raise ValueError(
                f"No arm is within the tolerances {dict(self.problem.goal.tolerances)}: they "
                f"reached {reached}, the originals { {t: round(v, 4) for t, v in alone.items()} }. "
                "Add 'separate' to `arms`, train longer (effort), or allow more."
            )
        table = report(
            best.model,
            originals=self.problem.originals,
            usage=self.problem.usage,
            accuracy=_shown(best.accuracy),
            original_accuracy=_shown(alone),
        )
        told = verdict(arms, self.problem.measure, self.obstacle)
        self._say(told)
        return CompressionResult(
            model=best.model,
            arms=arms,
            measure=self.problem.measure,
            original_accuracy=alone,
            report=table,
            verdict=told,
            probes=dict(self.probes),
            trial_epochs=self.trial_epochs,
        )

    def _say(self, text: str) -> None:
        if self.verbose:
            sys.stdout.write(f"compress: {text}\n")
            sys.stdout.flush()


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


def _folder_name(label: str) -> str:
    """A name for a folder; labels that differ in other characters alone stay apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", label)
    return plain if plain == label else f"{plain}-{digest(label)[:8]}"


def _shown(marks: Mapping[str, float]) -> dict[str, float]:
    """Accuracies as a report takes them: R^2 may be below 0."""
    return {task: min(max(mark, 0.0), 1.0) for task, mark in marks.items()}
