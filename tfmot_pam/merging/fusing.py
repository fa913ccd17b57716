"""Fusing: which channels of the networks become one, from what was decided for their spaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmot_pam.graph.network import Tensor
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import Grouping
from tfmot_pam.merging.methods import SpaceDecision


def fused(
    alignment: Alignment, grouping: Grouping, decided: Mapping[int, SpaceDecision]
) -> Grouping:
    """The grouping with the channels that were decided to become one, as far as they can.

    They can if they have the same task set and are at corresponding places of the same tensors.

    Args:
        alignment: The aligned networks.
        grouping: The task set of every channel.
        decided: What was decided, by trunk space.
    """
    if not decided:
        return grouping
    sizes = [len(masks) for masks in grouping.masks]
    starts = np.cumsum([0, *sizes])
    numbers, factors = np.arange(starts[-1]), np.ones(starts[-1])
    masks, places = np.concatenate(grouping.masks), np.concatenate(places_of_channels(alignment))
    for index, found in decided.items():
        parts = zip(starts, alignment.spaces[index].channels, strict=False)
        channels = np.concatenate([start + own for start, own in parts])
        keys = np.stack([found.classes, masks[channels], places[channels]])
        _, first, own = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        needed = masks[channels] > 0
        numbers[channels[needed]] = channels[first[own.ravel()]][needed]
        if found.factors is not None:
            alone = np.bincount(own.ravel())[own.ravel()] == 1
            factors[channels] = np.where(alone, 1.0, found.factors)
    if len(np.unique(numbers)) == len(numbers):
        return grouping
    return dataclasses.replace(
        grouping,
        fused=tuple(np.split(numbers, starts[1:-1])),
        factors=None if (factors == 1).all() else tuple(np.split(factors, starts[1:-1])),
    )


def places_of_channels(alignment: Alignment) -> list[np.ndarray]:
    """For each network a number for each of its channels, the same for those in the same tensors.

    That is, in the same tensors of the trunk, at the same number of positions in each.
    """
    found = [np.zeros(len(graph.space_of), np.uint64) for graph in alignment.graphs]
    rng = np.random.default_rng(0)
    for names in alignment.trunk:
        for output in range(len(alignment.graphs[0].network.node(names[0]).shapes)):
            # Sums of random numbers stand for sets of tensors: 64 bits tell them apart.
            number = rng.integers(1 << 63, dtype=np.uint64)
            for own, graph, name in zip(found, alignment.graphs, names, strict=True):
                np.add.at(own, graph.labels[Tensor(name, output)], number)
    sizes = np.cumsum([len(own) for own in found])[:-1]
    _, numbers = np.unique(np.concatenate(found), return_inverse=True)
    return np.split(numbers.ravel(), sizes)
