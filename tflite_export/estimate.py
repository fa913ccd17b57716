"""A rule of thumb for the time that a network takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfmot_pam.graph.network import Network, Node

# XNNPACK, float32, x86-64 with AVX-512, in multiply-accumulates of a convolution. Output channels
# are computed 32 at once; up to 16 cost as much as 23, and 17 to 31, which take two kernels of 16,
# as much as 44. What moving one number costs, and calling one operation (0.8 microseconds). What a
# multiply-accumulate of a depthwise convolution costs, and how much more where its channels do not
# fill the last tile of 16.
_TILE = 32
_ONE_HALF, _TWO_HALVES = 23, 44
_MOVED = 12
_CALLED = 80_000
_DEPTHWISE, _DEPTHWISE_TILE, _REMAINDER = 3, 16, 1.5


def estimated_cost(network: Network) -> float:
    """Estimates the time of a network, in multiply-accumulates of a convolution.

    A layer's output channels count in whole tiles; every number that a Concatenate writes, or an
    Add reads besides the first, counts for the reading and the writing, and so does every call of
    an operation.

    Args:
        network: Any network whose sizes are fixed.
    """
    from tfmot_pam.graph.cost import network_cost

    macs = {layer.name: layer.macs for layer in network_cost(network).per_layer}
    return sum(_cost(network, node, macs.get(node.name, 0)) for node in network.nodes)


def _cost(network: Network, node: Node, macs: int) -> float:
    shape = node.shapes[0]
    if not node.inputs or not shape or None in shape[1:]:
        return 0.0
    kind = network.layer_of(node).kind
    moved = {"Concatenate": 1, "Add": len(node.inputs) - 1}.get(kind, 0)
    width = _depthwise_width if "Depthwise" in kind else _width
    return _CALLED + macs * width(shape[-1]) / shape[-1] + _MOVED * moved * math.prod(shape[1:])


def _width(channels: int) -> float:
    """The output channels that a convolution takes the time for."""
    if channels < _TILE:
        return _ONE_HALF if channels <= _TILE // 2 else _TWO_HALVES
    return math.ceil(channels / _TILE) * _TILE


def _depthwise_width(channels: int) -> float:
    tiled = math.ceil(channels / _DEPTHWISE_TILE) * _DEPTHWISE_TILE
    return _DEPTHWISE * tiled * (1.0 if tiled == channels else _REMAINDER)
