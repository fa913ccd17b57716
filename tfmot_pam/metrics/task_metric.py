"""One task's metric on one set of labelled samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.data import counted
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.inputs import count, rows
from tfmot_pam.metrics.accuracy import accuracy_scores, constant_accuracy
from tfmot_pam.metrics.keras_metric import KerasMetric
from tfmot_pam.metrics.marks import Scores, Values
from tfmot_pam.metrics.metric import ACCURACIES, DIRECTIONS, Metric
from tfmot_pam.training.objective import label_kind

# What a model's own outputs are as labels, by what the outputs are.
_AS_LABELS = {"softmax": "distribution", "sigmoid": "binary", "linear": "real"}
_SHUFFLES = 5

# An array, or of several heads a dict of them by what each is called: the metric takes that form.
Arrays = np.ndarray | Any


@dataclasses.dataclass(frozen=True, eq=False)
class TaskMetric:
    """What one task's outputs are compared with, and how.

    Args:
        task: The task.
        metric: A metric, or None for the accuracy or R^2.
        kind: What the labels are, as `label_kind` says.
        labels: Labels, or a network's own outputs; of several heads a dict by what each is called.
        counts: Which labels count; None for all.
        seed: Seed of the jackknife's blocks.
    """

    task: str
    metric: Metric | None
    kind: str
    labels: Arrays
    counts: np.ndarray | None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.counts is not None and not self.counts.any():
            raise ValueError(
                f"No label of the task {self.task!r} counts: all {self.counts.size} are to be "
                "ignored. Expected some that are known. Pass None as its labels, which measures "
                "agreement with the original."
            )

    def marks(self, outputs: Arrays) -> Scores | Values:
        """What the metric says of outputs for all samples."""
        metric = self.metric
        if metric is None:
            return accuracy_scores(self.kind, outputs, self.labels, self.counts)
        where: np.ndarray = np.arange(count(outputs))
        if self.counts is not None:
            where = where[self.counts.reshape(len(where), -1).any(axis=1)]
        found = self._evaluate(metric, outputs, where)
        whole = self.counts is None or bool(self.counts[where].all())
        if found.shape == (len(where),) and whole and found.ndim == 1:
            return Scores(found)

        def part(chosen: np.ndarray) -> float:
            return float(self._evaluate(metric, outputs, where[chosen]).mean())

        return Values.of(part, len(where), float(found.mean()), self.seed)

    def shuffled(self, outputs: Arrays) -> list[float]:
        """The metric of each sample's labels and another sample's outputs, several times."""
        marks = []
        for number in range(_SHUFFLES):
            order = np.random.default_rng([self.seed, number]).permutation(count(outputs))
            other = rows(outputs, order)
            if self.metric is None:
                marks.append(self.marks(other).value)
            else:
                found = self._evaluate(self.metric, other, np.arange(len(order)))
                marks.append(float(found.mean()))
        return marks

    def constant(self) -> float:
        """The accuracy of the best constant answer."""
        return constant_accuracy(self.kind, self.labels, self.counts)

    def _evaluate(self, metric: Metric, outputs: Arrays, where: np.ndarray) -> np.ndarray:
        """The metric on some rows: one number, or one a row; finite."""
        labels, outputs = rows(self.labels, where), rows(outputs, where)
        function = metric.function
        if isinstance(outputs, Mapping):
            return self._checked(metric.name, function(labels, outputs), len(where), len(where))
        if self.counts is not None and not self.counts[where].all():
            labels, outputs = self._counted(labels, outputs, self.counts[where])
        if isinstance(function, KerasMetric):
            labels, outputs = function.forms(self.kind, labels, outputs)
        elif labels.size == outputs.size:
            labels = labels.reshape(outputs.shape)
        return self._checked(metric.name, function(labels, outputs), len(outputs), len(where))

    def _counted(
        self, labels: np.ndarray, outputs: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The entries that count, one after the other."""
        if self.kind in ("classes", "distribution"):
            flat = counts.reshape(outputs.shape[:-1])
            if self.kind == "classes":
                return labels.reshape(flat.shape)[flat], outputs[flat]
            return labels[flat], outputs[flat]
        flat = counts.reshape(outputs.shape)
        rows = flat.reshape(len(flat), -1)
        if (rows.all(axis=1) == rows.any(axis=1)).all():
            kept = rows.all(axis=1)
            return labels[kept], outputs[kept]
        return labels.reshape(outputs.shape)[flat][:, None], outputs[flat][:, None]

    def _checked(self, metric: str, found: Any, entries: int, rows: int) -> np.ndarray:
        values = np.asarray(found)
        sizes = ((), (1,), (entries,))
        if values.dtype.kind not in "biuf" or values.shape not in sizes:
            raise ValueError(
                f"The metric {metric!r} of the task {self.task!r} gives "
                f"{type(found).__name__} of shape {values.shape}. Expected one number, or one for "
                "each of the samples. Return their mean, or ask a Keras metric for it with "
                "average='macro'."
            )
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(
                f"The metric {metric!r} of the task {self.task!r} is not finite on "
                f"{rows} samples. Expected a number on all validation samples, on halves of them, "
                "and without a twentieth. Give it more samples, or have it return a number where "
                "there is nothing to divide by."
            )
        return values.reshape(()) if values.shape == (1,) and rows > 1 else values


