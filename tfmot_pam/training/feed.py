"""Turns the user's data into the `(x, targets, weights)` batches that `fit` reads."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.data import (
    Batches,
    Samples,
    TaskSamples,
    as_form,
    open_batches,
    read_arrays,
)
from tfmot_pam.training.objective import Objective
from tfmot_pam.training.usage import StepTasks


class Feed:
    """Batches for `fit`: inputs, targets by task, and sample weights by task.

    Args:
        objectives: What each task is trained towards, in task order.
        sample: Some samples of the data, which give its types.
        input_shape: Shape of one input without the batch dimension, None where it varies.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        sample: Samples,
        input_shape: tuple[int | None, ...],
    ):
        self._objectives = objectives
        self._input_shape = input_shape
        self._x_dtype = np.result_type(*(own.x.dtype for own in sample.by_task.values()))
        self._widths = {
            task: objective.targets(_head(sample.by_task[task])).shape[-1]
            for task, objective in objectives.items()
        }
        self._error: Exception | None = None

    def prepare(self, data: Any, batch_size: int) -> Any:
        """Computes the targets of arrays, in place of labels; streams stay as they are.

        Args:
            data: The user's data.
            batch_size: Batch size of the teachers.
        """
        samples = read_arrays(data, tuple(self._objectives), self._input_shape)
        return data if samples is None else self._targets(samples, batch_size)

    def open(
        self,
        views: Sequence[Any],
        batch_size: int,
        steps: StepTasks | None = None,
        seed: int | None = None,
        first_epoch: int = 0,
    ) -> tuple[Any, Batches]:
        """Returns a `tf.data.Dataset` that gives one epoch per iteration, and what it reads from.

        Args:
            views: Data from `prepare`; epochs take their turns with them.
            batch_size: Rows per step taken from each array data set.
            steps: Which tasks each step serves; None serves all.
            seed: Seed of the shuffling; None keeps the order.
            first_epoch: The number of the first epoch, for the shuffling and the views.
        """
        import tensorflow as tf

        tasks = tuple(self._objectives)
        ready = isinstance(views[0], Samples)
        opened = [
            open_batches(
                as_form(data) if ready else data,
                tasks,
                self._input_shape,
                batch_size=batch_size,
                seed=seed,
            )
            for data in views
        ]
        epochs = itertools.count(first_epoch)

        def generate() -> Iterator[tuple]:
            epoch = next(epochs)
            return self._epoch(opened[epoch % len(opened)], ready, steps, epoch)

        dataset = tf.data.Dataset.from_generator(generate, output_signature=self._signature(tf))
        batches = opened[first_epoch % len(opened)]
        if batches.steps is not None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches.steps))
        return dataset.prefetch(1), batches

    @contextlib.contextmanager
    def original_errors(self) -> Iterator[None]:
        """Raises an error in the data as itself, not as the framework's wrapping of it."""
        try:
            yield
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise

    def blank_step(self) -> dict[str, dict[str, np.ndarray]]:
        """A step of one row of zeros: targets, outputs and weights as `compute_loss` takes them."""
        step: dict[str, dict[str, np.ndarray]] = {"y": {}, "y_pred": {}, "sample_weight": {}}
        for task, objective in self._objectives.items():
            *sizes, width = (size or 1 for size in objective.output_shape)
            step["y"][task] = np.zeros((1, *sizes, self._widths[task]), "float32")
            step["y_pred"][task] = np.zeros((1, *sizes, width), "float32")
            step["sample_weight"][task] = np.zeros(1, "float32")
        return step

    def _epoch(
        self, batches: Batches, ready: bool, steps: StepTasks | None, epoch: int
    ) -> Iterator[tuple]:
        everything = dict.fromkeys(self._objectives, 1.0)
        try:
            for step, batch in enumerate(batches.epoch(epoch)):
                weights = everything if steps is None else steps.weights(epoch, step)
                yield self._assemble(batch if ready else self._targets(batch), weights)
        except Exception as error:
            self._error = error
            raise

    def _targets(self, samples: Samples, batch_size: int | None = None) -> Samples:
        by_task = {
            task: TaskSamples(own.x, self._objectives[task].targets(own, batch_size), own.weight)
            for task, own in samples.by_task.items()
        }
        return Samples(by_task, samples.shared)

    def _assemble(self, batch: Samples, weights: Mapping[str, float]) -> tuple:
        parts = batch.by_task
        if batch.shared:
            x = next(iter(parts.values())).x
            targets = {task: own.y for task, own in parts.items()}
            sample_weights = {task: _weights(own, weights[task]) for task, own in parts.items()}
        else:
            x = np.concatenate([own.x for own in parts.values()])
            targets, sample_weights = _spread(parts, weights, len(x))
        return x.astype(self._x_dtype, copy=False), targets, sample_weights

    def _signature(self, tf: Any) -> tuple:
        targets = {
            task: tf.TensorSpec((None, *objective.output_shape[:-1], self._widths[task]))
            for task, objective in self._objectives.items()
        }
        return (
            tf.TensorSpec((None, *self._input_shape), self._x_dtype),
            targets,
            {task: tf.TensorSpec((None,)) for task in self._objectives},
        )


def _head(samples: TaskSamples) -> TaskSamples:
    return TaskSamples(samples.x[:1], None if samples.y is None else samples.y[:1])


def _weights(samples: TaskSamples, factor: float) -> np.ndarray:
    """A task's factor times the weights of its samples."""
    weights = np.full(len(samples.x), factor, "float32")
    return weights if samples.weight is None else weights * samples.weight


def _spread(
    parts: Mapping[str, TaskSamples], weights: Mapping[str, float], length: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Places each task's targets at its own rows of a joined batch; other rows weigh 0."""
    targets, sample_weights = {}, {}
    start = 0
    for task, own in parts.items():
        rows = slice(start, start + len(own.x))
        start = rows.stop
        targets[task] = np.zeros((length, *own.y.shape[1:]), "float32")
        targets[task][rows] = own.y
        sample_weights[task] = np.zeros(length, "float32")
        # Keras divides by all rows; the factor makes that the mean over the task's own.
        sample_weights[task][rows] = _weights(own, weights[task] * length / len(own.x))
    return targets, sample_weights
