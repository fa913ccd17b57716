"""Widening: more channels in a network that computes the same, so that training has room."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmot_pam.graph.channels import ChannelGraph, known_rule
from tfmot_pam.graph.network import Layer, Network
from tfmot_pam.graph.rules import Axes, call_of, seen_config
from tfmot_pam.graph.slicing import Origin
from tfmot_pam.graph.surgery import repeat_channels


def widen(graph: ChannelGraph, times: np.ndarray, seed: int = 0) -> Network:
    """A network with further channels, which nothing uses yet.

    Use it where a trained network has too few channels for what it is to learn, in layers where
    they cost little. A further channel stands next to the one that it is named after and is needed
    by the same tasks. It reads what that one reads, by random weights as large as those of its
    layer; what reads it has weights of 0, so that the network computes the same until it is
    trained. Batch-norm statistics are those of the channel that it is named after.

    Args:
        graph: The channel graph of the network.
        times: For each channel number of the graph, how many there are of it then, at least 1; 1
            for channels that must stay as they are.
        seed: Seed of the random weights.

    Raises:
        ValueError: a channel is to be there less than once, or twice where that cannot be.

    Source: Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, with new features in place of copies.
    """
    wider = repeat_channels(graph, times)
    network, layers = wider.network, {}
    calls = network.calls()
    for place, node in enumerate(network.nodes):
        origin = wider.origins.get(node.name)
        if origin is None or origin.role != "mixing" or node.layer in layers:
            continue
        rule = known_rule(call_of(network, node, calls))
        rng = np.random.default_rng([seed, place])
        layers[node.layer] = _unused(network.layers[node.layer], rule.weights, origin, rng)
    return network.replace(layers={**network.layers, **layers})


def _unused(
    layer: Layer, axes_of: Mapping[str, Axes], origin: Origin, rng: np.random.Generator
) -> Layer:
    """A mixing layer that ignores the copies among its inputs, and computes new outputs."""
    weights = dict(layer.weights)
    for name, axes in axes_of.items():
        weight = weights.get(name)
        if weight is None or (axes.inputs is None and axes.outputs is None):
            continue
        weight = weight.copy()
        if axes.outputs is not None:
            new: list[slice | np.ndarray] = [slice(None)] * weight.ndim
            new[axes.outputs] = _copies(origin.columns.positions)
            scale = float(weight.std()) if axes.inputs is not None else 0.0
            weight[tuple(new)] = rng.normal(scale=scale, size=weight[tuple(new)].shape)
        if axes.inputs is not None:
            read: list[slice | np.ndarray] = [slice(None)] * weight.ndim
            read[axes.inputs] = np.repeat(
                _copies(origin.rows.positions), axes.fanout(seen_config(layer))
            )
            weight[tuple(read)] = 0.0
        weights[name] = weight
    return dataclasses.replace(layer, weights=weights)


def _copies(positions: np.ndarray) -> np.ndarray:
    """Which positions carry the channel that the one before them carries already."""
    return np.r_[False, positions[1:] == positions[:-1]]
