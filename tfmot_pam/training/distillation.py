"""Distillation: what students of some tasks are trained towards, made once for many of them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam import backends
from tfmot_pam.data import Batches, Samples
from tfmot_pam.distribution.devices import Devices
from tfmot_pam.distribution.fitting import (
    collected,
    fitted_by_steps,
    set_steps,
    without_told_ends,
)
from tfmot_pam.graph.calling import answers_by_head
from tfmot_pam.graph.cloning import clone
from tfmot_pam.graph.heads import Heads, InputShapes, leaves
from tfmot_pam.training.feed import Feed
from tfmot_pam.training.heads import output_kinds
from tfmot_pam.training.losses import TEMPERATURE
from tfmot_pam.training.objective import Objective, Teacher, set_objective
from tfmot_pam.training.usage import StepTasks

# For each head of each task the shape of one output and what `output_kind` says of it.
HeadOutputs = Mapping[str, Mapping[str, tuple[tuple[int | None, ...], str]]]


class Distillation:
    """The losses of some heads and the feed of their targets, for students with the same outputs.

    Args:
        objectives: What each head is trained towards, in the order of the tasks.
        sample: Some samples of the data, which give its types.
        input_shape: Shape of one input without the batch dimension; of several a dict by name.
        seed: Seed of the students' dropout.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        sample: Samples,
        input_shape: InputShapes,
        seed: int = 0,
    ):
        self.objectives = dict(objectives)
        self.feed = Feed(self.objectives, sample, input_shape)
        self._sample, self._input_shape, self._seed = sample, input_shape, seed

    def only(self, heads: Sequence[str]) -> Distillation:
        """The distillation of some of the heads."""
        return Distillation(
            {head: self.objectives[head] for head in heads},
            self._sample.only(heads),
            self._input_shape,
            self._seed,
        )

    def train(
        self,
        student: keras.Model,
        views: Sequence[Any],
        epochs: int,
        *,
        batch_size: int,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        steps: StepTasks,
        optimizer: str | keras.optimizers.Optimizer | None = None,
        dropout: float = 1.0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        validation_data: Any = None,
        tasks: Heads | None = None,
        seed: int = 0,
        first_epoch: int = 0,
        verbose: str | int = 0,
        devices: Devices | None = None,
    ) -> keras.Model:
        """Trains a copy of a student and returns it, not compiled.

        Args:
            student: A functional model with a dict of outputs by task, or with one output.
            views: Data from `feed.prepare`; epochs take their turns with them.
            epochs: Passes over one view.
            batch_size: Samples per step from each array data set.
            learning_rate: Starting rate, falling to 0 along a cosine; or a Keras schedule.
            steps: Which tasks each step serves.
            optimizer: As in `fine_tune`.
            dropout: Factor of the rates of dropout layers, while it trains.
            callbacks: Keras callbacks.
            validation_data: The user's data for the validation losses.
            tasks: The heads of each task in it; None where it is by head.
            seed: Seed of the shuffling.
            first_epoch: The number of the first epoch, where training goes on.
            verbose: As in `keras.Model.fit`; of several workers the chief tells.
            devices: What it trains on; None is one device.
        """
        devices = Devices() if devices is None else devices
        with devices.scope():
            trainer, nested = _copy(student, tuple(self.objectives), self._seed)
        trainer = fitted_by_steps(trainer, devices)
        # A model that takes a dict of some of them would be given the first ones by Keras.
        reader = trainer if isinstance(self._input_shape, Mapping) else None
        training, batches = self.feed.open(
            views, batch_size, steps, seed, first_epoch, devices=devices, reader=reader
        )
        validation = None
        if validation_data is not None:
            views = [self.feed.prepare(validation_data, batch_size, tasks)]
            validation, _ = self.feed.open(views, batch_size, devices=devices, reader=reader)
        backend = backends.current()
        with devices.scope():
            used = backend.released(_optimizer(optimizer, learning_rate, batches, epochs))
            # Variables that are made while a graph is traced take ten times as long.
            used.build(trainer.trainable_variables)
            trainer.compile(
                optimizer=used,
                loss={head: objective.loss for head, objective in self.objectives.items()},
                jit_compile=backend.JIT_COMPILE,
            )
            # So are those of the losses, which would have the whole step traced twice.
            trainer.compute_loss(**self.feed.blank_step())
        set_steps(trainer, devices, training)
        original = self.feed.original_errors()
        with original, _dropout(trainer, dropout), without_told_ends(devices):
            trainer.fit(
                training,
                epochs=epochs,
                callbacks=list(callbacks),
                validation_data=validation,
                shuffle=False,
                verbose=verbose if devices.chief else 0,
            )
        # The same layers once more, without the compile state.
        return collected(type(trainer)(trainer.input, nested, name=trainer.name), devices)


