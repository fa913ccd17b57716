"""Metrics: how well a model does a task, in the task's own terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tfmot_pam.graph.heads import Heads, all_heads, heads_of, leaves
from tfmot_pam.metrics.keras_metric import KerasMetric, as_keras_metric

DIRECTIONS = ("higher", "lower")
# These stand for what is measured where no metric is named.
ACCURACIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "accuracy": ("classes", "distribution", "binary"),
        "acc": ("classes", "distribution", "binary"),
        "r2": ("real",),
    }
)


@dataclasses.dataclass(frozen=True)
class Metric:
    """How well a model does a task; `compress(metrics=)` and `report(metrics=)` take one.

    Use it for a function of which it should be said whether higher is better, and for a unit.

    Args:
        name: What reports call it.
        function: `function(y_true, y_pred)` returns one number, or one a sample, `[n]`, whose mean
            is the metric; the latter is compared sample by sample, which is less noisy. It gets
            NumPy arrays: the labels as given, in the shape of the outputs where they are as many
            numbers, and the model's outputs. Of a task with several outputs both are dicts, such
            as by `"boxes"` and `"classes"`. Or a Keras metric, or the name of one.
        direction: `"higher"` or `"lower"`: which is better. None finds out: a model does better
            with its own answers than with those that it gave to other samples.
        unit: What the numbers are of, for reports: such as `"years"`.

    Raises:
        TypeError: the function is none.
        ValueError: the direction is unknown.

    Example:
    >>> import numpy as np, tfmot_pam
    >>> def off_by(y_true, y_pred):
    ...     return np.abs(y_true - y_pred).max(axis=-1)
    >>> tfmot_pam.Metric("largest error", off_by, "lower", unit="years").title
    'largest error, years'
    """

    name: str
    function: Callable[[Any, Any], Any] | Any
    direction: str | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(
                f"A metric's `name` must be a text. Received: {self.name!r}. Call it what reports "
                "shall call it."
            )
        if self.direction not in (None, *DIRECTIONS):
            raise ValueError(
                f"The metric {self.name!r} has the direction {self.direction!r}. Expected one of "
                f"{DIRECTIONS}, which says what is better, or None to find out."
            )
        found = as_keras_metric(self.function)
        if found is not None:
            object.__setattr__(self, "function", found)
            if self.direction is None:
                object.__setattr__(self, "direction", found.direction)
        elif not callable(self.function):
            raise TypeError(
                f"The metric {self.name!r} is {self.function!r} of type "
                f"{type(self.function).__name__}. Expected a function f(y_true, y_pred), a Keras "
                "metric, or the name of one."
            )

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def told(self, value: float) -> str:
        """A value in words."""
        return f"{self.name} {value:.4g}{f' {self.unit}' if self.unit else ''}"

    @property
    def sign(self) -> float:
        """What losses are multiplied with, so that they are positive."""
        return -1.0 if self.direction == "lower" else 1.0


def _absolute_error(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    return _per_sample(np.abs(np.asarray(y_true, np.float64) - y_pred))


def _squared_error(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    return _per_sample(np.square(np.asarray(y_true, np.float64) - y_pred))


def _per_sample(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(axis=1)


# Known by name, besides the accuracies and all of Keras.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        alias: Metric(name, function, "lower")
        for name, function, aliases in (
            ("mae", _absolute_error, ("mae", "mean_absolute_error")),
            ("mse", _squared_error, ("mse", "mean_squared_error")),
        )
        for alias in aliases
    }
)


def find_metric(metric: Any, task: str) -> Metric | str:
    """The metric of a task; a name in `ACCURACIES` stays one.

    Raises:
        TypeError: it is nothing that measures.
        ValueError: the name is unknown.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric in ACCURACIES:
            return metric
        if metric in METRICS:
            return METRICS[metric]
        found = as_keras_metric(metric)
        if found is None:
            raise ValueError(
                f"Unknown metric of the task {task!r}: {metric!r}. Expected one of "
                f"{[*ACCURACIES, *METRICS]}, or the name of a Keras metric. Choose among these, or "
                "pass a keras.metrics object, a function or a tfmot_pam.Metric."
            )
        return Metric(metric, found)
    found = as_keras_metric(metric)
    if isinstance(found, KerasMetric):
        return Metric(found.name, found)
    if not callable(metric) or isinstance(metric, type):
        raise TypeError(
            f"The metric of the task {task!r} is {metric!r} of type {type(metric).__name__}. "
            "Expected a keras.metrics object, the name of one, a function f(y_true, y_pred) or a "
            "tfmot_pam.Metric. Pass one of these."
        )
    return Metric(getattr(metric, "__name__", type(metric).__name__), metric)


