"""Batch-norm statistics, measured anew: what surgery shifts, normalisation shifts back."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.network import Layer, Network, Node
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.graph.runner import Stepper


def reestimated(network: Network, x: Inputs) -> Network:
    """The network with the means and variances that its batch norms see on `x`.

    Layer by layer from the input on, so that each one is measured behind layers that are settled.

    Args:
        network: Any network.
        x: Calibration inputs `[samples, ...]`, from the training split; of several a dict by name.

    Returns:
        The same network with other moving statistics; layers normalising another axis than the
        last one keep theirs.
    """
    running = Stepper(network, x)
    for node in network.nodes:
        layer = network.layer_of(node)
        normalises = computes_like(layer) == "BatchNormalization"
        if normalises and _normalises_channels(layer, network, node):
            value = np.concatenate(running.gather(node.name, lambda span, x: x))
            axes = tuple(range(value.ndim - 1))
            found = {"moving_mean": value.mean(axis=axes), "moving_variance": value.var(axis=axes)}
            weights = {
                name: found.get(name, weight).astype(weight.dtype)
                for name, weight in layer.weights.items()
            }
            running.change(dataclasses.replace(layer, weights=weights))
    layers = {name: running.layer(name) for name in network.layers}
    return network.replace(layers=layers)


def _normalises_channels(layer: Layer, network: Network, node: Node) -> bool:
    axis, rank = layer.config.get("axis", -1), len(network.shape(node.inputs[0]))
    axes = [axis] if isinstance(axis, int) else list(axis)
    return [a % rank for a in axes] == [rank - 1]
