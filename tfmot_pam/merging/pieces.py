"""Pieces: what a tensor of the networks has become in the merged network."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.slicing import Layout

COMMON = -1  # In a layout: the channel is the same in every network.


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """The channels of one tensor that have one task set, as a tensor of the merged network.

    Args:
        tensor: The merged network's tensor.
        mask: The task set.
        layout: Which original channels it carries.
        given: For channels of the network's input: `COMMON` as long as they are the same for all
            networks, the network whose own preprocessing they went through otherwise. None for
            channels that a layer wrote.
    """

    tensor: Tensor
    mask: int
    layout: Layout
    given: int | None = None

    @property
    def width(self) -> int:
        return len(self.layout)


def copies(piece: Piece, columns: Layout) -> list[Piece]:
    """Channels that several networks have, once for each of those that read them for themselves.

    Where channels became one they are read once by all: what each network did to them becomes one,
    too.
    """
    layout, nets = piece.layout, sorted(columns.owners())
    if columns.fused or (layout.fused and len(nets) > 1):
        alike = columns.owned_alike() and piece.given != COMMON
        views = [_read_by(layout, nets) if alike else layout]
    elif piece.given == COMMON:
        views = [layout.owned_by(net) for net in nets]
    else:
        several = layout.others or layout.fused
        views = [layout.seen_by(net) for net in nets if several and layout.of(net).any()]
    return [dataclasses.replace(piece, layout=view) for view in views or [layout]]


def _read_by(layout: Layout, nets: list[int]) -> Layout:
    """A layout as some networks see it; what none of them has stays as it is."""
    seen = layout.seen_by(*nets)
    foreign = ~np.any([layout.of(net) for net in nets], axis=0)
    return dataclasses.replace(
        seen,
        nets=np.where(foreign, layout.nets, seen.nets),
        positions=np.where(foreign, layout.positions, seen.positions),
    )


def merge_columns(columns: Mapping[int, tuple[np.ndarray, np.ndarray]], mask: int) -> Layout:
    """One group's output channels: by part of the space, then by network, then by position."""
    nets, positions, parts = [], [], []
    for k, (masks, segments) in columns.items():
        own = np.flatnonzero(masks == mask)
        nets.append(np.full(len(own), k))
        positions.append(own)
        parts.append(segments[own])
    order = np.argsort(np.concatenate(parts), kind="stable")
    return Layout(np.concatenate(nets)[order], np.concatenate(positions)[order])


def seen_by_others(layout: Layout, numbers: Mapping[int, np.ndarray]) -> Layout:
    """A layout with the positions at which other networks have the same channels.

    Args:
        layout: Channels of one tensor, each of one network.
        numbers: For each network, numbers of the tensor's channels there, the same where channels
            of several networks are the same.
    """
    own = [
        int(numbers[net][position])
        for net, position in zip(layout.nets.tolist(), layout.positions.tolist(), strict=True)
    ]
    others = {}
    for k, found in numbers.items():
        places = {number: place for place, number in enumerate(found.tolist())}
        here = np.array([places.get(number, -1) for number in own], int)
        here[layout.nets == k] = -1
        if np.any(here >= 0):
            others[k] = here
    return dataclasses.replace(layout, others=others)


def with_fused(
    layout: Layout, numbers: Mapping[int, np.ndarray], labels: Mapping[int, np.ndarray]
) -> Layout:
    """A layout with the positions of the channels that were fused into its own ones.

    Args:
        layout: Channels of one tensor, each of one network.
        numbers: For each network, numbers of the tensor's channels there, the same where channels
            become one.
        labels: For each network, the channel at each position there. Of channels that are at
            several positions the first belongs to the first, and so on.
    """
    members: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    place_of: dict[tuple[int, int], tuple[int, int]] = {}
    for k, found in numbers.items():
        times: Counter = Counter()
        for position, key in enumerate(zip(found.tolist(), labels[k].tolist(), strict=True)):
            place_of[k, position] = (key[0], times[key])
            members[place_of[k, position]].append((k, position))
            times[key] += 1
    fused: dict[tuple[int, int], np.ndarray] = {}
    for column, own in enumerate(zip(layout.nets.tolist(), layout.positions.tolist(), strict=True)):
        known = {own, *((net, int(found[column])) for net, found in layout.others.items())}
        count: Counter = Counter()
        for net, position in members[place_of[own]]:
            if (net, position) not in known:
                key = (net, count[net])
                fused.setdefault(key, np.full(len(layout), -1))[column] = position
                count[net] += 1
    return dataclasses.replace(layout, fused=fused)
