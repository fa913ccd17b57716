"""The weights of rewritten layers: those of the old ones at their places, neutral elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfmot_pam.graph.rules import Call, LayerRule


class CannotLowerError(ValueError):
    """Some layer reads channels in a way that would need them as they were."""


def embedded(
    rule: LayerRule,
    name: str,
    calls: Sequence[Call],
    reads: Sequence[np.ndarray],
    writes: Sequence[np.ndarray],
    in_width: int,
    out_width: int,
    *,
    hollow: bool = False,
) -> np.ndarray:
    """A weight of a layer that computes several calls: theirs at their channels.

    Args:
        rule: The rule of all calls.
        name: The weight's name.
        calls: Calls of layers that differ in their widths alone.
        reads: For each call the positions of its input channels.
        writes: For each call the positions of its output channels.
        in_width: Number of input channels of the new layer.
        out_width: Number of its output channels.
        hollow: Whether its shape is all that matters: the entries then are 0 and take no memory.

    Raises:
        CannotLowerError: The weight cannot be taken apart by channels.
    """
    axes, first = rule.weights.get(name), calls[0].layer.weights[name]
    if axes is None:
        if any(not np.array_equal(first, call.layer.weights[name]) for call in calls):
            raise CannotLowerError(f"The weight '{name}' does not depend on channels.")
        return first
    config = calls[0].config
    shape = axes.resized(first.shape, config, in_width, out_width)
    if hollow:
        return np.broadcast_to(np.zeros((), first.dtype), shape)
    wide = np.full(shape, axes.fill, first.dtype)
    for call, read, written in zip(calls, reads, writes, strict=True):
        wide[axes.index(shape, config, read, written)] = call.layer.weights[name]
    return wide


def moved(sources: np.ndarray, positions: np.ndarray, wide: np.ndarray) -> np.ndarray:
    """Where the outputs of a channelwise layer are among those of a wider one.

    An input channel may have several outputs (one per place after flattening); they are in the
    same order in both.

    Args:
        sources: The input channel of each output of the old layer.
        positions: Where the old layer's input channels are among those of the new one.
        wide: The input channel of each output of the new layer.
    """
    order = np.argsort(wide, kind="stable").reshape(wide.max() + 1, -1)
    by_source = np.argsort(sources, kind="stable").reshape(sources.max() + 1, -1)
    occurrence = np.empty(len(sources), int)
    occurrence[by_source] = np.arange(by_source.shape[1])
    return order[positions[sources], occurrence]