def set_up(
    outputs: HeadOutputs,
    sample: Samples,
    teachers: Mapping[str, Any],
    input_shape: InputShapes,
    *,
    label_weight: float = 0.3,
    temperature: float = TEMPERATURE,
    losses: Mapping[str, Any] | None = None,
    class_weight: Mapping[str, Mapping[int, float]] | None = None,
    gaps: Collection[str] = (),
    seed: int = 0,
) -> Distillation:
    """The distillation of teachers into students.

    Args:
        outputs: For each head of each task the shape of one output and what `output_kind` says.
        sample: Some samples of the data, from which loss scales are measured.
        teachers: The original models by task; tasks without one learn from labels alone.
        input_shape: Shape of one input without the batch dimension; of several a dict by name.
        label_weight: Share of the labels in the loss of a head that has a teacher too.
        temperature: Divisor of the logits of student and teacher in the teacher's loss.
        losses: Keras losses for the labels of some heads.
        class_weight: Factors of classes, by head.
        gaps: Heads that may have labels that do not count.
        seed: Seed of the students' dropout.
    """
    objectives = {}
    for task, heads in outputs.items():
        teacher = Teacher(task, teachers[task]) if task in teachers else None
        for head, (shape, kind) in heads.items():
            objectives[head] = set_objective(
                head,
                sample.by_head[head],
                shape,
                kind,
                teacher=teacher,
                label_weight=label_weight,
                temperature=temperature,
                label_loss=(losses or {}).get(head),
                masked=head in gaps,
                class_weight=(class_weight or {}).get(head),
            )
    return Distillation(objectives, sample, input_shape, seed)


def head_outputs(model: keras.Model, tasks: Sequence[str]) -> HeadOutputs:
    """For each head of each task of a functional model the shape of one output and its kind."""
    kinds = output_kinds(model, tasks)
    by_task = {task: answers_by_head(model.output, task) for task in tasks}
    return {
        task: {head: (tuple(t.shape[1:]), kinds[head]) for head, t in heads.items()}
        for task, heads in by_task.items()
    }


def _copy(student: keras.Model, heads: tuple[str, ...], seed: int) -> tuple[keras.Model, Any]:
    """A model of the same weights with a dict of outputs by head, whose dropout is seeded.

    Returns:
        The model, and its outputs in the nest in which the student has them.
    """
    student = clone(student)
    nested = student.output
    if isinstance(nested, Mapping):
        flat = {h: t for task, own in nested.items() for h, t in leaves(task, own).items()}
    else:
        flat = dict(zip(heads, keras.tree.flatten(nested), strict=True))
    if flat.keys() != (nested.keys() if isinstance(nested, Mapping) else ()):
        student = type(student)(student.input, flat, name=student.name)
    # A clone's dropout layers draw a seed from Python's global generator; this makes it ours.
    known = {id(variable) for variable in student.weights}
    rng = np.random.default_rng(seed)
    for variable in student.variables:
        if id(variable) not in known:
            variable.assign(rng.integers(0, 2**31, variable.shape).astype(variable.dtype))
    return student, nested


@contextlib.contextmanager
def _dropout(model: keras.Model, factor: float) -> Iterator[None]:
    """Multiplies the rates of a model's dropout layers, and puts them back in the end."""
    # The spatial ones are subclasses. Wrapped and nested layers count, which `layers` leaves out.
    kinds = (keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.GaussianDropout)
    found = [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]
    rates = [layer.rate for layer in found]
    try:
        for layer in found:
            layer.rate *= factor
        yield
    finally:
        for layer, rate in zip(found, rates, strict=True):
            layer.rate = rate


def _optimizer(
    optimizer: Any, learning_rate: Any, batches: Batches, epochs: int
) -> keras.optimizers.Optimizer:
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return type(optimizer).from_config(optimizer.get_config())
    if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        learning_rate = keras.optimizers.schedules.CosineDecay(
            learning_rate, epochs * batches.counted_steps()
        )
    config = {"class_name": optimizer or "adam", "config": {"learning_rate": learning_rate}}
    return keras.optimizers.get(config)
