"""Batch normalisation folded into the layer before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmot_pam.graph.levels import usable_rule
from tfmot_pam.graph.network import (
    Layer,
    Network,
    Node,
    Tensor,
    iterate_tensors,
    map_tensors,
    prune_to,
)
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.graph.rule_table import activation_name


def fold_batch_norm(network: Network) -> Network:
    """Moves the scale and shift of batch normalisations into the layers before them.

    Args:
        network: Any network, for inference.

    Returns:
        A network that computes the same outputs, up to rounding, without those normalisations
        that alone read the output of a linear layer with a kernel.
    """
    calls, readers = network.calls(), network.readers()
    written = set(iterate_tensors(network.outputs))
    folded: dict[str, Layer] = {}
    replaced: dict[Tensor, Tensor] = {}
    for node in network.nodes:
        if computes_like(network.layer_of(node)) != "BatchNormalization" or len(node.inputs) != 1:
            continue
        (tensor,) = node.inputs
        before = network.node(tensor.node)
        alone = readers[tensor] == (node.name,) and tensor not in written
        if alone and usable_rule(network, node, calls) and _linear(network, before, calls):
            folded[before.layer] = _folded(
                network.layer_of(before), network.layer_of(node), before.shapes[0][-1]
            )
            replaced[Tensor(node.name)] = tensor

    def moved(tensor: Tensor) -> Tensor:
        return replaced.get(tensor, tensor)

    nodes = tuple(
        dataclasses.replace(
            node, args=map_tensors(node.args, moved), kwargs=map_tensors(node.kwargs, moved)
        )
        for node in network.nodes
    )
    layers = {**network.layers, **folded}
    outputs = map_tensors(network.outputs, moved)
    return prune_to(network.replace(layers=layers, nodes=nodes), outputs)


def _linear(network: Network, node: Node, calls: Mapping[str, int]) -> bool:
    """Whether a node computes sums of its inputs with a kernel and nothing else."""
    layer, rule = network.layer_of(node), usable_rule(network, node, calls)
    return (
        rule is not None
        and rule.frozen is None
        and computes_like(layer) != ""
        and "use_bias" in layer.config
        and any(name in layer.weights for name in ("kernel", "pointwise_kernel"))
        and activation_name(layer.config) == "linear"
    )


def _folded(layer: Layer, norm: Layer, width: int) -> Layer:
    """The layer that computes `norm(layer(x))`."""
    weights = norm.weights
    gamma = weights.get("gamma", np.ones(width, np.float32))
    beta = weights.get("beta", np.zeros(width, np.float32))
    scale = gamma / np.sqrt(weights["moving_variance"] + norm.config["epsilon"])
    name = "pointwise_kernel" if "pointwise_kernel" in layer.weights else "kernel"
    bias = layer.weights.get("bias", np.zeros(width, np.float32))
    return dataclasses.replace(
        layer,
        config={**layer.config, "use_bias": True},
        weights={
            **layer.weights,
            name: _scaled(layer, layer.weights[name], scale),
            "bias": ((bias - weights["moving_mean"]) * scale + beta).astype(np.float32),
        },
    )


def _scaled(layer: Layer, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A kernel whose output channels are scaled, wherever its axes have them."""
    if "Depthwise" in computes_like(layer):
        factors = scale.reshape(kernel.shape[-2:])
    elif "Transpose" in computes_like(layer):
        factors = scale[:, None]
    else:
        factors = scale
    return (kernel * factors).astype(kernel.dtype)
