"""Fits the weights of the channels that stay to what the whole network computed."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfmot_pam.closed_form.compensate import Compensation, Known, compensate
from tfmot_pam.graph.channels import ChannelGraph, known_rule
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.slicing import scatter_weights
from tfmot_pam.graph.surgery import remove_channels


def refitted(
    graph: ChannelGraph,
    keep: np.ndarray,
    x: Inputs,
    seed: int = 0,
    known: Known | None = None,
) -> Network:
    """The network with weights that make up for the channels that go.

    Args:
        graph: The network's channel graph.
        keep: Which of the graph's channels stay, bool `[channels]`.
        x: Calibration inputs `[samples, ...]`, from the training split.
        seed: Seed of the choice of samples and places.
        known: Keeps what the network computes on these inputs, for other choices.

    Returns:
        The whole network; only the weights between channels that stay are changed, so that it
        computes the original's pre-activations best once the others are gone.
    """
    network, calls = graph.network, graph.network.calls()
    cut = remove_channels(graph, keep)
    how = Compensation(seed=seed)
    fitted = compensate(cut.network, cut.origins, [network], x, how, known=known)
    layers = dict(network.layers)
    for name, origin in cut.origins.items():
        (source,) = origin.nodes
        if source is None:
            continue
        found = fitted.layer_of(fitted.node(name))
        call, rows, columns = graph.call(network.node(source), calls), origin.rows, origin.columns
        weights = scatter_weights(known_rule(call), call, rows, columns, found.weights)
        config = dict(call.layer.config)
        if "bias" in found.weights and "bias" not in call.layer.weights:
            config["use_bias"] = True
        layers[call.layer.name] = dataclasses.replace(call.layer, config=config, weights=weights)
    return network.replace(layers=layers)
