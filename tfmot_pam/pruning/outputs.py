"""Outputs on a scale on which errors can be compared: before a final softmax or sigmoid."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from tfmot_pam.closed_form.linear import LINEAR_FORMS
from tfmot_pam.graph.network import Network, iterate_tensors


def before_activation(network: Network) -> Network:
    """The network with linear outputs, where a layer's own activation makes them otherwise."""
    layers = dict(network.layers)
    for tensor in iterate_tensors(network.outputs):
        layer = layers[network.node(tensor.node).layer]
        if layer.kind in LINEAR_FORMS:
            config = {**layer.config, "activation": "linear"}
            layers[layer.name] = dataclasses.replace(layer, config=config)
    return network.replace(layers=layers)


def predict(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """All outputs of a model, one after the other."""
    return keras.tree.flatten(model.predict(x, batch_size=64, verbose=0))
