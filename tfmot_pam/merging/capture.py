"""Capture: what the channels of the trunk do on calibration data, one number an image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tfmot_pam.graph.heads import Inputs, leaves
from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.runner import Made, evaluate
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import free_spaces
from tfmot_pam.merging.observations import Observations


def _spatial(value: np.ndarray, reduce: Callable[..., np.ndarray]) -> np.ndarray:
    return reduce(value.reshape(len(value), -1, value.shape[-1]), axis=1)


REDUCTIONS: Mapping[str, Callable[[np.ndarray], tuple[np.ndarray, ...]]] = MappingProxyType(
    {
        "max": lambda value: (_spatial(value, np.max),),
        "mean": lambda value: (_spatial(value, np.mean),),
        "max+mean": lambda value: (_spatial(value, np.max), _spatial(value, np.mean)),
    }
)


def check_reduction(reduction: str) -> None:
    """Raises ValueError unless `reduction` is a key of `REDUCTIONS`."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(
            f"Unknown `reduction`: {reduction!r}. Expected one of {sorted(REDUCTIONS)}. Choose one."
        )


def reading_places(alignment: Alignment, index: int) -> dict[Tensor, np.ndarray]:
    """The tensors that one network's mixing layers read, with their channel numbers.

    A channel that is read at several places (a residual stream) is listed at each of them.
    """
    graph = alignment.graphs[index]
    places = {}
    for node in graph.network.nodes:
        if graph.roles[node.name] in ("mixing", "copied"):
            for tensor in node.inputs:
                places[tensor] = graph.labels[tensor]
    return places


def observe(
    alignment: Alignment,
    index: int,
    x: Inputs,
    *,
    reduction: str = "max",
    outputs_as: Callable[[str, np.ndarray], np.ndarray] = lambda head, value: value,
    made: Made | None = None,
) -> tuple[dict[int, Observations], dict[str, np.ndarray]]:
    """One network's activations in the free trunk spaces, and its outputs by head.

    PAM, section 4.2: the tensor that a mixing layer is about to read, reduced to one number per
    image and channel.

    Args:
        alignment: The aligned networks.
        index: Which network.
        x: Calibration inputs, `[samples, ...]`; of several a dict by name.
        reduction: How space is reduced: `max`, `mean` or `max+mean`.
        outputs_as: What is kept of the outputs of a head in a batch, which may be whole maps.
        made: See `Made`.

    Returns:
        Observations by index of the trunk space (the channels in the order of its `channels`),
        and what is kept of the network's outputs.
    """
    network = alignment.networks[index]
    places = reading_places(alignment, index)
    outputs = leaves(alignment.tasks[index], network.outputs)

    heads: dict[Tensor, list[str]] = {}
    for head, tensor in outputs.items():
        heads.setdefault(tensor, []).append(head)

    def reduce(tensor: Tensor, value: np.ndarray) -> np.ndarray:
        if tensor in heads:
            (first, *others) = heads[tensor]
            return value if others else outputs_as(first, value)
        return np.stack(REDUCTIONS[reduction](value), axis=1)

    wanted = set()
    for space in free_spaces(alignment):
        channels = alignment.spaces[space].channels[index]
        wanted |= {t for t, labels in places.items() if np.isin(labels, channels).any()}
    found = evaluate(network, x, [*wanted, *outputs.values()], reduce, made=made)
    spaces = {
        space: _space_observations(alignment.spaces[space].channels[index], places, found, wanted)
        for space in free_spaces(alignment)
    }
    return spaces, {
        head: found[tensor] if len(heads[tensor]) == 1 else outputs_as(head, found[tensor])
        for head, tensor in outputs.items()
    }


def _space_observations(
    channels: np.ndarray,
    places: Mapping[Tensor, np.ndarray],
    found: Mapping[Tensor, np.ndarray],
    wanted: Collection[Tensor],
) -> Observations:
    columns, owners = list[np.ndarray](), list[Any]()
    for tensor, labels in places.items():
        if tensor not in wanted:
            continue
        inside = np.flatnonzero(np.isin(labels, channels))
        if not len(inside):
            continue
        order = inside[np.argsort(labels[inside], kind="stable")]
        present, starts = np.unique(labels[order], return_index=True)
        for values in np.moveaxis(found[tensor][:, :, order], 1, 0):
            # A flattened channel has several positions: the largest speaks for it.
            columns.append(np.maximum.reduceat(values, starts, axis=1))
            owners.append(np.searchsorted(channels, present))
    samples = len(next(iter(found.values())))
    missing = np.setdiff1d(np.arange(len(channels)), np.concatenate(owners) if owners else [])
    if len(missing):
        # Nobody mixes these channels: they are observed as constants, so they say nothing.
        columns.append(np.zeros((samples, len(missing)), np.float32))
        owners.append(missing)
    return Observations(
        np.concatenate(columns, axis=1).astype(np.float32), np.concatenate(owners).astype(int)
    )
