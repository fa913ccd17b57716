"""Matching: which channels of the networks become one, as pairs and sets of them are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tfmot_pam.graph.network import Tensor
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import free_spaces, mask_of
from tfmot_pam.merging.methods import SpaceDecision

# Channels that become one, each as its network and its place among that one's in the space.
Members = list[tuple[int, int]]


def check_until(until: str | None) -> None:
    """Raises TypeError unless `until` is a name, or None."""
    if until is not None and not isinstance(until, str):
        raise TypeError(
            f"`until` must be the name of a layer. Received: {until!r} of type "
            f"{type(until).__name__}. Leave it out to match the channels of all layers."
        )


def matched_spaces(alignment: Alignment, until: str | None) -> list[int]:
    """The free trunk spaces whose channels are matched: those that shared channels can be in.

    Behind layers that are taken whole, of which every network keeps its own, there are none.

    Args:
        alignment: The aligned networks.
        until: A layer of the trunk, of any of the networks: spaces behind the one that it writes,
            or is in, are left out. None for all.

    Raises:
        ValueError: there is no such layer in the trunk.
    """
    free = free_spaces(alignment)
    if until is None:
        return _fed(alignment, free)
    touched = []
    for names in alignment.trunk:
        for k, name in enumerate(names):
            graph = alignment.graphs[k]
            if graph.network.node(name).layer == until:
                labels = graph.labels[Tensor(name)]
                touched += [
                    index
                    for index, space in enumerate(alignment.spaces)
                    if np.isin(labels, space.channels[k]).any()
                ]
    if not touched:
        known = [alignment.graphs[0].network.node(names[0]).layer for names in alignment.trunk]
        raise ValueError(
            f"Received until={until!r}, which is no layer of the trunk that the models have in "
            f"common. Expected one of {list(dict.fromkeys(known))}, or the name of another "
            "model's. Leave it out to match the channels of all layers."
        )
    return _fed(alignment, [index for index in free if index <= max(touched)])


def _fed(alignment: Alignment, wanted: Sequence[int]) -> list[int]:
    """The spaces of which each layer that writes them reads some of them, or the input."""
    graph, spaces = alignment.graphs[0], alignment.spaces
    nodes = [graph.network.node(names[0]) for names in alignment.trunk]
    found = list(wanted)
    while True:
        known = [i for i, space in enumerate(spaces) if space.given or i in found]
        read = np.concatenate([np.zeros(0, int), *(spaces[i].channels[0] for i in known)])
        unfed = [
            graph.labels[Tensor(node.name)]
            for node in nodes
            if graph.roles[node.name] == "mixing"
            and not np.isin(graph.labels[node.inputs[0]], read).any()
        ]
        left = [
            index
            for index in found
            if not any(np.isin(labels, spaces[index].channels[0]).any() for labels in unfed)
        ]
        if left == found:
            return found
        found = left


def apart(alignment: Alignment, index: int) -> list[Members]:
    """Every channel of a space by itself."""
    return [[(k, c)] for k, n in enumerate(alignment.spaces[index].widths) for c in range(n)]


def decision(
    alignment: Alignment,
    index: int,
    classes: Sequence[Members],
    masks: Sequence[int] | None = None,
    factors: Mapping[tuple[int, int], float] | None = None,
) -> SpaceDecision:
    """What sets of channels mean for a space.

    Args:
        alignment: The aligned networks.
        index: The space.
        classes: The channels that become one; each of the space's is in one of them.
        masks: The task set of each; None for the tasks of the networks that have a part in it.
        factors: What the one is multiplied by to stand for a channel, where that is not 1.
    """
    starts = np.cumsum([0, *alignment.spaces[index].widths])
    numbers, found = np.empty(starts[-1], int), np.empty(starts[-1], int)
    scales = np.ones(starts[-1])
    for number, members in enumerate(classes):
        mask = mask_of([k for k, _ in members]) if masks is None else masks[number]
        for k, channel in members:
            numbers[starts[k] + channel], found[starts[k] + channel] = number, mask
            scales[starts[k] + channel] = (factors or {}).get((k, channel), 1.0)
    return SpaceDecision(found, numbers, scales if factors else None)


def identical_members(alignment: Alignment, index: int) -> list[np.ndarray]:
    """For each network the numbers of a space's channels, the same for those that are the same.

    Where no channels are, all numbers differ.
    """
    channels = alignment.spaces[index].channels
    if alignment.identical is not None:
        return [own[c] for own, c in zip(alignment.identical, channels, strict=True)]
    starts = np.cumsum([0, *map(len, channels)])
    return [start + np.arange(len(c)) for start, c in zip(starts, channels, strict=False)]
