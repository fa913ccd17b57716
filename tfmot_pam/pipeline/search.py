"""The search from one starting network: rounds of cuts and training, each kept as it comes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.pipeline.accuracy import Judgement
from tfmot_pam.pipeline.averaging import steadier
from tfmot_pam.pipeline.checkpoints import Checkpoints
from tfmot_pam.pipeline.price import combination_costs, expected_cost
from tfmot_pam.pipeline.problem import Problem
from tfmot_pam.pipeline.result import Round
from tfmot_pam.pipeline.steering import loss_weights, urgency
from tfmot_pam.pipeline.strategy import Action, Allotment, best_round, next_action, tries_of
from tfmot_pam.pruning.at_once import UnreachableFraction, check_reachable, cut
from tfmot_pam.pruning.callbacks import UpdatePruningStep
from tfmot_pam.pruning.channels import find_prunable
from tfmot_pam.pruning.importance import find_importance
from tfmot_pam.pruning.prune import gated_model, strip_pruning
from tfmot_pam.pruning.schedules import Ramp
from tfmot_pam.training.step_clock import StepClock

# Calibration inputs of a cut: more where a network is small, at about as much computation.
_SAMPLES, _SAMPLED_MACS = (1024, 4096), 2e9
_ROOM = 1.0  # how much the width of a layer counts that several tasks are to share
_PATH_END, _TAIL_RATE = 0.3, 1.2  # learning rates, as shares of the first


class Search:
    """The rounds of one search.

    Args:
        problem: What is compressed.
        start: Builds the network that the search starts from; None where it has been started.
        allotment: How epochs are spent.
        checkpoints: Where rounds are kept.
        say: Takes one line a round.
        inherited: The rounds, of other searches, that made what the search starts from.
    """

    def __init__(
        self,
        problem: Problem,
        start: Callable[[], keras.Model] | None,
        allotment: Allotment,
        checkpoints: Checkpoints,
        say: Callable[[str], None],
        inherited: Sequence[Round] = (),
    ):
        self.problem, self.allotment = problem, allotment
        self._inherited = tuple(inherited)
        self.checkpoints, self._build, self._say = checkpoints, start, say
        self.rounds: list[Round] = []
        self._models: dict[int, keras.Model] = {}
        self._unreachable: dict[int, float] = {}
        self.reload()

    def reload(self) -> None:
        """Takes over the rounds that are kept, of which another process may have made some."""
        if self.checkpoints.kept:
            self.rounds = [Round(**state) for state in self.checkpoints.states()]

    def run(self) -> None:
        """Goes on until the search is over."""
        while (action := self._next()) is not None:
            self.take(action)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self._next() is None

    def _next(self) -> Action | None:
        target = self.problem.goal.target
        return next_action(self.rounds, self.allotment, target, self._unreachable)

    def start(self) -> None:
        """Makes the network that the search starts from, if there is none yet."""
        if not self.rounds:
            self.take(self._next())

    def trial(self, epochs: int, fraction: float) -> None:
        """One cut and some training of what was started; where so much cannot go, training."""
        if len(self.rounds) == 1:
            self.take(Action("cut", 0, epochs, fraction))
        if len(self.rounds) == 1:
            self.take(Action("warm", 0, epochs))

    def take(self, action: Action) -> None:
        """Takes one action; of a cut that the floors do not allow it is noted how much it was."""
        examination, tolerances = self.problem.examination, self.problem.goal.tolerances
        weights = loss_weights(self.rounds, tolerances)
        began, clock = time.perf_counter(), StepClock()
        try:
            model = self._trained(action, weights, clock)
        except UnreachableFraction:
            self._unreachable[action.parent] = action.fraction
            return
        if action.stage == "retry":
            before = tries_of(self.rounds, self.rounds[action.parent])
            tried = [self.model(found.number) for found in before]
            model, judged, tries = steadier(model, tried, examination, tolerances)
        else:
            judged, tries = examination.judge(model), 1
        self._keep(action, model, judged, tries, weights, began, clock)

    def model(self, number: int) -> keras.Model:
        """The network of a round."""
        if number not in self._models:
            self._models[number] = self.checkpoints.model(number)
        return self._models[number]

    def line(self, number: int) -> list[Round]:
        """The rounds that made a round's network, the first first."""
        row = self.rounds[number]
        return [*([] if row.parent is None else self.line(row.parent)), row]

    @property
    def best(self) -> Round | None:
        """The accepted round of least expected cost, or None."""
        return best_round(self.rounds)

    def _trained(
        self, action: Action, weights: Mapping[str, float], clock: StepClock
    ) -> keras.Model:
        if action.stage == "start":
            return self._build()
        model = self.model(action.parent)
        first = sum(found.epochs for found in self.rounds)
        options = {
            "rates": self._rates(action),
            "task_weights": weights,
            "first_epoch": first,
            "seed": len(self.rounds),
            "callbacks": [clock],
        }
        if action.stage not in ("cut", "trim"):
            return self.problem.train(model, action.epochs, **options)
        settings = self.problem.settings
        kind = find_importance(settings.importance)
        if kind.at_once:
            inputs = self._calibration(model) if kind.inputs else None
            urgent = self._urgency()
            matters = {task: weight * urgent[task] for task, weight in weights.items()}
            room = _ROOM if len(self.problem.tasks) > 1 else 0.0
            network = read(model)
            smaller = cut(
                network, settings, action.fraction, inputs, task_weights=matters, room=room
            )
            return self.problem.train(emit(smaller), action.epochs, **options)
        return self._cut_while_training(model, action, options)

    def _calibration(self, model: keras.Model) -> np.ndarray:
        fewest, most = _SAMPLES
        largest = max(1.0, *combination_costs(read(model), "macs").values())
        return self.problem.calibration(round(min(max(_SAMPLED_MACS / largest, fewest), most)))

    def _cut_while_training(self, model, action: Action, options) -> keras.Model:
        settings, training = self.problem.settings, self.problem.training
        batches = action.epochs * -(-self.problem.rows // training.batch_size)
        schedule = Ramp(
            action.fraction, end_step=max(1, batches // 2), frequency=max(1, batches // 20)
        )
        # The losses are in units of the best constant prediction, and weighted, already.
        settings = dataclasses.replace(settings, schedule=schedule, task_weights=self._urgency())
        prunable = find_prunable(read(model))
        check_reachable(prunable, settings, action.fraction)
        gated = gated_model(prunable, settings)
        options["callbacks"] = [UpdatePruningStep(), *options["callbacks"]]
        return strip_pruning(self.problem.train(gated, action.epochs, **options))

    def _urgency(self) -> dict[str, float]:
        return urgency(self.rounds, self.problem.goal.tolerances)

    def _rates(self, action: Action) -> tuple[float, float]:
        """The learning rate at first and in the end: one fall over the path, one over each tail."""
        if action.stage == "warm":
            return 1.0, 1.0
        if action.stage == "cut":
            spent = sum(found.epochs for found in self.rounds if found.stage == "cut")
            shares = (spent + done for done in (0, action.epochs))
            first, last = (1.0 - (1.0 - _PATH_END) * s / self.allotment.path for s in shares)
            return first, max(last, _PATH_END)
        return _TAIL_RATE, 0.0

    def _keep(
        self,
        action: Action,
        model: keras.Model,
        judged: Judgement,
        tries: int,
        weights: Mapping[str, float],
        began: float,
        clock: StepClock,
    ) -> None:
        problem = self.problem
        network = read(model)
        macs = combination_costs(network, "macs")
        cost = expected_cost(combination_costs(network, problem.measure), problem.usage)
        found = Round(
            number=len(self.rounds),
            stage=action.stage,
            parent=action.parent,
            cost=cost,
            share=cost / expected_cost(problem.original_costs, problem.usage),
            macs=expected_cost(macs, problem.usage),
            accuracy=judged.accuracy,
            lost=judged.lost,
            ratio=judged.ratio(problem.goal.tolerances),
            accepted=judged.within(problem.goal.tolerances),
            epochs=action.epochs,
            training_macs=sum(row.training_macs for row in self._inherited)
            if action.stage == "start"
            else 3.0 * action.epochs * problem.rows * max(macs.values()),
            task_weights=dict(weights),
            tries=tries,
            seconds=time.perf_counter() - began,
            step_seconds=clock.seconds,
        )
        self.checkpoints.save(found.number, dataclasses.asdict(found), model)
        self.rounds.append(found)
        if self.checkpoints.kept:
            self._models.clear()  # the others can be read again
        self._models[found.number] = model
        losses = ", ".join(
            f"{t} {100 * judged.accuracy[t]:.2f} ({-100 * judged.lost[t]:+.2f} +- "
            f"{100 * judged.error[t] / math.sqrt(2.0):.2f})"
            for t in problem.tasks
        )
        self._say(
            f"{found.stage} {found.number}"
            f"{'' if found.parent is None else f' from {found.parent}'}"
            f"{'' if tries == 1 else f', the mean of {tries} tries'}: "
            f"{100 * found.share:.1f} % of the originals' expected cost, accuracy in %: "
            f"{losses}: {'kept' if found.accepted else 'not within tolerance'}"
        )
