"""Where channels go that layers pick or move by their places: splits, slices, channel shuffles.

A reshape that takes the channels apart spreads them over several axes, and a transposition brings
them to others; where they are on the last axis again, every position is known. Such layers carry
no weights, so that they can be written anew for the channels that are left.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tfmot_pam.graph.network import Shape, Tensor
from tfmot_pam.graph.rules import Call, is_keras_class
from tfmot_pam.graph.space_rules import key_of, order_of


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """Where the channels of one tensor are in another one.

    Args:
        source: The tensor before, whose last axis carries the channels.
        positions: For each entry, the position on that axis; the samples' axis is left out, and
            axes along which nothing changes have the size 1.
        picked: Whether it is the source's channels at `positions`, place by place.
    """

    source: Tensor
    positions: np.ndarray
    picked: bool

    def sizes(self, kept: np.ndarray, shape: Shape) -> tuple[int | None, ...] | None:
        """The sizes of what is left, the samples' axis left out; None if it has gaps.

        Args:
            kept: The positions on the source's last axis that are left.
            shape: The whole tensor's shape.
        """
        inside, sizes = np.isin(self.positions, kept), []
        left: np.ndarray = np.array(True)
        for axis, size in enumerate(shape[1:]):
            others = tuple(a for a in range(inside.ndim) if a != axis)
            along = np.asarray(inside.any(axis=others))
            left = left[..., None] & along
            sizes.append(size if len(along) == 1 else int(along.sum()))
        return tuple(sizes) if np.array_equal(left, inside) else None


def may_rearrange(call: Call) -> bool:
    """Whether a call is of a kind that may pick channels or move them to other axes."""
    return call.layer.kind in (*_PICKS, *_MOVES) and is_keras_class(call.layer.cls)


def moves_axes(call: Call) -> bool:
    """Whether a call is of a kind that moves channels to other axes, and does nothing else."""
    return call.layer.kind in _MOVES


# --- what picks channels, by the layers' classes -------------------------------------------------


def picked_positions(call: Call) -> list[np.ndarray] | None:
    """For each output of a call the positions of its channels in the input; None of other calls."""
    pick = _PICKS.get(call.layer.kind) if may_rearrange(call) else None
    shape = call.in_shapes[0] if len(call.in_shapes) == 1 else None
    if pick is None or shape is None or len(shape) < 2 or shape[-1] is None:
        return None
    return pick(call, np.arange(shape[-1]))


_Pick = Callable[[Call, np.ndarray], list[np.ndarray] | None]


def _along_channels(call: Call) -> bool:
    axis, rank = call.config.get("axis"), len(call.in_shape)
    return axis is not None and np.atleast_1d(axis).tolist() in ([-1], [rank - 1])


def _split(call: Call, positions: np.ndarray) -> list[np.ndarray]:
    parts = call.config["indices_or_sections"]
    if _along_channels(call):
        return np.split(positions, parts)
    return [positions] * (parts if np.ndim(parts) == 0 else len(parts) + 1)


def _indexed(call: Call, positions: np.ndarray) -> list[np.ndarray] | None:
    key = key_of(call)
    if key is None or not isinstance(key[-1], slice) or key[0] != slice(None):
        return None
    return [positions[key[-1]]]


def _taken(call: Call, positions: np.ndarray) -> list[np.ndarray] | None:
    args, kwargs = call.node.args, call.node.kwargs
    indices = args[1] if len(args) > 1 else kwargs.get("indices")
    if indices is None or not _along_channels(call) or np.ndim(indices) != 1:
        return None
    return [positions[np.asarray(indices, int)]]


def _by(function: Callable[[Call, np.ndarray], np.ndarray]) -> _Pick:
    """Of operations that do one thing along one axis."""

    def pick(call: Call, positions: np.ndarray) -> list[np.ndarray] | None:
        return [function(call, positions)] if _along_channels(call) else None

    return pick


def _tiled(call: Call, positions: np.ndarray) -> list[np.ndarray] | None:
    *others, last = np.atleast_1d(call.config["repeats"]).tolist()
    if len(others) >= len(call.in_shape) or any(one != 1 for one in others):
        return None
    return [np.tile(positions, last)]


_PICKS: Mapping[str, _Pick] = MappingProxyType(
    {
        "Split": _split,
        "GetItem": _indexed,
        "Take": _taken,
        "Tile": _tiled,
        "Flip": _by(lambda call, positions: positions[::-1]),
        "Roll": _by(lambda call, positions: np.roll(positions, np.sum(call.config["shift"]))),
        "Repeat": _by(lambda call, positions: np.repeat(positions, call.config["repeats"])),
    }
)


# --- what moves channels to other axes -----------------------------------------------------------


def moved_entries(call: Call, entries: np.ndarray | None = None) -> np.ndarray | None:
    """What a call that moves axes makes of a tensor; None of other calls, or where sizes are open.

    Args:
        call: The call.
        entries: What it reads, without the samples' axis; None numbers the entries of its input.
    """
    move = _MOVES.get(call.layer.kind) if may_rearrange(call) else None
    shapes = (*call.in_shapes, call.out_shape)
    if move is None or len(shapes) != 2 or any(s is None or None in s[1:] for s in shapes):
        return None
    shape, wanted = shapes[0][1:], call.out_shape[1:]
    if entries is None:
        entries = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    result = move(call, entries)
    return result if result is not None and result.shape == wanted else None


def _transposed(call: Call, entries: np.ndarray) -> np.ndarray | None:
    first, *order = order_of(call)
    return np.transpose(entries, [axis - 1 for axis in order]) if first == 0 else None


def _reshaped(call: Call, entries: np.ndarray) -> np.ndarray | None:
    shape = call.out_shape[1:]
    return entries.reshape(shape) if math.prod(shape) == entries.size else None


_MOVES: Mapping[str, Callable[[Call, np.ndarray], np.ndarray | None]] = MappingProxyType(
    {
        **dict.fromkeys(("Permute", "Transpose", "Swapaxes", "Moveaxis"), _transposed),
        # An axis of size 1 that is named is of that size whatever is left of the others.
        **dict.fromkeys(("Reshape", "ExpandDims"), _reshaped),
        "Squeeze": lambda call, entries: (
            None if call.config.get("axis") is None else _reshaped(call, entries)
        ),
    }
)


def placed(entries: np.ndarray, source: Tensor, shape: Shape) -> Placed:
    """Where the channels of a tensor are, by the entries of its source that it holds.

    Args:
        entries: The number of each entry in the source, row by row, without the samples' axis.
        source: The tensor that they come from.
        shape: The source's shape.
    """
    width = shape[-1]
    positions = entries % width
    for axis, size in enumerate(positions.shape):
        first = np.take(positions, [0], axis=axis)
        if size > 1 and np.array_equal(np.broadcast_to(first, positions.shape), positions):
            positions = first
    alike = entries.ndim == len(shape) - 1 and entries.shape[:-1] == tuple(shape[1:-1])
    if not alike or math.prod(positions.shape[:-1]) > 1:
        return Placed(source, positions, False)
    places = np.arange(math.prod(shape[1:-1])).reshape(shape[1:-1])
    if not np.array_equal(entries // width, np.broadcast_to(places[..., None], entries.shape)):
        return Placed(source, positions, False)
    return Placed(
        source, np.broadcast_to(positions, (*positions.shape[:-1], entries.shape[-1])), True
    )


def columns_of(entries: np.ndarray, width: int) -> np.ndarray | None:
    """The place on a tensor's last axis of each of its source's positions.

    Args:
        entries: The number of each of the tensor's entries in the source.
        width: Number of the source's channels.

    Returns:
        The places; None where one position is at several of them, or all are at one.
    """
    if entries.shape[-1] == 1:
        return None
    columns = np.full(width, -1)
    positions = (entries % width).reshape(-1, entries.shape[-1])
    for column, own in enumerate(positions.T):
        own = np.unique(own)
        if np.any(columns[own] >= 0):
            return None
        columns[own] = column
    return None if np.any(columns < 0) else columns


def along_one_axis(values: np.ndarray) -> bool:
    """Whether an array changes along one of its axes at most."""
    changing = [
        axis for axis in range(values.ndim) if np.any(values != np.take(values, [0], axis=axis))
    ]
    return len(changing) <= 1


def spatial_key(call: Call) -> tuple[Any, ...] | None:
    """What is left of the indices of a call where channels are picked apart from it, or None."""
    key = key_of(call) if call.layer.kind == "GetItem" else None
    if key is None or all(entry == slice(None) for entry in key[:-1]):
        return None
    return (*key[:-1], slice(None))
