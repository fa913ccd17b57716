"""Accuracies for a report, measured on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import read_all
from tfmot_pam.graph.generation import as_keras
from tfmot_pam.metrics.metric import Metric
from tfmot_pam.metrics.task_metric import task_metric
from tfmot_pam.pipeline.accuracy import predict
from tfmot_pam.training.heads import output_kind


def measured(
    model: keras.Model,
    originals: Mapping[str, keras.Model],
    data: Any,
    metrics: Mapping[str, Metric | str],
    tasks: Sequence[str],
) -> tuple[dict[str, float], dict[str, float]]:
    """How well a model, and its originals, do every task.

    Args:
        model: A model of all tasks.
        originals: The models that it was made of, by task, or none.
        data: Data in any form that `compress` takes.
        metrics: Metrics of tasks, from `find_metrics`; the others have the accuracy or R^2.
        tasks: The tasks.

    Returns:
        The model's accuracies by task, and the originals'. R^2 is at least 0.

    Raises:
        ValueError: a task has neither labels nor an original.
    """
    model = as_keras(model)
    samples = read_all(data, tasks, tuple(model.inputs[0].shape[1:]))
    found = predict(model, samples)
    accuracy, original_accuracy = {}, {}
    for task in tasks:
        own, outputs = samples.by_task[task], found[task]
        if own.y is None and task not in originals:
            raise ValueError(
                f"`data` has no labels for the task {task!r}, and there is no original to agree "
                "with. Expected one of both. Pass labels, or the models as originals=."
            )
        reference = outputs
        if task in originals:
            (reference,) = keras.tree.flatten(
                as_keras(originals[task]).predict(own.x, batch_size=128, verbose=0)
            )
        kind = output_kind(model, task if isinstance(model.output, Mapping) else None)
        metric = task_metric(task, metrics.get(task), kind, own.y, np.asarray(reference), 0)
        accuracy[task] = _shown(metric.marks(outputs).value, metric.metric)
        if task in originals:
            original_accuracy[task] = _shown(
                metric.marks(np.asarray(reference)).value, metric.metric
            )
    return accuracy, original_accuracy


def _shown(value: float, metric: Metric | None) -> float:
    return value if metric is not None else min(max(value, 0.0), 1.0)
