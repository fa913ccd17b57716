"""Rules of what moves, repeats or picks places of a tensor and leaves its channels in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from tfmot_pam.graph.rules import Call, LayerRule

_MOVED = "it moves the channels to another axis"
_PICKED = "it picks, repeats or reorders channels by their places"


def with_sizes(config: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """The configuration of a `Reshape`, layer or operation, to other sizes of a sample."""
    if "target_shape" in config:
        return {**config, "target_shape": tuple(sizes)}
    return {**config, "newshape": (-1, *sizes)}


def key_of(call: Call) -> tuple[Any, ...] | None:
    """What a tensor is indexed with, one entry an axis; None of more than numbers and slices."""
    key = call.node.args[1] if len(call.node.args) > 1 else call.node.kwargs.get("key")
    key = key if isinstance(key, tuple) else (key,)
    if any(not isinstance(entry, (int, slice, type(...))) for entry in key):
        return None
    missing = len(call.in_shape) - sum(entry is not ... for entry in key)
    if ... in key:
        place = key.index(...)
        return (*key[:place], *[slice(None)] * missing, *key[place + 1 :])
    return (*key, *[slice(None)] * missing)


def order_of(call: Call) -> tuple[int, ...]:
    """Which axis of its input each axis of a transposition's output is."""
    config, axes = call.config, list(range(len(call.in_shape)))
    if call.layer.kind == "Permute":
        return (0, *config["dims"])
    if call.layer.kind == "Transpose":
        found = config.get("axes")
        return tuple(axes[::-1] if found is None else (axes[axis] for axis in found))
    first, second = ("axis1", "axis2") if call.layer.kind == "Swapaxes" else _MOVING_AXES
    move = np.swapaxes if call.layer.kind == "Swapaxes" else np.moveaxis
    # The sizes of an array that has none but them: what its axes were.
    return move(np.empty(axes), config[first], config[second]).shape


_MOVING_AXES = ("source", "destination")


def _order_check(call: Call) -> str | None:
    order = order_of(call)
    return None if (order[0], order[-1]) == (0, len(order) - 1) else _MOVED


def _key_check(call: Call) -> str | None:
    key = key_of(call)
    whole = key is not None and key[-1] in (slice(None), slice(0, None), slice(None, None, 1))
    return None if whole else _PICKED


def _axes_check(call: Call) -> str | None:
    """Of operations along some axes, of which none means all."""
    axis, rank = call.config.get("axis"), len(call.in_shape)
    axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    return _PICKED if any(a % rank == rank - 1 for a in axes) else None


def _tile_check(call: Call) -> str | None:
    repeats = call.config["repeats"]
    last = repeats if isinstance(repeats, int) else repeats[-1]
    return None if last == 1 else _PICKED


def _pad_check(call: Call) -> str | None:
    pads = np.broadcast_to(call.config["pad_width"], (len(call.in_shape), 2))
    return _PICKED if pads[-1].any() else None


def _squeeze_check(call: Call) -> str | None:
    if call.config.get("axis") is None:
        return "it may drop the channels' axis"
    return _MOVED if _axes_check(call) else None


def _new_axis_check(call: Call) -> str | None:
    """Of operations that add an axis: it must not follow the channels."""
    axis, rank = call.config["axis"], len(call.in_shape) + 1
    axes = [axis] if isinstance(axis, int) else axis
    return _MOVED if any(a % rank == rank - 1 for a in axes) else None


def _format_check(call: Call) -> str | None:
    if call.config.get("data_format") == "channels_first":
        return "its data format is channels_first"
    return None


def _to_space_sources(call: Call, in_width: int) -> np.ndarray:
    """Each channel comes from one position for every place of a block."""
    return np.arange(in_width).reshape(call.config["block_size"] ** 2, -1).T


def _to_depth_sources(call: Call, in_width: int) -> np.ndarray:
    return np.tile(np.arange(in_width), call.config["block_size"] ** 2)


def _keeps(check: Callable[[Call], str | None]) -> LayerRule:
    return LayerRule("channelwise", check=check)


def _table() -> dict[str, LayerRule]:
    table = dict.fromkeys(("Permute", "Transpose", "Swapaxes", "Moveaxis"), _keeps(_order_check))
    table |= dict.fromkeys(("Flip", "Roll", "Repeat", "Take"), _keeps(_axes_check))
    return table | {
        "GetItem": _keeps(_key_check),
        "Tile": _keeps(_tile_check),
        "Pad": _keeps(_pad_check),
        "RepeatVector": LayerRule("channelwise"),
        "Squeeze": _keeps(_squeeze_check),
        "ExpandDims": _keeps(_new_axis_check),
        "Stack": LayerRule("join", check=_new_axis_check),
        "DepthToSpace": LayerRule("channelwise", check=_format_check, sources=_to_space_sources),
        "SpaceToDepth": LayerRule("channelwise", check=_format_check, sources=_to_depth_sources),
    }


SPACE_RULES: Mapping[str, LayerRule] = MappingProxyType(_table())
