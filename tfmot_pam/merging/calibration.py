"""Calibration: the samples that a merge looks at, and whether models are read as they compute."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import (
    HeadSamples,
    Samples,
    input_statistics,
    synthetic_inputs,
    take_samples,
)
from tfmot_pam.graph.calling import answers_by_head, for_model
from tfmot_pam.graph.heads import Inputs, all_heads, common_inputs, common_types, leaves
from tfmot_pam.graph.inputs import as_types, rows
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.runner import Made, evaluate
from tfmot_pam.merging.alignment import Alignment


def calibration_samples(
    by_task: Mapping[str, keras.Model],
    networks: Sequence[Network],
    data: Any,
    samples: int,
    seed: int,
) -> Samples:
    """Samples of the user's data in the types that the models take, or random inputs.

    Args:
        by_task: The models by task.
        networks: The same as data.
        data: As in `merge`; None draws random inputs and warns.
        samples: Samples that are drawn per task.
        seed: Seed of the draw.
    """
    found = dict(zip(by_task, networks, strict=True))
    shapes, types = common_inputs(found), common_types(networks)
    heads = {task: tuple(leaves(task, network.outputs)) for task, network in found.items()}
    if data is not None:
        taken = take_samples(data, heads, shapes, samples=samples, seed=seed, lazy=True)
        return _as_types(taken, types)
    warnings.warn(
        "merge() was given no data: channels are compared on random inputs, which says little "
        "about what the tasks need. Pass inputs of the training split, labels are optional.",
        stacklevel=4,
    )
    drawn: Inputs
    if isinstance(shapes, Mapping):
        drawn = {
            name: synthetic_inputs(shape, samples=samples, dtype=types[name], seed=seed)
            for name, shape in shapes.items()
        }
    else:
        mean, std = input_statistics(next(iter(by_task.values())))
        drawn = synthetic_inputs(
            shapes,
            samples=samples,
            mean=mean,
            std=std,
            dtype=next(iter(types.values())),
            seed=seed,
        )
    return Samples({head: HeadSamples(drawn, None) for head in all_heads(heads)}, True)


def _as_types(calibration: Samples, types: Mapping[str, str]) -> Samples:
    """The samples as the models take them: Keras would convert them on every call."""
    converted: dict[int, Inputs] = {}
    by_head = {}
    for head, found in calibration.by_head.items():
        if id(found.x) not in converted:
            converted[id(found.x)] = as_types(found.x, types)
        by_head[head] = HeadSamples(converted[id(found.x)], found.y)
    return Samples(by_head, calibration.shared)


def check_crossing(
    by_task: Mapping[str, keras.Model],
    networks: Sequence[Network],
    calibration: Samples,
    made: Made,
) -> None:
    """Raises ValueError unless the networks, as they are read, compute what their models do.

    The layers that this runs are added to those that were `made`.
    """
    for (task, model), network in zip(by_task.items(), networks, strict=True):
        outputs = leaves(task, network.outputs)
        x = rows(calibration.by_head[next(iter(outputs))].x, slice(0, 4))
        answered = answers_by_head(model(for_model(model, x), training=False), task)
        found = evaluate(network, x, outputs.values(), made=made)
        for head, tensor in outputs.items():
            expected = keras.ops.convert_to_numpy(answered[head])
            _check_same(task, expected, found[tensor])


def _check_same(task: str, expected: np.ndarray, found: np.ndarray) -> None:
    if not np.isfinite(expected).all():
        raise ValueError(
            f"The model of {task!r} returns NaN or infinite values on the calibration data. "
            "Expected finite outputs. Check its weights and the scale of the inputs."
        )
    error = float(np.abs(found - expected).max())
    if error > 1e-4 * max(1.0, float(np.abs(expected).max())):
        raise ValueError(
            f"The model of {task!r} cannot be read exactly: built anew from its get_config() "
            f"and weights it differs by {error:.3g}. A custom layer's get_config() probably "
            "leaves out an argument; let it return every argument of the constructor."
        )


def inputs_of_tasks(alignment: Alignment, calibration: Samples) -> tuple[Inputs, ...]:
    """The inputs of each task's own samples."""
    return tuple(
        calibration.by_head[next(iter(leaves(task, network.outputs)))].x
        for task, network in zip(alignment.tasks, alignment.networks, strict=True)
    )


def own_samples(alignment: Alignment, calibration: Samples) -> np.ndarray | None:
    """Whether each of the inputs of all heads is of each task's, `[samples, tasks]`.

    None where all tasks have the same.
    """
    if calibration.shared:
        return None
    parts = []
    for found in calibration.apart:
        first = next(iter(found.by_head.values()))
        row = [
            any(head in found.by_head for head in leaves(task, network.outputs))
            for task, network in zip(alignment.tasks, alignment.networks, strict=True)
        ]
        parts.append(np.tile(np.array(row), (len(first), 1)))
    return np.concatenate(parts)
