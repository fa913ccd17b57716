"""Assembly: the merged network of aligned networks and the task sets of their channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfmot_pam.graph.likeness import are_alike
from tfmot_pam.graph.network import Network, map_tensors
from tfmot_pam.graph.slicing import Origin
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.building import Building, Calls
from tfmot_pam.merging.grouping import Grouping, with_identical_once
from tfmot_pam.merging.pieces import COMMON
from tfmot_pam.merging.roles import WRITERS


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """A merged network and the origin of each of its nodes that has weights."""

    network: Network
    origins: Mapping[str, Origin]


def assemble(
    alignment: Alignment, grouping: Grouping, name: str = "merged", *, own_width: bool = False
) -> Assembly:
    """Builds the merged network, with trained weights within networks and zeros across them.

    Args:
        alignment: The aligned networks.
        grouping: The task set of every channel.
        name: The merged network's name.
        own_width: Whether a group reads the input through one network's preprocessing only, that
            of most of its channels. Several are several times as wide.

    Returns:
        The assembly; its network's outputs are a dict by task.

    Raises:
        IrregularLayout: tensors that are added carry their channels in different orders.
        ValueError: a group would have no input that it may read.
    """
    building = Building(alignment, grouping, own_width)
    _write_trunk(building)
    outputs = {task: _write_head(building, index) for index, task in enumerate(alignment.tasks)}
    return Assembly(building.network(name, outputs), building.writer.origins)


def assemble_anew(alignment: Alignment, grouping: Grouping) -> Assembly:
    """Writes one network of several tasks in other groups; its weights stay.

    Args:
        alignment: The network, `alone`.
        grouping: The task set of each of its channels, and which become one.

    Raises:
        IrregularLayout: tensors that are added carry channels of different task sets.
        ValueError: a group would have no input that it may read.
    """
    (network,) = alignment.networks
    building = Building(alignment, with_identical_once(alignment, grouping), own_width=False)
    _write_trunk(building)
    outputs = map_tensors(network.outputs, lambda tensor: building.whole(0, tensor))
    return Assembly(building.network(network.name, outputs), building.writer.origins)


def _write_trunk(building: Building) -> None:
    for names in building.alignment.trunk:
        _write(building, dict(enumerate(names)))


def _write_head(building: Building, index: int) -> Any:
    """Writes what one network has behind the trunk, and returns its outputs."""
    building.values[index] = {
        tensor: [
            piece
            for piece in pieces
            if piece.mask >> index & 1 and piece.given in (None, COMMON, index)
        ]
        for tensor, pieces in building.values[index].items()
    }
    for node in building.alignment.head(index):
        _write(building, {index: node})
    outputs = building.alignment.networks[index].outputs
    return map_tensors(outputs, lambda tensor: building.whole(index, tensor))


def _write(building: Building, names: Mapping[int, str]) -> None:
    """Writes the merged nodes of corresponding nodes, by the networks that take part."""
    lead, name = next(iter(names.items()))
    role = building.alignment.graphs[lead].roles[name]
    calls = {k: building.alignment.call(k, name) for k, name in names.items()}
    if role == "join" and (building.is_frozen(calls) or _is_own_input(building, calls)):
        role = "copied"
    WRITERS[role](building, calls)


def _is_own_input(building: Building, calls: Calls) -> bool:
    """Whether the networks' own preprocessings of the input, not alike, are combined."""
    given = {piece.given for piece in building.input_pieces(calls)}
    return None not in given and (given != {COMMON} or not are_alike(list(calls.values())))
