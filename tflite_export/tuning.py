"""Chooses, per combination, which layers are computed in one piece instead of in groups."""

from __future__ import annotations

import math
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.latency import measure_latency
from tflite_export.verify import largest_error

if TYPE_CHECKING:
    import keras

    from tfmot_pam.graph.network import Network

_CUTS = 4
_TOLERANCE = 1e-5
_WORTH = 0.98  # of the time without any lowering; less is noise
_ROUNDS = 5

# Output channels that a kernel computes at once, and, in multiply-accumulates, what moving one
# number and what calling one operation costs (0.8 microseconds): XNNPACK, float32, x86-64 with AVX.
_TILE = 16
_MOVED = 64
_CALLED = 80_000


def tune_estimate(networks: Sequence[Network], convert: Callable[[Network], bytes]) -> Network:
    """Chooses by a rule of thumb (see `estimated_cost`).

    Args:
        networks: What `candidates` returned.
        convert: Not used.
    """
    del convert
    return min(networks, key=estimated_cost)


def tune_measure(networks: Sequence[Network], convert: Callable[[Network], bytes]) -> Network:
    """Chooses by timing the files of all candidates on this machine, one thread, in turn.

    Args:
        networks: What `candidates` returned; the first is the network as it is.
        convert: Returns the TFLite file of a network.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, f"{index}.tflite") for index in range(len(networks))]
        for path, network in zip(paths, networks, strict=True):
            path.write_bytes(convert(network))
        rounds = [[measure_latency(path) for path in paths] for _ in range(_ROUNDS)]
    times = np.min(rounds, axis=0)
    best = int(np.argmin(times))
    return networks[best if times[best] < _WORTH * times[0] else 0]


# By name: chooses one of several networks that compute the same, given their conversion.
TUNINGS: dict[str, Callable[[Sequence[Network], Callable[[Network], bytes]], Network] | None] = {
    "none": None,
    "estimate": tune_estimate,
    "measure": tune_measure,
}


def candidates(network: Network) -> list[Network]:
    """Returns a network as it is, and with several of its first or last grouped layers fused.

    Args:
        network: The network of a combination.

    Returns:
        At most ten networks that compute the same outputs.
    """
    # Here and not above: running and measuring files shall not load Keras.
    from tflite_export.lowering import CannotFuseError, fusable_levels, fuse

    levels = fusable_levels(network)
    cuts = sorted(set(np.linspace(0, len(levels), _CUTS + 1).round().astype(int).tolist()))
    choices = [levels[:cut] for cut in cuts] + [levels[cut:] for cut in cuts]
    found, seen = [network], {()}
    for chosen in choices:
        if tuple(chosen) in seen:
            continue
        seen.add(tuple(chosen))
        try:
            found.append(fuse(network, chosen))
        except CannotFuseError:
            continue
    return found


def estimated_cost(network: Network) -> float:
    """Estimates the time of a network, in multiply-accumulates.

    A layer's output channels count in whole tiles, every number that a Concatenate writes counts
    for the reading and the writing, and so does every call of an operation.

    Args:
        network: Any network whose sizes are fixed.
    """
    from tfmot_pam.graph.cost import network_cost

    per_node = {layer.name: layer.macs for layer in network_cost(network).per_layer}
    total = 0.0
    for node in network.nodes:
        shape = node.shapes[0]
        if not node.inputs or not shape or None in shape[1:]:
            continue
        total += _CALLED
        tiles = math.ceil(shape[-1] / _TILE) * _TILE / shape[-1]
        total += per_node.get(node.name, 0) * tiles
        if network.layer_of(node).kind == "Concatenate":
            total += _MOVED * math.prod(shape[1:])
    return total


def equivalent(network: keras.Model, inputs: np.ndarray, expected: dict[str, np.ndarray]) -> bool:
    """Tells whether a lowered model's outputs are within 1e-5 of what they were.

    Args:
        network: The lowered model, with a dict of outputs.
        inputs: Inputs of shape `(n, ...)`.
        expected: The outputs before lowering, at least those of the model.
    """
    outputs = network(inputs, training=False)
    return all(
        largest_error(np.asarray(values), expected[task]) <= _TOLERANCE
        for task, values in outputs.items()
    )
