"""Accuracies for a report, measured on data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import HeadSamples, read_all
from tfmot_pam.graph.calling import answers_by_head, predicted
from tfmot_pam.graph.generation import as_keras
from tfmot_pam.graph.heads import input_shapes
from tfmot_pam.graph.reader import read
from tfmot_pam.metrics.examination import predict
from tfmot_pam.metrics.metric import Metric, marks_of
from tfmot_pam.metrics.task_metric import metric_of, of_mark
from tfmot_pam.training.heads import output_kinds


def measured(
    model: keras.Model,
    originals: Mapping[str, keras.Model],
    data: Any,
    metrics: Mapping[str, Metric | str],
    heads: Mapping[str, Sequence[str]],
) -> tuple[dict[str, float], dict[str, float]]:
    """How well a model, and its originals, do every task.

    Args:
        model: A model of all tasks.
        originals: The models that it was made of, by task, or none.
        data: Data in any form that `compress` takes.
        metrics: Metrics of tasks, from `find_metrics`; the others have the accuracy or R^2.
        heads: The heads of each task.

    Returns:
        The model's accuracies by task, or by head where it has several and no metric of its own,
        and the originals'. R^2 is at least 0.

    Raises:
        ValueError: a task has neither labels nor an original.
    """
    model = as_keras(model)
    samples = read_all(data, heads, input_shapes(read(model)))
    found = predict(model, samples)
    kinds = output_kinds(model, tuple(heads))
    accuracy, original_accuracy = {}, {}
    for task, marks in marks_of(heads, metrics).items():
        given = {head: samples.by_head[head] for own in marks.values() for head in own}
        _check_known(task, given, originals)
        reference = found
        if task in originals:
            original = as_keras(originals[task])
            x = next(iter(given.values())).x
            reference = answers_by_head(predicted(original, x, batch_size=128), task)
        reference = {head: np.asarray(reference[head]) for head in given}
        for mark, own in marks.items():
            outputs, wanted = (of_mark(task, own, values) for values in (found, reference))
            labels = of_mark(task, own, {head: given[head].y for head in own})
            metric = metric_of(mark, metrics.get(mark), kinds[own[0]], labels, wanted, 0)
            accuracy[mark] = _shown(metric.marks(outputs).value, metric.metric)
            if task in originals:
                original_accuracy[mark] = _shown(metric.marks(wanted).value, metric.metric)
    return accuracy, original_accuracy


def _check_known(task: str, given: Mapping[str, HeadSamples], originals: Collection[str]) -> None:
    unlabelled = [head for head, own in given.items() if own.y is None]
    if unlabelled and task not in originals:
        raise ValueError(
            f"`data` has no labels for the task {unlabelled[0]!r}, and there is no original to "
            "agree with. Expected one of both. Pass labels, or the models as originals=."
        )


def _shown(value: float, metric: Metric | None) -> float:
    return value if metric is not None else min(max(value, 0.0), 1.0)
