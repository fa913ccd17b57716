"""A model of the time that a network takes in a TFLite file, one thread."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.network import Network, Shape

# `cost(kind, inputs, shape, macs)` of one call of a layer, as `call_time` has it.
CallCost = Callable[[str, int, Shape, float], float]

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


def estimated_time(network: Network) -> float:
    """Estimates the time of a network, in multiply-accumulates of a convolution.

    A layer's output channels count in whole tiles; every number that a Concatenate writes, or an
    Add reads besides the first, counts for the reading and the writing, and so does every call of
    an operation.

    Args:
        network: Any network whose sizes are fixed.
    """
    return sum(node_times(network).values())


def node_times(network: Network) -> dict[str, float]:
    """The estimated time of each node, in multiply-accumulates of a convolution."""
    return node_costs(network, call_time)


def node_costs(network: Network, call_cost: CallCost) -> dict[str, float]:
    """The cost of each node by a cost of calls; 0 for inputs and where sizes are not fixed."""
    macs = {layer.name: layer.macs for layer in network_cost(network).per_layer}
    costs = {}
    for node in network.nodes:
        inputs, shape = len(node.inputs), node.shapes[0]
        kind = network.layer_of(node).kind
        known = is_known(inputs, shape)
        costs[node.name] = call_cost(kind, inputs, shape, macs.get(node.name, 0)) if known else 0.0
    return costs


def is_known(inputs: int, shape: Shape | None) -> bool:
    """Whether a node reads tensors and writes one whose size is fixed."""
    return bool(inputs and shape and None not in shape[1:])


def checked_cost(call_cost: CallCost) -> CallCost:
    """A user's cost of calls, of which only finite numbers of at least 0 are taken."""

    def cost(kind: str, inputs: int, shape: Shape, macs: float) -> float:
        found = call_cost(kind, inputs, shape, macs)
        if not isinstance(found, numbers.Real) or not 0 <= found < math.inf:
            raise ValueError(
                f"The function `measure` gives {found!r} for a {kind} of {inputs} inputs, output "
                f"shape {shape} and {macs} MACs. Expected a number of at least 0."
            )
        return float(found)

    return cost


def call_time(kind: str, inputs: int, shape: Shape, macs: float) -> float:
    """Estimates the time of one call of a layer, in multiply-accumulates of a convolution.

    Args:
        kind: The layer's class.
        inputs: The number of tensors that it reads.
        shape: The shape of what it writes, the batch dimension first.
        macs: Its multiply-accumulates.
    """
    moved = {"Concatenate": 1, "Add": inputs - 1}.get(kind, 0)
    width = _depthwise_width if "Depthwise" in kind else _width
    return _CALLED + macs * width(shape[-1]) / shape[-1] + _MOVED * moved * math.prod(shape[1:])


def narrower(channels: int) -> int:
    """The largest width that takes less time than `channels`; 0 where there is none but nothing."""
    if channels > _TILE:
        return (channels - 1) // _TILE * _TILE
    return _TILE // 2 if channels > _TILE // 2 else 0


def _width(channels: int) -> float:
    """The output channels that a convolution takes the time for."""
    if channels < _TILE:
        return _ONE_HALF if channels <= _TILE // 2 else _TWO_HALVES
    return math.ceil(channels / _TILE) * _TILE


def _depthwise_width(channels: int) -> float:
    tiled = math.ceil(channels / _DEPTHWISE_TILE) * _DEPTHWISE_TILE
    return _DEPTHWISE * tiled * (1.0 if tiled == channels else _REMAINDER)