def task_metric(
    task: str,
    metric: Metric | str | None,
    output_kind: str,
    y: np.ndarray | None,
    outputs: np.ndarray,
    seed: int,
) -> TaskMetric:
    """The metric of a task on some samples, with its direction.

    Args:
        task: The task.
        metric: A metric; a name in `ACCURACIES` or None for the accuracy or R^2.
        output_kind: What `output_kind` says of the outputs.
        y: The labels; None for what the original says, so that accuracy is agreement.
        outputs: The original's outputs, by which the direction is found too where it is not told.
        seed: Seed of shuffling and blocks.

    Raises:
        ValueError: no label counts; an accuracy is asked of real values, or R^2 of classes; which
            direction is better cannot be found out.
    """
    if y is None:
        kind, labels, counts = _AS_LABELS[output_kind], outputs, None
    else:
        kind = label_kind(y, output_kind, tuple(outputs.shape[1:]), task)
        labels = np.asarray(y)
        counts = counted(labels, kind, outputs.shape[-1])
    if isinstance(metric, str):
        if kind not in ACCURACIES[metric]:
            raise ValueError(
                f"The metric of the task {task!r} is {metric!r}, but its labels are {kind}. "
                f"Expected {'r2' if kind == 'real' else 'accuracy'!r}, or a metric of your own."
            )
        metric = None
    return _with_direction(TaskMetric(task, metric, kind, labels, counts, seed), outputs)


def of_mark(task: str, heads: Sequence[str], by_head: Mapping[str, Any]) -> Any:
    """What there is for one head, or for several by what each is called in its task."""
    if len(heads) == 1:
        return by_head[heads[0]]
    return {head[len(task) + 1 :]: by_head[head] for head in heads}


def metric_of(
    mark: str,
    metric: Metric | str | None,
    kind: str,
    labels: Any,
    outputs: Arrays,
    seed: int,
) -> TaskMetric:
    """The metric of a head, or of all heads of a task together, with its direction.

    Args:
        mark: The head, or the task.
        metric: A metric; of one head also a name in `ACCURACIES`, or None for the accuracy or R^2.
        kind: What `output_kind` says of the head's outputs.
        labels: Its labels, by what each is called of several heads; None: what the original says.
        outputs: The original's outputs, likewise.
        seed: Seed of shuffling and blocks.
    """
    if isinstance(outputs, Mapping) and isinstance(metric, Metric):
        return joint_metric(mark, metric, labels, outputs, seed)
    return task_metric(mark, metric, kind, labels, outputs, seed)


def joint_metric(
    task: str,
    metric: Metric,
    labels: Mapping[str, np.ndarray | None],
    outputs: Mapping[str, np.ndarray],
    seed: int,
) -> TaskMetric:
    """One metric of all heads of a task on some samples, with its direction.

    Args:
        task: The task.
        metric: The metric.
        labels: The labels by what each head is called in its task; without them what the original
            says.
        outputs: The original's outputs, likewise.
        seed: Seed of shuffling and blocks.

    Raises:
        ValueError: it is one of Keras, which have no notion of several outputs; which direction is
            better cannot be found out.
    """
    if isinstance(metric.function, KerasMetric):
        raise ValueError(
            f"The metric {metric.name!r} of the task {task!r} takes one output; the task has "
            f"{list(outputs)}. Expected a function of dicts by output. Pass one, or a metric for "
            "each of them."
        )
    known = {name: outputs[name] if y is None else np.asarray(y) for name, y in labels.items()}
    return _with_direction(TaskMetric(task, metric, "joint", known, None, seed), outputs)


def _with_direction(found: TaskMetric, outputs: Inputs) -> TaskMetric:
    """The metric with its direction, found out where it is not told."""
    metric, task = found.metric, found.task
    if metric is None or metric.direction is not None:
        return found
    own, others = found.marks(outputs).value, found.shuffled(outputs)
    if not (own > max(others) or own < min(others)):
        raise ValueError(
            f"Whether higher or lower is better of the metric {metric.name!r} of the task "
            f"{task!r} cannot be found out: the original reaches {own:.4g}, and {min(others):.4g} "
            f"to {max(others):.4g} with its answers shuffled among the samples. Pass "
            f"tfmot_pam.Metric({metric.name!r}, ..., direction={DIRECTIONS[0]!r} or "
            f"{DIRECTIONS[1]!r})."
        )
    direction = DIRECTIONS[0] if own > max(others) else DIRECTIONS[1]
    return dataclasses.replace(found, metric=dataclasses.replace(metric, direction=direction))
