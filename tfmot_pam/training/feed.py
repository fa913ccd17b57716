"""Turns the user's data into the `(x, targets, weights)` batches that `fit` reads."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfmot_pam import backends
from tfmot_pam.backends import Spec
from tfmot_pam.data import (
    Batches,
    HeadSamples,
    Samples,
    as_form,
    open_batches,
    read_arrays,
)
from tfmot_pam.distribution.devices import Devices, Share
from tfmot_pam.distribution.fitting import dataset_of
from tfmot_pam.graph.calling import for_model
from tfmot_pam.graph.heads import Heads, Inputs, InputShapes
from tfmot_pam.graph.inputs import arrays_of, as_types, count, rows
from tfmot_pam.training.objective import Objective
from tfmot_pam.training.usage import StepTasks


class Feed:
    """Batches for `fit`: inputs, targets by head, and sample weights by head.

    Args:
        objectives: What each head is trained towards, in the order of the tasks.
        sample: Some samples of the data, which give its types.
        input_shape: Shape of one input without the batch dimension, None where it varies; of
            several a dict by name.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        sample: Samples,
        input_shape: InputShapes,
    ):
        self._objectives = objectives
        self._input_shape = input_shape
        self._types = _input_types([own.x for own in sample.by_head.values()])
        self._widths = {
            head: objective.targets(own.rows(slice(0, 1))).shape[-1]
            for (head, objective), own in zip(
                objectives.items(), sample.by_head.values(), strict=True
            )
        }
        self._error: Exception | None = None

    def prepare(self, data: Any, batch_size: int, tasks: Heads | None = None) -> Any:
        """Computes the targets of arrays, in place of labels; streams stay as they are.

        Args:
            data: The user's data.
            batch_size: Batch size of the teachers.
            tasks: The heads of each task in the data; None where it is by head.
        """
        tasks = tuple(self._objectives) if tasks is None else tasks
        samples = read_arrays(data, tasks, self._input_shape)
        return _Stream(data, tasks) if samples is None else self._targets(samples, batch_size)

    def open(
        self,
        views: Sequence[Any],
        batch_size: int,
        steps: StepTasks | None = None,
        seed: int | None = None,
        first_epoch: int = 0,
        *,
        devices: Devices | None = None,
        reader: Any = None,
    ) -> tuple[Any, Batches]:
        """Returns a data set for `fit` that gives one epoch per iteration, and what it reads from.

        Args:
            views: Data from `prepare`; epochs take their turns with them.
            batch_size: Rows per step taken from each array data set.
            steps: Which tasks each step serves; None serves all.
            seed: Seed of the shuffling; None keeps the order.
            first_epoch: The number of the first epoch, for the shuffling and the views.
            devices: What trains on it: each replica gets its rows of every batch; None is
                one device.
            reader: The model that reads it, if inputs are to be in the form that it takes.
        """
        ready = isinstance(views[0], Samples)
        opened = [
            open_batches(
                as_form(view) if ready else view.data,
                tuple(self._objectives) if ready else view.tasks,
                self._input_shape,
                batch_size=batch_size,
                seed=seed,
            )
            for view in views
        ]
        epochs = itertools.count(first_epoch)

        def taken(x: Any) -> Any:
            return x if reader is None else for_model(reader, x)

        batches = opened[first_epoch % len(opened)]
        x, *others = self._specs()
        spec = (taken(x), *others)

        def make(share: Share) -> Any:
            def generate() -> Iterator[tuple]:
                epoch = next(epochs)
                found = self._epoch(opened[epoch % len(opened)], ready, steps, epoch, share)
                return ((taken(x), *others) for x, *others in found)

            # Of several replicas Keras would take the number of all their parts of batches.
            known = batches.steps if share.replicas == 1 else None
            return backends.current().dataset(generate, known, batches.counted_steps, spec)

        return dataset_of(make, devices or Devices()), batches

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
        for head, objective in self._objectives.items():
            *sizes, width = (size or 1 for size in objective.output_shape)
            step["y"][head] = np.zeros((1, *sizes, self._widths[head]), "float32")
            step["y_pred"][head] = np.zeros((1, *sizes, width), "float32")
            step["sample_weight"][head] = np.zeros(1, "float32")
        return step

    def _epoch(
        self,
        batches: Batches,
        ready: bool,
        steps: StepTasks | None,
        epoch: int,
        share: Share,
    ) -> Iterator[tuple]:
        everything = dict.fromkeys(self._objectives, 1.0)
        try:
            for step, batch in enumerate(batches.epoch(epoch)):
                weights = everything if steps is None else steps.weights(epoch, step)
                if share.replicas == 1:
                    yield self._assemble(batch if ready else self._targets(batch), weights)
                else:
                    yield from self._parts(batch, ready, weights, share)
        except Exception as error:
            self._error = error
            raise

    def _parts(
        self, batch: Samples, ready: bool, weights: Mapping[str, float], share: Share
    ) -> Iterator[tuple]:
        """The rows of a batch that each replica of this worker takes."""
        length = count(batch.inputs)
        chosen, factors = share.rows(length), share.weights(length)
        if batch.shared and not ready:
            # Teachers answer for the worker's own rows alone.
            own = np.concatenate(chosen)
            x = rows(batch.inputs, own)
            by_head = {head: found.rows(own, x) for head, found in batch.by_head.items()}
            batch = Samples(by_head, True)
            chosen = np.split(np.arange(len(own)), share.count)
        x, targets, sample_weights = self._assemble(
            batch if ready else self._targets(batch), weights
        )
        for taken, factor in zip(chosen, factors, strict=True):
            yield (
                rows(x, taken),
                {head: values[taken] for head, values in targets.items()},
                {head: values[taken] * factor for head, values in sample_weights.items()},
            )

    def _targets(self, samples: Samples, batch_size: int | None = None) -> Samples:
        by_head: dict[str, HeadSamples] = {}
        # A teacher of several heads runs once.
        answers: dict[tuple[int, int], Mapping[str, Any]] = {}
        for head, own in samples.by_head.items():
            objective = self._objectives[head]
            asked = id(objective.teacher), id(own.x)
            teacher = objective.teacher if objective.loss.teacher_weight else None
            if teacher is not None and asked not in answers:
                answers[asked] = teacher.answers(own.x, batch_size)
            targets = objective.targets(own, answers.get(asked))
            by_head[head] = HeadSamples(own.x, targets, own.weight)
        return Samples(by_head, samples.shared)

    def _assemble(self, batch: Samples, weights: Mapping[str, float]) -> tuple:
        x = batch.inputs
        if batch.shared:
            targets = {head: np.asarray(own.y) for head, own in batch.by_head.items()}
            sample_weights = {h: _weights(own, weights[h]) for h, own in batch.by_head.items()}
        else:
            targets, sample_weights = _spread(batch, weights, count(x))
        return as_types(x, self._types), targets, sample_weights

    def _specs(self) -> tuple:
        targets = {
            head: Spec((None, *objective.output_shape[:-1], self._widths[head]))
            for head, objective in self._objectives.items()
        }
        inputs: Any
        if isinstance(self._input_shape, Mapping):
            inputs = {
                name: Spec((None, *shape), self._types[name])
                for name, shape in self._input_shape.items()
            }
        else:
            inputs = Spec((None, *self._input_shape), next(iter(self._types.values())))
        return inputs, targets, {head: Spec((None,)) for head in self._objectives}


