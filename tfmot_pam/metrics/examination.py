"""How well a model does each task, and how much it lost against its original."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import Samples
from tfmot_pam.graph.calling import answers_by_head, predicted
from tfmot_pam.graph.inputs import arrays_of, count
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import network_heads
from tfmot_pam.metrics.accuracy import constant_accuracy as constant_accuracy
from tfmot_pam.metrics.accuracy import sample_scores as sample_scores
from tfmot_pam.metrics.marks import Scores, Values
from tfmot_pam.metrics.metric import Metric, marks_of
from tfmot_pam.metrics.task_metric import TaskMetric, metric_of, of_mark
from tfmot_pam.training.heads import output_kinds

# Losses are measured in units of their tolerances, but of half a point at least: smaller ones are
# noise, and would end every search at once.
_LEAST_UNIT = 0.005
# A network that loses so much from one view of its samples to others does not know those.
_UNKNOWN_VIEWS = 0.01


def predict(model: keras.Model, samples: Samples) -> dict[str, np.ndarray]:
    """A model's outputs for each of its heads on that head's samples."""
    results: dict[int, dict[str, Any]] = {}
    found = {}
    for task, heads in network_heads(read(model)).items():
        for head in heads:
            x = samples.by_head[head].x
            if id(x) not in results:
                results[id(x)] = predicted(model, x, batch_size=128)
            found[head] = np.asarray(answers_by_head(results[id(x)], task)[head])
    return found


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How a model does on validation data, by task, or by head of tasks that have several.

    Args:
        accuracy: On all samples, 0..1 (R^2 for real-valued labels), or the task's own metric.
        lost: What of it was lost against the original, in the metric's unit.
        halves: The same on every other sample, and on the rest.
        error: Standard error of the loss on a half, from the paired differences.
        least: The least units that losses are measured in; half a point where not given.
    """

    accuracy: Mapping[str, float]
    lost: Mapping[str, float]
    halves: Mapping[str, tuple[float, float]]
    error: Mapping[str, float]
    least: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def ratio(self, tolerances: Mapping[str, float]) -> float:
        """The largest loss in units of its tolerance."""
        return max(used(self.lost, loss_units(tolerances, self.least)).values())

    def within(self, tolerances: Mapping[str, float]) -> bool:
        """Whether every task is within its tolerance, and on each half within a standard error.

        A network that only a lucky half speaks for is not chosen.
        """
        return all(
            self.lost[task] <= tolerances[task] + 1e-9
            and max(self.halves[task]) <= tolerances[task] + self.error[task] + 1e-9
            for task in self.lost
        )


def loss_units(
    tolerances: Mapping[str, float], least: Mapping[str, float] = MappingProxyType({})
) -> dict[str, float]:
    """What each task's losses are measured in: its tolerance, or what is worth measuring at all."""
    return {task: max(value, least.get(task, _LEAST_UNIT)) for task, value in tolerances.items()}


def used(lost: Mapping[str, float], units: Mapping[str, float]) -> dict[str, float]:
    """Each task's loss in units of its tolerance."""
    return {task: loss / units[task] for task, loss in lost.items()}


def _mean(marks: Sequence[Scores | Values]) -> Scores | Values:
    """The marks of several views of the same samples."""
    return type(marks[0]).mean(marks)


