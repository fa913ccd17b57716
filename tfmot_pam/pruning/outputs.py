"""Outputs on a scale on which errors can be compared: before a final softmax or sigmoid."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tfmot_pam.closed_form.linear import LINEAR_FORMS
from tfmot_pam.graph.network import Layer, Network, Tensor, map_tensors

_PROBABILITIES = ("softmax", "sigmoid")


def before_activation(network: Network) -> tuple[Network, list[str]]:
    """The network with its outputs as they are before their last activation.

    Returns:
        The network, and for each of its outputs in order what its activation made of it:
        `"softmax"`, `"sigmoid"`, or `"linear"` for anything else.
    """
    layers, kinds = dict(network.layers), []

    def stripped(tensor: Tensor) -> Tensor:
        node = network.node(tensor.node)
        layer = network.layer_of(node)
        kind = _activation(layer)
        kinds.append(kind if kind in _PROBABILITIES else "linear")
        if layer.kind in LINEAR_FORMS:
            layers[layer.name] = with_activation(layer, "linear")
        return node.inputs[0] if layer.kind in ("Activation", "Softmax") else tensor

    outputs = map_tensors(network.outputs, stripped)
    return network.replace(layers=layers, outputs=outputs), kinds


def with_activation(layer: Layer, activation: Any) -> Layer:
    """The layer with another activation."""
    return dataclasses.replace(layer, config={**layer.config, "activation": activation})


def _activation(layer: Layer) -> Any:
    if layer.kind == "Softmax":
        return "softmax" if layer.config.get("axis", -1) == -1 else None
    return layer.config.get("activation")


def predict(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """All outputs of a model, one after the other."""
    return keras.tree.flatten(model.predict(x, batch_size=64, verbose=0))
