"""The models and the data of a compression, in one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import HeadSamples, Samples, read_all
from tfmot_pam.graph import network as net
from tfmot_pam.graph.cost import warn_of_uncounted
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.frozen import with_trainable
from tfmot_pam.graph.generation import as_keras
from tfmot_pam.graph.heads import (
    Inputs,
    InputShapes,
    common_inputs,
    given_to,
    named_inputs,
    own_output,
)
from tfmot_pam.graph.inputs import arrays_of, map_inputs, rows
from tfmot_pam.graph.reader import check_model, read
from tfmot_pam.graph.selection import task_names
from tfmot_pam.graph.sizes import sized, with_inputs
from tfmot_pam.merging.arguments import named_models
from tfmot_pam.training.heads import output_kinds

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
    """The model with what it yields under a task's name."""
    check_model(model, f"The model of {task!r}")
    model = _functional(model)
    return keras.Model(model.input, {task: own_output(model.output, task)}, name=model.name)


def _functional(model: keras.Model) -> keras.Model:
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def split(
    originals: Mapping[str, keras.Model], data: Any, validation_data: Any
) -> tuple[Samples, Samples]:
    """Training and validation samples in memory; streams are read once."""
    heads, shapes = heads_of_originals(originals), inputs_of_originals(originals)
    training = read_all(data, heads, shapes)
    if validation_data is not None:
        return training, read_all(validation_data, heads, shapes, name="validation_data")
    return _part(training, False), _part(training, True)


def heads_of_originals(originals: Mapping[str, keras.Model]) -> dict[str, tuple[str, ...]]:
    """The heads of each task, by what its model yields."""
    return {task: tuple(output_kinds(model, [task])) for task, model in originals.items()}


def inputs_of_originals(originals: Mapping[str, keras.Model]) -> InputShapes:
    """The shape of the one input of all models, or of all their inputs by name.

    Raises:
        ValueError: inputs of one name differ in shape.
    """
    return common_inputs({task: read(model) for task, model in originals.items()})


def prepared(
    originals: Mapping[str, keras.Model], samples: Samples, trainable: str
) -> tuple[dict[str, keras.Model], dict[str, net.Shape] | None]:
    """The models as they are compressed: at the size of the samples, their layers trainable.

    Warns of layers that stay frozen, and of those whose cost is not known.

    Returns:
        The models, and the shapes of their inputs before, where all of them take any size.

    Raises:
        ValueError: `trainable` is unknown.
    """
    found, before = {}, []
    for task, model in originals.items():
        network = read(model)
        changed = with_trainable(network, trainable)
        shapes = {name: network.shape(tensor) for name, tensor in named_inputs(network).items()}
        if any(None in shape[1:] for shape in shapes.values()):
            heads = output_kinds(model, [task])
            given = given_to(network, samples.by_head[next(iter(heads))].x)
            sizes = {network.node(tensor.node).layer: a.shape[1:] for tensor, a in given.items()}
            changed = sized(changed, sizes)
            before.append(shapes)
        warn_of_uncounted(changed)
        found[task] = model if changed is network else emit(changed)
    if len(before) < len(found):
        return found, None
    return found, {name: shape for shapes in before for name, shape in shapes.items()}


def opened(model: keras.Model, shapes: Mapping[str, net.Shape]) -> keras.Model:
    """The model with inputs of shapes in which sizes are open."""
    network = read(model)
    first = next(iter(shapes.values()))  # of one input, whatever it is called in each model
    own = {tensor: shapes.get(name, first) for name, tensor in named_inputs(network).items()}
    return emit(with_inputs(network, own))


def _part(samples: Samples, validation: bool) -> Samples:
    """Every seventh sample, or the others; samples that share inputs still do."""
    parts: dict[int, Inputs] = {}
    by_head = {}
    for head, own in samples.by_head.items():
        chosen = (np.arange(len(own)) % 7 == 6) == validation
        if not chosen.any() or chosen.all() == (not validation) and len(own) < 7:
            raise ValueError(
                f"The task {head!r} has {len(own)} samples. Expected at least 7, of which every "
                "seventh is for validation. Pass validation_data."
            )
        if id(own.x) not in parts:
            parts[id(own.x)] = rows(own.x, chosen)
        by_head[head] = own.rows(chosen, parts[id(own.x)])
    return Samples(by_head, samples.shared)


def make_views(
    samples: Samples, augment: Callable[..., Any] | None, count: int | None, seed: int
) -> list[Samples]:
    """The samples as they are, and other views of them.

    Args:
        samples: Training samples.
        augment: `augment(x, rng)` returns inputs of the same shape, of several a dict by name; None
            makes no other views.
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
        seen: dict[int, Inputs] = {}
        by_head = {}
        for head, own in samples.by_head.items():
            if id(own.x) not in seen:
                seen[id(own.x)] = _checked(augment(map_inputs(np.copy, own.x), rng), own.x)
            by_head[head] = HeadSamples(seen[id(own.x)], own.y, own.weight)
        views.append(Samples(by_head, samples.shared))
    return views


def _useful_views(samples: Samples) -> int:
    sizes = {
        id(own.x): sum(array.nbytes for array in arrays_of(own.x))
        for own in samples.by_head.values()
    }
    return max(2, min(_VIEWS, _VIEW_BYTES // max(1, sum(sizes.values()))))


def _checked(view: Any, x: Inputs) -> Inputs:
    if not isinstance(x, Mapping):
        return _checked_array(view, x)
    if not isinstance(view, Mapping) or set(view) != set(x):
        raise ValueError(
            f"`augment` was given the inputs {list(x)} and returned "
            f"{list(view) if isinstance(view, Mapping) else type(view).__name__}. Expected a dict "
            "of arrays by the same names. Return those that are not changed, too."
        )
    return {name: _checked_array(view[name], array) for name, array in x.items()}


def _checked_array(view: Any, x: np.ndarray) -> np.ndarray:
    view = np.asarray(view)
    if view.shape != x.shape or not np.isfinite(view).all():
        raise ValueError(
            f"`augment` made inputs of shape {view.shape} out of {x.shape}, or values that are not "
            "finite. Expected finite inputs of the same shape. Check the function."
        )
    return view.astype(x.dtype, copy=False)
