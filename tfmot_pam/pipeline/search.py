"""The search from one starting network: rounds of cuts and training, each kept as it comes.

Of several workers all train together. What is trained, and what came of it, only the chief decides:
they could come to other ends by rounding, and would then wait for each other forever.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.reader import read
from tfmot_pam.metrics.examination import Judgement, used
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
from tfmot_pam.reporting.table import human
from tfmot_pam.training.step_clock import StepClock, StepWatch

# Calibration inputs of a cut, at least, as a rule and at most, and the multiply-accumulates with
# which there are more, where a network is small, or fewer, where it is large.
_SAMPLES, _SAMPLED_MACS = (512, 1024, 4096), (2e9, 1e10)
_PATH_END, _TAIL_RATE = 0.3, 1.2  # learning rates, as shares of the first


class Search:
    """The rounds of one search.

    Args:
        problem: What is compressed.
        start: Builds the network that the search starts from; None where it has been started.
        allotment: How epochs are spent.
        checkpoints: Where rounds are kept.
        show: Takes what share of the epochs is spent, what goes on, and a line a round.
        inherited: The rounds, of other searches, that made what the search starts from.
        room: How much the width of a layer counts that several tasks are to share.
        weigh: Gives the factors of the tasks' losses, by the rounds so far and the tolerances.
        watch: Takes every round when it is done.
    """

    def __init__(
        self,
        problem: Problem,
        start: Callable[[], keras.Model] | None,
        allotment: Allotment,
        checkpoints: Checkpoints,
        show: Callable[..., None],
        inherited: Sequence[Round] = (),
        *,
        room: float = 1.0,
        weigh: Callable[..., dict[str, float]] = loss_weights,
        watch: Callable[[Round], None] = lambda row: None,
    ):
        self._room, self._weigh, self._watch = room, weigh, watch
        self.problem, self.allotment = problem, allotment
        self._inherited = tuple(inherited)
        self.checkpoints, self._build, self._show = checkpoints, start, show
        self.rounds: list[Round] = []
        self._epochs = allotment.total
        self._models: dict[int, keras.Model] = {}
        self._unreachable: dict[int, float] = {}
        self.reload()

    def reload(self) -> None:
        """Takes over the rounds that are kept, of which another process may have made some."""
        devices = self.problem.devices
        kept = devices.told(lambda: self._kept(models=devices.workers > 1))
        if kept is not None:
            self.rounds, models = kept
            self._models.update(models)

    def _kept(self, models: bool) -> tuple[list[Round], dict[int, keras.Model]] | None:
        """The rounds that are kept, and their networks for those who cannot read them."""
        if not self.checkpoints.kept:
            return None
        rounds = [Round(**state) for state in self.checkpoints.states()]
        return rounds, {row.number: self.model(row.number) for row in rounds if models}

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Goes on until the search is over, or until a round is done and it is to stop."""
        while not stop() and (action := self._next()) is not None:
            self.take(action)
        self._show(1.0)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self._next() is None

    def _next(self) -> Action | None:
        target = self.problem.goal.target
        return next_action(self.rounds, self.allotment, target, self._unreachable)

    def start(self) -> None:
        """Makes the network that the search starts from, if there is none yet."""
        if not self.rounds and (action := self._next()) is not None:
            self.take(action)

    def trial(self, epochs: int, fraction: float) -> None:
        """One cut and some training of what was started; where so much cannot go, training."""
        self._epochs = self._spent + epochs
        if len(self.rounds) == 1:
            self.take(Action("cut", 0, epochs, fraction))
        if len(self.rounds) == 1:  # so much could not go
            self.take(Action("warm", 0, epochs))
        self._show(1.0)

    def take(self, action: Action) -> None:
        """Takes one action; of a cut that the floors do not allow it is noted how much it was."""
        told = self.problem.devices.told
        weights = self._weigh(self._heard(action), self.problem.units)
        began, clock = time.perf_counter(), StepClock()
        self._show_now(action)
        try:
            action, student = told(lambda: self._student(action, weights))
            model = self._trained(action, student, weights, clock)
        except UnreachableFraction:
            self._unreachable[action.parent] = action.fraction
            return
        found, model = told(lambda: self._judged(action, model, weights, began, clock))
        self.rounds.append(found)
        if self.checkpoints.kept:
            self._models.clear()  # the others can be read again
        self._models[found.number] = model

    def _judged(
        self,
        action: Action,
        model: keras.Model,
        weights: Mapping[str, float],
        began: float,
        clock: StepClock,
    ) -> tuple[Round, keras.Model]:
        """What came of an action, when it is kept."""
        examination, tolerances = self.problem.examination, self.problem.goal.tolerances
        if action.stage == "retry":
            before = tries_of(self.rounds, self.rounds[action.parent])
            tried = [self.model(found.number) for found in before]
            model, judged, tries = steadier(model, tried, examination, tolerances)
        else:
            judged, tries = examination.judge(model), 1
        return self._keep(action, model, judged, tries, weights, began, clock), model

    def _heard(self, action: Action) -> list[Round]:
        """The rounds that steer an action: cuts beyond what it goes on from say nothing of that."""
        own = set() if action.parent is None else {row.number for row in self.line(action.parent)}
        return [row for row in self.rounds if row.stage != "cut" or row.number in own]

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
    def _spent(self) -> int:
        """The epochs of all rounds."""
        return sum(row.epochs for row in self.rounds)

    @property
    def best(self) -> Round | None:
        """The accepted round of least expected cost, or None."""
        return best_round(self.rounds)

    def _student(self, action: Action, weights: Mapping[str, float]) -> tuple[Action, keras.Model]:
        """The network that an action trains; a trim to one that was refused goes on from that."""
        if self._build is not None and action.stage == "start":
            return action, self._build()
        model = self.model(action.parent)
        kind = find_importance(self.problem.settings.importance)
        if action.stage not in ("cut", "trim") or not kind.at_once:
            return action, model
        network, urgent = read(model), self._urgency(action)
        smaller = cut(
            network,
            self.problem.settings,
            action.fraction,
            self._calibration(network) if kind.inputs else None,
            task_weights={task: weight * urgent[task] for task, weight in weights.items()},
            room=self._room if len(self.problem.tasks) > 1 else 0.0,
        )
        refused = self._refused_like(smaller, action)
        if refused is None:
            return action, emit(smaller)
        return dataclasses.replace(action, parent=refused.number), self.model(refused.number)

    def _refused_like(self, network: Network, action: Action) -> Round | None:
        """The last round that was refused, of a trim of the same round to the same widths."""
        for found in reversed(self.rounds):
            parents = [row.parent for row in self.line(found.number) if row.stage == "trim"]
            same = not found.accepted and action.parent in parents
            if same and _widths(read(self.model(found.number))) == _widths(network):
                return found
        return None

    def _trained(
        self, action: Action, student: keras.Model, weights: Mapping[str, float], clock: StepClock
    ) -> keras.Model:
        if action.stage == "start":
            return student
        options: dict[str, Any] = {
            "rates": self._rates(action),
            "task_weights": weights,
            "first_epoch": self._spent,
            "seed": len(self.rounds),
            "callbacks": [clock, StepWatch(lambda epochs: self._show_now(action, epochs))],
        }
        at_once = find_importance(self.problem.settings.importance).at_once
        if action.stage in ("cut", "trim") and not at_once:
            return self._cut_while_training(student, action, options)
        return self.problem.train(student, action.epochs, **options)

    def _calibration(self, network: Network) -> Inputs:
        fewest, usual, most = _SAMPLES
        largest = max(1.0, *combination_costs(network, "macs").values())
        more, fewer = (macs / largest for macs in _SAMPLED_MACS)
        count = min(max(more, min(fewer, usual), fewest), most)
        return self.problem.calibration(round(count))

    def _cut_while_training(
        self, model: keras.Model, action: Action, options: dict[str, Any]
    ) -> keras.Model:
        settings, training = self.problem.settings, self.problem.training
        batches = action.epochs * -(-self.problem.rows // training.batch_size)
        schedule = Ramp(
            action.fraction, end_step=max(1, batches // 2), frequency=max(1, batches // 20)
        )
        # The losses are in units of the best constant prediction, and weighted, already.
        settings = dataclasses.replace(
            settings, schedule=schedule, task_weights=self._urgency(action)
        )
        prunable = find_prunable(read(model))
        check_reachable(prunable, settings, action.fraction)
        gated = gated_model(prunable, settings)
        options["callbacks"] = [UpdatePruningStep(), *options["callbacks"]]
        return strip_pruning(self.problem.train(gated, action.epochs, **options))

    def _urgency(self, action: Action) -> dict[str, float]:
        return urgency(self._heard(action), self.problem.units)

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
    ) -> Round:
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
        self._watch(found)
        line = (
            f"{found.stage} {found.number}"
            f"{'' if found.parent is None else f' from {found.parent}'}"
            f"{'' if tries == 1 else f', the mean of {tries} tries'}: "
            f"{100 * found.share:.1f} % of the originals' expected cost, accuracy in %: "
            f"{problem.examination.told(judged, problem.tasks)}: "
            f"{'kept' if found.accepted else 'not within tolerance'}"
        )
        self._show((self._spent + found.epochs) / max(1, self._epochs), line=line)
        return found

    def _show_now(self, action: Action, epochs: float = 0.0) -> None:
        """Shows what goes on, and where the search is: its best network, or its last one."""
        state = f"{action.stage} {len(self.rounds)}"
        if self.rounds:
            row = self.best or self.rounds[-1]
            losses = used(row.lost, self.problem.units)
            shares = ", ".join(f"{task} {100 * loss:.0f} %" for task, loss in losses.items())
            state += f" | {human(row.macs)} MACs expected | of the tolerance: {shares}"
        self._show((self._spent + epochs) / max(1, self._epochs), state)


def _widths(network: Network) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of all weights, by layers."""
    return {
        name: {weight: value.shape for weight, value in layer.weights.items()}
        for name, layer in network.layers.items()
    }