@dataclass(frozen=True)
class _Stream:
    """Data that is not read before it is trained on, and the heads of each task in it."""

    data: Any
    tasks: Heads


def _input_types(inputs: Sequence[Inputs]) -> dict[str, Any]:
    """The type of every input, by name, that holds those of all data sets."""
    if isinstance(inputs[0], Mapping):
        return {name: np.result_type(*(x[name].dtype for x in inputs)) for name in inputs[0]}
    return {"x": np.result_type(*(array.dtype for x in inputs for array in arrays_of(x)))}


def _weights(samples: HeadSamples, factor: float) -> np.ndarray:
    """A head's factor times the weights of its samples."""
    weights = np.full(len(samples), factor, "float32")
    return weights if samples.weight is None else weights * samples.weight


def _spread(
    batch: Samples, weights: Mapping[str, float], length: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Places each head's targets at its own rows of a joined batch; other rows weigh 0."""
    targets, sample_weights = {}, {}
    start = 0
    for part in batch.apart:
        stop = start + len(next(iter(part.by_head.values())))
        for head, own in part.by_head.items():
            y = np.asarray(own.y)
            targets[head] = np.zeros((length, *y.shape[1:]), "float32")
            targets[head][start:stop] = y
            sample_weights[head] = np.zeros(length, "float32")
            # Keras divides by all rows; the factor makes that the mean over the head's own.
            sample_weights[head][start:stop] = _weights(own, weights[head] * length / len(own))
        start = stop
    return targets, sample_weights
