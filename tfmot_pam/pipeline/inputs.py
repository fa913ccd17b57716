"""The models and the data of a compression, in one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import Samples, TaskSamples, read_all
from tfmot_pam.graph import network as net
from tfmot_pam.graph.cost import warn_of_uncounted
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.frozen import with_trainable
from tfmot_pam.graph.generation import as_keras
from tfmot_pam.graph.reader import check_model, read
from tfmot_pam.graph.selection import task_names
from tfmot_pam.graph.sizes import sized, with_inputs
from tfmot_pam.merging.arguments import named_models

_VIEWS, _VIEW_BYTES = 16, 2**31


def originals_by_task(models: Any) -> dict[str, keras.Model]:
    """The models by task; one alone keeps its own form, or gets the name that it is given."""
    if isinstance(models, Mapping):
        models = {task: as_keras(model, f"The model of {task!r}") for task, model in models.items()}
        if len(models) == 1:
            ((task, model),) = models.items()
            return {task: with_task(model, task)}
    elif isinstance(models, (list, tuple)):
        models = [as_keras(model) for model in models]
    else:
        models = as_keras(models)
    if isinstance(models, keras.Model):
        models = [models]
    if isinstance(models, list) and len(models) == 1:
        (model,) = models
        (task,) = task_names(read(model))
        return {task: _functional(model)}
    return {task: _functional(model) for task, model in named_models(models).items()}


def with_task(model: keras.Model, task: str) -> keras.Model:
    """The model with its one output under a task's name."""
    check_model(model, f"The model of {task!r}")
    model = _functional(model)
    outputs = keras.tree.flatten(model.output)
    if len(outputs) != 1:
        raise ValueError(
            f"The model of {task!r} has {len(outputs)} outputs. Expected one. Pass a model for "
            "each task."
        )
    return keras.Model(model.input, {task: outputs[0]}, name=model.name)


def _functional(model: keras.Model) -> keras.Model:
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def split(originals, data: Any, validation_data: Any) -> tuple[Samples, Samples]:
    """Training and validation samples in memory; streams are read once."""
    tasks = list(originals)
    shape = tuple(next(iter(originals.values())).inputs[0].shape[1:])
    training = read_all(data, tasks, shape)
    if validation_data is not None:
        return training, read_all(validation_data, tasks, shape, name="validation_data")
    return _part(training, False), _part(training, True)


def prepared(
    originals: Mapping[str, keras.Model], samples: Samples, trainable: str
) -> tuple[dict[str, keras.Model], net.Shape | None]:
    """The models as they are compressed: at the size of the samples, their layers trainable.

    Warns of layers that stay frozen, and of those whose cost is not known.

    Returns:
        The models, and the shape of their inputs before, where all of them take any size.

    Raises:
        ValueError: `trainable` is unknown.
    """
    found, before = {}, []
    for task, model in originals.items():
        network = read(model)
        changed = with_trainable(network, trainable)
        (tensor,) = network.inputs
        if None in network.shape(tensor)[1:]:
            changed = sized(changed, samples.by_task[task].x.shape[1:])
            before.append(network.shape(tensor))
        warn_of_uncounted(changed)
        found[task] = model if changed is network else emit(changed)
    return found, before[0] if len(before) == len(found) else None


def opened(model: keras.Model, shape: net.Shape) -> keras.Model:
    """The model with an input of a shape in which sizes are open."""
    network = read(model)
    return emit(with_inputs(network, dict.fromkeys(network.inputs, shape)))


def _part(samples: Samples, validation: bool) -> Samples:
    """Every seventh sample, or the others; samples that share inputs still do."""
    parts: dict[int, np.ndarray] = {}
    by_task = {}
    for task, own in samples.by_task.items():
        chosen = (np.arange(len(own.x)) % 7 == 6) == validation
        if not chosen.any() or chosen.all() == (not validation) and len(own.x) < 7:
            raise ValueError(
                f"The task {task!r} has {len(own.x)} samples. Expected at least 7, of which every "
                "seventh is for validation. Pass validation_data."
            )
        x = parts.setdefault(id(own.x), own.x[chosen])
        by_task[task] = own.rows(chosen, x)
    return Samples(by_task, samples.shared)


def make_views(
    samples: Samples, augment: Callable[..., Any] | None, count: int | None, seed: int
) -> list[Samples]:
    """The samples as they are, and other views of them.

    Args:
        samples: Training samples.
        augment: `augment(x, rng)` returns inputs of the same shape; None makes no other views.
        count: How many views there shall be; None makes what is useful, within bounds of memory.
        seed: Seed of the views.

    Raises:
        ValueError: `augment` returns another shape, or values that are not finite.
    """
    if augment is None:
        return [samples]
    views = [samples]
    for number in range(1, count or _useful_views(samples)):
        rng = np.random.default_rng([seed, number])
        seen: dict[int, np.ndarray] = {}
        by_task = {}
        for task, own in samples.by_task.items():
            if id(own.x) not in seen:
                seen[id(own.x)] = _checked(augment(own.x.copy(), rng), own.x)
            by_task[task] = TaskSamples(seen[id(own.x)], own.y, own.weight)
        views.append(Samples(by_task, samples.shared))
    return views


def _useful_views(samples: Samples) -> int:
    arrays = {id(own.x): own.x.nbytes for own in samples.by_task.values()}
    return max(2, min(_VIEWS, _VIEW_BYTES // max(1, sum(arrays.values()))))


def _checked(view: Any, x: np.ndarray) -> np.ndarray:
    view = np.asarray(view)
    if view.shape != x.shape or not np.isfinite(view).all():
        raise ValueError(
            f"`augment` made inputs of shape {view.shape} out of {x.shape}, or values that are not "
            "finite. Expected finite inputs of the same shape. Check the function."
        )
    return view.astype(x.dtype, copy=False)
