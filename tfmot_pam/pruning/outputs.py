"""Outputs on a scale on which errors can be compared: before a final softmax or sigmoid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfmot_pam.closed_form.linear import linear_form
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.network import Layer, Network, Tensor, iterate_tensors
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.graph.runner import evaluate

_PROBABILITIES = ("softmax", "sigmoid")
# Networks are all but sure of most training inputs; tempered answers let those count as well.
_TEMPERATURE = 2.0


def before_activation(network: Network) -> tuple[Network, list[str]]:
    """The network with its outputs as they are before their last activation.

    Returns:
        The network with a list of outputs, and for each of them what its activation made of it:
        `"softmax"`, `"sigmoid"`, or `"linear"` for anything else.
    """
    layers, kinds = dict(network.layers), []

    def stripped(tensor: Tensor) -> Tensor:
        node = network.node(tensor.node)
        layer = network.layer_of(node)
        kind = _activation(layer)
        kinds.append(kind if kind in _PROBABILITIES else "linear")
        form = linear_form(layer)
        if form is not None and not form.whole:
            layers[layer.name] = with_activation(layer, "linear")
        return node.inputs[0] if computes_like(layer) in ("Activation", "Softmax") else tensor

    outputs = [stripped(tensor) for tensor in iterate_tensors(network.outputs)]
    return network.replace(layers=layers, outputs=outputs), kinds


def with_activation(layer: Layer, activation: Any) -> Layer:
    """The layer with another activation."""
    return dataclasses.replace(layer, config={**layer.config, "activation": activation})


def _activation(layer: Layer) -> Any:
    if computes_like(layer) == "Softmax":
        return "softmax" if layer.config.get("axis", -1) == -1 else None
    return layer.config.get("activation")


def output_values(network: Network, x: Inputs) -> list[np.ndarray]:
    """All outputs of a network, one after the other."""
    outputs = list(iterate_tensors(network.outputs))
    found = evaluate(network, x, outputs)
    return [found[tensor] for tensor in outputs]


def tempered(logits: np.ndarray, kind: str) -> np.ndarray:
    """The answers of an output: probabilities at a higher temperature, or its values.

    Args:
        logits: An output before its activation, `[samples, ..., outputs]`.
        kind: What its activation makes of it, as `before_activation` tells.
    """
    if kind == "softmax":
        exponents = np.exp((logits - logits.max(axis=-1, keepdims=True)) / _TEMPERATURE)
        return exponents / exponents.sum(axis=-1, keepdims=True)
    if kind == "sigmoid":
        return 0.5 + 0.5 * np.tanh(0.5 * logits / _TEMPERATURE)
    return logits


def answers(network: Network, x: Inputs) -> list[np.ndarray]:
    """The tempered answers of all outputs of a network."""
    linear, kinds = before_activation(network)
    found = output_values(linear, x)
    return [tempered(logits, kind) for logits, kind in zip(found, kinds, strict=True)]


def relative_errors(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> list[float]:
    """For each output its mean squared error as a share of the variance of what was wanted."""
    errors = []
    for value, right in zip(found, wanted, strict=True):
        spread = float(np.mean(np.square(right - right.mean(axis=0))))
        errors.append(float(np.mean(np.square(value - right))) / max(spread, 1e-12))
    return errors
