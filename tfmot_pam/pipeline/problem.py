"""What a compression works on: the originals, the data, and how students are trained and judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import Samples, as_form, heads_with_gaps, take_samples
from tfmot_pam.distribution.devices import Devices
from tfmot_pam.graph.heads import Inputs, common_types
from tfmot_pam.graph.inputs import as_types, count, rows
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import all_combinations
from tfmot_pam.graph.time_model import CallCost
from tfmot_pam.graph.usage import usage_probabilities
from tfmot_pam.metrics.examination import Examination, loss_units
from tfmot_pam.metrics.metric import Metric
from tfmot_pam.pipeline.arguments import LOSS_OPTIONS, Goal
from tfmot_pam.pipeline.inputs import heads_of_originals, inputs_of_originals, make_views
from tfmot_pam.pipeline.price import original_costs
from tfmot_pam.pruning.settings import PruningSettings
from tfmot_pam.training.distillation import Distillation, head_outputs, set_up
from tfmot_pam.training.usage import StepTasks

_BATCH, _SCALE_SAMPLES = 256, 256
_VALIDATION_VIEWS = 4  # where augment() makes other views


@dataclasses.dataclass(frozen=True)
class Training:
    """How students are trained.

    Args:
        batch_size: Samples per step.
        learning_rate: The rate of Adam at first.
        dropout: Factor of the rates of dropout layers: what is to be small learns all that it can.
        average: Momentum of the running average of the weights.
        seed: Seed of everything random.
    """

    batch_size: int = 32
    learning_rate: float = 2e-3
    dropout: float = 0.0
    average: float = 0.98
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A compression of some tasks, or of some of them.

    Args:
        originals: The models by task.
        heads: The heads of each task.
        input_types: The types of the originals' inputs by name.
        goal: What is to be reached.
        settings: How channels are removed.
        usage: Probability of each combination of all tasks; None for all alike.
        training: How students are trained.
        samples: Training samples.
        views: Prepared views of them, with targets.
        distillation: The losses of the tasks.
        examination: Validation samples, and what counts as right on them.
        original_costs: What running the originals of every combination costs in the measure.
        devices: What students are trained on.
    """

    originals: Mapping[str, keras.Model]
    heads: Mapping[str, tuple[str, ...]]
    input_types: Mapping[str, str]
    goal: Goal
    settings: PruningSettings
    usage: Mapping[tuple[str, ...], float] | None
    training: Training
    samples: Samples
    views: Sequence[Samples]
    distillation: Distillation
    examination: Examination
    original_costs: Mapping[tuple[str, ...], float]
    devices: Devices = dataclasses.field(default_factory=Devices)

    @property
    def measure(self) -> str | CallCost:
        """What the compression goes by."""
        return self.settings.measure

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.originals)

    @property
    def units(self) -> dict[str, float]:
        """What losses are measured in: tolerances, or what is worth measuring at all."""
        return loss_units(self.goal.tolerances, self.examination.least)

    @property
    def data(self) -> Any:
        """The training samples in a form that `merge` takes."""
        return as_form(self.samples)

    @property
    def rows(self) -> int:
        """Samples of the largest task, which make an epoch."""
        return max(len(own) for own in self.samples.by_head.values())

    def only(self, tasks: Sequence[str]) -> Problem:
        """The problem of some of the tasks, as often as their combinations run."""
        if tuple(tasks) == self.tasks:
            return self
        runs = dict.fromkeys(all_combinations(tasks), 0.0)
        for combination, probability in usage_probabilities(self.usage, self.tasks).items():
            left = tuple(task for task in tasks if task in combination)
            if left:
                runs[left] += probability
        total = sum(runs.values())
        usage = {c: p / total for c, p in runs.items()} if total else None
        marks = self.examination.marks(tasks)
        goal = dataclasses.replace(
            self.goal, tolerances={mark: self.goal.tolerances[mark] for mark in marks}
        )
        heads = [head for task in tasks for head in self.heads[task]]
        return dataclasses.replace(
            self,
            originals={task: self.originals[task] for task in tasks},
            heads={task: self.heads[task] for task in tasks},
            goal=goal,
            settings=dataclasses.replace(self.settings, usage=usage),
            usage=usage,
            samples=self.samples.only(heads),
            views=tuple(view.only(heads) for view in self.views),
            distillation=self.distillation.only(heads),
            original_costs={
                chosen: cost
                for chosen, cost in self.original_costs.items()
                if set(chosen) <= {*tasks}
            },
        )

    def calibration(self, most: int) -> Inputs:
        """Inputs of the training split, drawn by the seed."""
        x = self.samples.inputs
        rng = np.random.default_rng(self.training.seed)
        chosen = np.sort(rng.permutation(count(x))[:most])
        return as_types(rows(x, chosen), self.input_types)

    def train(
        self,
        student: keras.Model,
        epochs: int,
        *,
        rates: tuple[float, float],
        task_weights: Mapping[str, float],
        first_epoch: int,
        seed: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> keras.Model:
        """Trains a copy of a student by all tasks in every step; its weights are averages.

        A shared channel computes the same in every combination, so steps that serve some tasks
        only would teach nothing more.

        Args:
            student: A model of the problem's tasks.
            epochs: Passes over the data.
            rates: The rate at first and in the end, as shares of the first one of all; between
                them it follows a cosine.
            task_weights: Factor of each task's loss.
            first_epoch: Epochs that came before, for the shuffling and the views.
            seed: A further seed, for another try.
            callbacks: Keras callbacks.
        """
        how = self.training
        steps = epochs * -(-self.rows // how.batch_size)
        first, last = rates
        rate = keras.optimizers.schedules.CosineDecay(
            first * how.learning_rate, steps, alpha=last / first
        )
        optimizer = keras.optimizers.Adam(rate, use_ema=True, ema_momentum=how.average)
        return self.distillation.train(
            student,
            self.views,
            epochs,
            batch_size=how.batch_size,
            learning_rate=rate,
            optimizer=optimizer,
            steps=StepTasks(self.heads, None, 1.0, how.seed, self._by_head(task_weights)),
            dropout=how.dropout,
            callbacks=callbacks,
            seed=how.seed + 7919 * seed,
            first_epoch=first_epoch,
            devices=self.devices,
        )

    def _by_head(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The factor of each head's loss, out of those of what is measured by itself."""
        return {
            head: weights[head] if head in weights else weights[task]
            for task, heads in self.heads.items()
            for head in heads
        }


def make_problem(
    originals: Mapping[str, keras.Model],
    training: Samples,
    validation: Samples,
    goal: Goal,
    settings: PruningSettings,
    *,
    augment: Callable[..., Any] | None = None,
    views: int | None = None,
    metrics: Mapping[str, Metric | str] = MappingProxyType({}),
    devices: Devices | None = None,
    **options: Any,
) -> Problem:
    """The problem of compressing some models.

    Args:
        originals: The models by task.
        training: Training samples.
        validation: Those that networks are judged by.
        goal: What is to be reached.
        settings: How channels are removed; all randomness has their seed.
        augment: Makes other views of inputs, or None.
        views: How many views of the training samples there are, or None.
        metrics: Metrics of tasks, from `find_metrics`.
        devices: What students are trained on; None is one device.
        **options: How students are trained: checked `fine_tune_options` of `compress`.
    """
    seed = settings.seed
    distillation, prepared = _prepared_distillation(
        originals, training, make_views(training, augment, views, seed), options, seed
    )
    networks = {task: read(model) for task, model in originals.items()}
    return Problem(
        originals=originals,
        heads=heads_of_originals(originals),
        input_types=common_types(networks.values()),
        goal=goal,
        settings=settings,
        usage=settings.usage,
        training=Training(**options, seed=seed),
        samples=training,
        views=prepared,
        distillation=distillation,
        examination=Examination(
            originals, make_views(validation, augment, _VALIDATION_VIEWS, seed + 1), metrics, seed
        ),
        original_costs=original_costs(networks, settings.measure),
        devices=Devices() if devices is None else devices,
    )


def _prepared_distillation(
    originals: Mapping[str, keras.Model],
    training: Samples,
    views: Sequence[Samples],
    options: dict[str, Any],
    seed: int,
) -> tuple[Distillation, list[Any]]:
    """The losses of all tasks, and the views with their targets; takes the losses' options."""
    shape = inputs_of_originals(originals)
    outputs = {task: head_outputs(model, [task])[task] for task, model in originals.items()}
    heads = [head for own in outputs.values() for head in own]
    # Drawn for each head alone: strata of other tasks' labels would change the scale of its loss.
    drawn = {
        head: take_samples(
            as_form(training.only([head])), [head], shape, samples=_SCALE_SAMPLES, seed=seed
        ).by_head[head]
        for head in heads
    }
    distillation = set_up(
        outputs,
        Samples(drawn, shared=False),
        originals,
        shape,
        **{name: options.pop(name) for name in LOSS_OPTIONS if name in options},
        gaps=heads_with_gaps(as_form(training), heads, shape),
        seed=seed,
    )
    return distillation, [distillation.feed.prepare(as_form(view), _BATCH) for view in views]