def find_metrics(metrics: Any, tasks: Heads) -> dict[str, Metric | str]:
    """The metrics of the tasks, or heads, that have one of their own.

    Args:
        metrics: `{task: metric}`. A task with several heads has one for all of them, or a dict of
            one for each.
        tasks: The tasks, or the heads of each.

    Raises:
        TypeError: `metrics` is no dict, or one of them measures nothing.
        ValueError: a task or a name is unknown; a task has an accuracy for several heads, or two.
    """
    found = {
        name: find_metric(metric, name) for name, metric in _checked_mapping(metrics, tasks).items()
    }
    for task, heads in heads_of(tasks).items():
        joint = heads != (task,) and task in found
        if joint and (isinstance(found[task], str) or any(head in found for head in heads)):
            raise ValueError(
                f"The metric of the task {task!r} is for all of its outputs {list(heads)}. "
                "Expected a function of dicts by output, or a metric for each of them and none for "
                f"all. Pass such as {{{task!r}: {{{heads[0][len(task) + 1 :]!r}: 'accuracy'}}}}."
            )
    return found


def marks_of(tasks: Heads, metrics: Mapping[str, Any]) -> dict[str, dict[str, tuple[str, ...]]]:
    """What of each task is measured by itself: its heads, or all of them by one metric.

    Args:
        tasks: The tasks, or the heads of each.
        metrics: What `find_metrics` found.

    Returns:
        By task, the heads of everything that is measured, by its name.
    """
    return {
        task: {task: heads} if task in metrics else {head: (head,) for head in heads}
        for task, heads in heads_of(tasks).items()
    }


def by_mark(values: Mapping[str, Any], tasks: Heads) -> dict[str, Any]:
    """Values by task or head, where those of a task's heads may be in a dict of their own."""
    found: dict[str, Any] = {}
    several = {task for task, heads in heads_of(tasks).items() if heads != (task,)}
    for name, value in values.items():
        if name in several and isinstance(value, (Mapping, list, tuple)):
            found |= leaves(name, value)
        else:
            found[name] = value
    return found


def _checked_mapping(metrics: Any, tasks: Heads) -> Mapping[str, Any]:
    if metrics is None:
        return {}
    names = list(heads_of(tasks))
    if not isinstance(metrics, Mapping):
        raise TypeError(
            "`metrics` must be a dict by task. Received: "
            f"{metrics!r} of type {type(metrics).__name__}. Pass such as "
            f"{{{names[0]!r}: 'mae'}}."
        )
    found = by_mark(metrics, tasks)
    known = dict.fromkeys([*names, *all_heads(tasks)])
    unknown = [name for name in found if name not in known]
    if unknown:
        raise ValueError(
            f"`metrics` is for the unknown tasks {unknown}. The tasks are {list(known)}. Rename or "
            "leave out the others; a task without a metric has its accuracy, or R^2."
        )
    return {name: found[name] for name in known if name in found}


def metric_titles(metrics: Any, tasks: Heads) -> dict[str, str]:
    """What reports call the metrics of tasks, or heads, that have one of their own.

    Args:
        metrics: As `find_metrics` takes them; a text that names none is a title.
        tasks: The tasks, or the heads of each.
    """
    given = _checked_mapping(metrics, tasks)
    found = {
        task: metric if _is_title(metric) else find_metric(metric, task)
        for task, metric in given.items()
    }
    return {
        task: metric.title if isinstance(metric, Metric) else metric
        for task, metric in found.items()
        if isinstance(metric, Metric) or metric not in ACCURACIES
    }


def _is_title(value: Any) -> bool:
    if not isinstance(value, str) or value in METRICS or value in ACCURACIES:
        return False
    return as_keras_metric(value) is None
