"""Units: layers that are taken whole, of which one network's may serve all tasks.

Where channels cannot be taken apart (normalisations over channels, attention, recurrent layers),
groups of channels cannot be shared, but the whole space can: one network's layers, with their
weights, take the place of those of all networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import scipy.sparse

from tfmot_pam.graph.network import Tensor
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import Grouping, everything, with_identical_once


def unit_spaces(alignment: Alignment) -> tuple[tuple[int, ...], ...]:
    """The trunk spaces that are frozen and may be shared whole.

    Returns:
        Units, as indices of trunk spaces: layers without a rule read and write the spaces of one
        unit, so that all of them are shared or none. All networks have the same widths there, and
        no head writes into them.
    """
    index_of = _space_indices(alignment)
    pairs: list[tuple[int, int]] = []
    for names in alignment.trunk:
        touched = sorted(_frozen_spaces(alignment, index_of, names[0]))
        pairs.extend((touched[0], other) for other in touched)
    found = []
    for unit in _components(pairs):
        if all(_may_be_shared(alignment, index) for index in unit):
            found.append(unit)
    return tuple(found)


def shared_unit(alignment: Alignment, unit: tuple[int, ...], donor: int) -> dict[int, np.ndarray]:
    """The task sets of a unit's channels by space where one network's serve all tasks."""
    count = len(alignment.tasks)
    masks = np.where(np.arange(count) == donor, everything(count), 0)
    return {index: np.repeat(masks, alignment.spaces[index].widths) for index in unit}


def kept_apart(alignment: Alignment, spaces: Iterable[int]) -> dict[int, np.ndarray]:
    """The task sets of the channels by space where every network keeps its own."""
    masks = 1 << np.arange(len(alignment.tasks))
    return {index: np.repeat(masks, alignment.spaces[index].widths) for index in spaces}


def check_units(alignment: Alignment, grouping: Grouping) -> None:
    """Raises ValueError unless what is taken whole is shared whole, or not at all."""
    whole = {index: unit for unit in unit_spaces(alignment) for index in unit}
    for index, space in enumerate(alignment.spaces):
        if space.given or space.frozen is None:
            continue
        unit = whole.get(index, (index,))
        allowed = [kept_apart(alignment, unit)]
        if index in whole:
            donors = range(len(alignment.tasks))
            allowed += [shared_unit(alignment, unit, donor) for donor in donors]
        found = {other: _masks(alignment, grouping, other) for other in unit}
        allowed = [_with_identical_once(alignment, grouping, masks) for masks in allowed]
        if not any(all(np.array_equal(found[i], masks[i]) for i in unit) for masks in allowed):
            raise ValueError(
                f"The merge plan regroups the channels of '{space.name}', which cannot be: "
                f"{space.frozen}. Expected each task's channels in a group of its own there, or "
                "one model's in a group of all tasks. Merge without `plan` to make a new one."
            )


def _with_identical_once(
    alignment: Alignment, grouping: Grouping, masks: Mapping[int, np.ndarray]
) -> dict[int, np.ndarray]:
    """Task sets of some spaces where of channels that are the same in networks one stays."""
    placed = [found.copy() for found in grouping.masks]
    for index, found in masks.items():
        space = alignment.spaces[index]
        parts = np.split(found, np.cumsum(space.widths)[:-1])
        for own, channels, part in zip(placed, space.channels, parts, strict=True):
            own[channels] = part
    once = with_identical_once(alignment, Grouping(tuple(placed)))
    return {index: _masks(alignment, once, index) for index in masks}


def _masks(alignment: Alignment, grouping: Grouping, index: int) -> np.ndarray:
    """The task sets of a space's channels, those of all networks one after the other."""
    channels = alignment.spaces[index].channels
    return np.concatenate([found[own] for found, own in zip(grouping.masks, channels, strict=True)])


def _space_indices(alignment: Alignment) -> Mapping[int, int]:
    """The trunk space of each of the first network's channels that is in one."""
    return {
        int(channel): index
        for index, space in enumerate(alignment.spaces)
        for channel in space.channels[0]
    }


def _frozen_spaces(alignment: Alignment, index_of: Mapping[int, int], name: str) -> set[int]:
    """The frozen trunk spaces that a node ties: those that it copies, or the one it writes."""
    graph = alignment.graphs[0]
    node = graph.network.node(name)
    tensors = [Tensor(name, output) for output in range(len(node.shapes))]
    if graph.roles[name] == "copied":
        tensors += node.inputs
    found = {index_of[int(graph.labels[tensor][0])] for tensor in tensors}
    return {index for index in found if alignment.spaces[index].frozen is not None}


def _components(pairs: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Sets of numbers that pairs connect, in the order of their first number."""
    if not pairs:
        return []
    rows, columns = np.array(pairs).T
    size = int(max(rows.max(), columns.max())) + 1
    matrix = scipy.sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), (size, size))
    _, joined = scipy.sparse.csgraph.connected_components(matrix, directed=False)
    present = np.unique(np.concatenate([rows, columns]))
    return [
        tuple(present[joined[present] == component].tolist())
        for component in dict.fromkeys(joined[present].tolist())
    ]


def _may_be_shared(alignment: Alignment, index: int) -> bool:
    space = alignment.spaces[index]
    if len(set(space.widths)) > 1:
        return False
    trunks = zip(*alignment.trunk, strict=True)
    for k, (graph, trunk) in enumerate(zip(alignment.graphs, trunks, strict=True)):
        spaces = {int(graph.space_of[channel]) for channel in space.channels[k].tolist()}
        writers = {name for own in spaces for name in graph.spaces[own].writers}
        if not writers <= set(trunk):
            return False
    return True
