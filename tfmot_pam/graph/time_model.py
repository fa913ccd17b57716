"""A model of the time that a network takes in a TFLite file, one thread."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.network import Network, Shape

# `cost(kind, inputs, shape, macs)` of one call of a layer, as `call_time` has it.
CallCost = Callable[[str, int, Shape, float], float]

# XNNPACK, float32, x86-64 with AVX-512, in multiply-accumulates of a convolution whose tiles are
# full (0.021 ns), fitted to files of some 300 networks; `benchmarks.time_model_benchmark` checks
# them. Output channels are computed 32 at once, or 16 where there are no more. What calling one
# operation costs, what moving one number costs, and pooling to one. What a multiply-accumulate of a
# depthwise convolution costs, and how much more where its channels do not fill the last tile of 16.
_TILE = 32
_CALLED = 13_000
_MOVED, _POOLED = 15, 17
_DEPTHWISE, _DEPTHWISE_TILE, _REMAINDER = 2, 16, 1.25
MOST_GROWTH = 1.5  # of parameters, for what computes the same in less time
# What the converter computes within the layer before it, or not at all. A normalisation that
# follows no layer of weights does cost something, which is left out.
_FOLDED = frozenset(
    {
        "Activation",
        "ActivityRegularization",
        "AlphaDropout",
        "BatchNormalization",
        "Dropout",
        "GaussianDropout",
        "GaussianNoise",
        "ReLU",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
    }
)


def estimated_time(network: Network) -> float:
    """Estimates the time of a network, in multiply-accumulates of a convolution.

    A layer's output channels count in whole tiles; every number that a Concatenate or a pooling
    layer writes, or an Add reads besides the first, counts, and so does every call of an operation.
    What the converter folds into the layer before costs nothing.

    Args:
        network: Any network whose sizes are fixed.
    """
    return sum(node_times(network).values())


def rating(time: float, parameters: float) -> float:
    """What of several ways to compute the same is to be low: 1 % of time for 2 % of parameters."""
    return time * parameters**0.5


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
    if kind in _FOLDED:
        return 0.0
    moved = {"Concatenate": 1, "Add": inputs - 1}.get(kind, 0) * _MOVED
    if kind.startswith(("MaxPooling", "AveragePooling")):
        moved = _POOLED
    width = _depthwise_width if "Depthwise" in kind else _width
    return _CALLED + macs * width(shape[-1]) / shape[-1] + moved * math.prod(shape[1:])


def narrower(channels: int) -> int:
    """The largest width that takes less time than `channels`; 0 where there is none but nothing."""
    if channels > _TILE:
        return (channels - 1) // _TILE * _TILE
    return _TILE // 2 if channels > _TILE // 2 else 0


def _width(channels: int) -> int:
    """The output channels that a convolution takes the time for."""
    half = _TILE // 2
    return half if channels <= half else math.ceil(channels / _TILE) * _TILE


def _depthwise_width(channels: int) -> float:
    tiled = math.ceil(channels / _DEPTHWISE_TILE) * _DEPTHWISE_TILE
    return _DEPTHWISE * tiled * (1.0 if tiled == channels else _REMAINDER)