class Examination:
    """The validation samples and what counts as right on them.

    Where a task has no labels, the original model's outputs are: accuracy is then agreement.
    Several views of the samples make it less noisy: a sample's score is the mean of its views'.

    Args:
        originals: The models to be compressed, by task.
        views: Validation samples, and other views of the same.
        metrics: Metrics of tasks, from `find_metrics`; the others have the accuracy or R^2.
        seed: Seed of what standard errors of metrics are found by.
    """

    def __init__(
        self,
        originals: Mapping[str, keras.Model],
        views: Sequence[Samples],
        metrics: Mapping[str, Metric | str] = MappingProxyType({}),
        seed: int = 0,
    ):
        self._views = tuple(views)
        self._metrics: dict[str, list[TaskMetric]] = {}
        self._marks: dict[str, Scores | Values] = {}
        self.least: dict[str, float] = {}
        kinds = {task: output_kinds(model, [task]) for task, model in originals.items()}
        self._marked = marks_of({task: tuple(own) for task, own in kinds.items()}, metrics)
        for task, model in originals.items():
            answers = [self._answers(task, model, view) for view in self._views]
            for mark, heads in self._marked[task].items():
                outputs = [of_mark(task, heads, found) for found in answers]
                kind = kinds[task][heads[0]]
                self._metrics[mark] = self._set(task, mark, kind, outputs, metrics.get(mark), seed)
                self._marks[mark] = _mean(self._marks_of_views(mark, outputs))
                self._warn_of_useless(mark, outputs[0])
                self._warn_of_unknown_views(mark, outputs)

    def _answers(self, task: str, model: keras.Model, view: Samples) -> dict[str, np.ndarray]:
        """What an original answers, by head."""
        first = next(iter(self._marked[task].values()))[0]
        outputs = predicted(model, view.by_head[first].x, batch_size=128)
        found = answers_by_head(outputs, task)
        return {head: np.asarray(values) for head, values in found.items()}

    def _set(
        self,
        task: str,
        mark: str,
        kind: str,
        outputs: Sequence[Any],
        metric: Metric | str | None,
        seed: int,
    ) -> list[TaskMetric]:
        """A metric on every view."""
        found: list[TaskMetric] = []
        heads = self._marked[task][mark]
        for view, own in zip(self._views, outputs, strict=True):
            # The direction that the first view has shown.
            metric = found[0].metric if found else metric
            labels = of_mark(task, heads, {head: view.by_head[head].y for head in heads})
            found.append(metric_of(mark, metric, kind, labels, own, seed))
        return found

    def marks(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """What of some tasks is measured by itself: the tasks, or heads of those with several."""
        return tuple(mark for task in tasks for mark in self._marked[task])

    def metric(self, mark: str) -> Metric | None:
        """The metric of a task, or a head, of its own; None for the accuracy or R^2."""
        return self._metrics[mark][0].metric

    @property
    def titles(self) -> dict[str, str]:
        """Name and unit of the metrics of the tasks that have one of their own."""
        found = {task: self.metric(task) for task in self._metrics}
        return {task: metric.title for task, metric in found.items() if metric is not None}

    def _warn_of_useless(self, task: str, outputs: np.ndarray) -> None:
        """A network that knows nothing of its task would make every tolerance meaningless."""
        own, value = self._metrics[task][0], self._marks[task].value
        if own.metric is not None:
            least = float(np.mean(own.shuffled(outputs)))
            gain = own.metric.sign * (value - least)
            # Half a percent of what knowing the samples is worth.
            self.least[task] = max(_LEAST_UNIT * abs(gain), 1e-9)
            what = own.metric.name
            told = f"and {least:.4f} with its answers shuffled among the samples"
        else:
            least = own.constant()
            gain = value - least
            what, told = "accuracy", f"a constant answer reaches {least:.4f}"
        varied = count(outputs) < 2 or any(
            bool(np.ptp(array, axis=0).max() > 1e-6) for array in arrays_of(outputs)
        )
        if varied and (own.labels is outputs or gain > 0):
            return
        warnings.warn(
            f"The model of {task!r} has not learnt its task: its validation {what} is "
            f"{value:.4f}, {told}"
            f"{'' if varied else ', and its outputs do not depend on the inputs'}. Train it "
            "longer, or check that the data and the labels are those that it was trained on.",
            stacklevel=4,
        )

    def _warn_of_unknown_views(self, task: str, outputs: Sequence[np.ndarray]) -> None:
        """Where the original is bad on other views, being no worse than it means little."""
        plain, *others = self._marks_of_views(task, outputs)
        if not others:
            return
        metric = self.metric(task)
        found = plain.lost_by(_mean(others), 1.0 if metric is None else metric.sign)
        least = _UNKNOWN_VIEWS / _LEAST_UNIT * self.least.get(task, _LEAST_UNIT)
        # Of all samples, and not of a half.
        if found.lost <= max(least, 2.0 * found.error / math.sqrt(2.0)):
            return
        on_others = _mean(others).value
        warnings.warn(
            f"The model of {task!r} does not know what `augment` makes: its validation "
            f"{'accuracy' if metric is None else metric.name} is {plain.value:.4f} on the samples "
            f"as they are and {on_others:.4f} on other views of them, against which networks are "
            "compared. Train it with the same augmentation, or pass an `augment` that it was "
            "trained with.",
            stacklevel=4,
        )

    def _marks_of_views(self, task: str, outputs: Sequence[np.ndarray]) -> list[Scores | Values]:
        return [
            metric.marks(found) for found, metric in zip(outputs, self._metrics[task], strict=True)
        ]

    @property
    def originals(self) -> dict[str, float]:
        """The originals' accuracies, or their own metrics."""
        return {mark: marks.value for mark, marks in self._marks.items()}

    def judge(self, model: keras.Model) -> Judgement:
        """Judges a model of some or all of the tasks."""
        accuracy, lost, halves, error = {}, {}, {}, {}
        found = [predict(model, view) for view in self._views]
        measured = [
            (task, mark, heads)
            for task, by_mark in self._marked.items()
            for mark, heads in by_mark.items()
            if heads[0] in found[0]
        ]
        for task, mark, heads in measured:
            outputs = [of_mark(task, heads, by_head) for by_head in found]
            marks = _mean(self._marks_of_views(mark, outputs))
            metric = self.metric(mark)
            loss = self._marks[mark].lost_by(marks, 1.0 if metric is None else metric.sign)
            accuracy[mark], lost[mark] = marks.value, loss.lost
            halves[mark], error[mark] = loss.halves, loss.error
        return Judgement(accuracy, lost, halves, error, dict(self.least))

    def told(self, judged: Judgement, tasks: Sequence[str]) -> str:
        """Accuracies and what was lost, in words."""
        return ", ".join(self._told(judged, mark) for mark in self.marks(tasks))

    def _told(self, judged: Judgement, task: str) -> str:
        error = judged.error[task] / math.sqrt(2.0)
        metric = self.metric(task)
        if metric is None:
            return (
                f"{task} {100 * judged.accuracy[task]:.2f} "
                f"({-100 * judged.lost[task]:+.2f} +- {100 * error:.2f})"
            )
        gained = -metric.sign * judged.lost[task]
        return f"{task} {metric.told(judged.accuracy[task])} ({gained:+.3g} +- {error:.2g})"
