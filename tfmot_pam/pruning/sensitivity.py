"""How much an error of a layer changes a network's outputs, from one backward pass.

To second order, an error e of a layer's pre-activations changes the outputs' divergence by
e' G e / 2, where G is the mean of d d' and d the gradient of the log probability of an answer that
was drawn from the network's own outputs (the Fisher information). Outputs that are no probabilities
get random directions in place of drawn answers: then G measures squared errors.

Source: Fisher information by drawn labels: Kunstner et al., NeurIPS 2019, section 3; as the weight
of a layer's error: K-FAC's output factor (Martens and Grosse, ICML 2015, section 3).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam import backends
from tfmot_pam.closed_form.linear import linear_form
from tfmot_pam.closed_form.recurrent import projection_apart
from tfmot_pam.graph.calling import for_model
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.inputs import count, rows
from tfmot_pam.graph.network import (
    Layer,
    Network,
    Node,
    Tensor,
    iterate_tensors,
    map_tensors,
    prune_to,
    unique_name,
)
from tfmot_pam.graph.runner import all_floats, batch_size_of, offset_run
from tfmot_pam.pruning.outputs import before_activation, output_values, tempered, with_activation

_BATCH_VALUES = 1 << 27  # of all tensors of a batch, which a backward pass keeps


def output_sensitivity(
    network: Network,
    nodes: Sequence[str],
    x: Inputs,
    rng: np.random.Generator,
    task_weights: Sequence[float] | None = None,
) -> list[np.ndarray]:
    """Measures how much errors of some layers matter, channel by channel.

    Args:
        network: Any network.
        nodes: Names of calls of layers, whose pre-activations have channels last.
        x: Inputs `[samples, ...]`; of several a dict by name.
        rng: Draws answers.
        task_weights: How much each output matters; None takes all alike.

    Returns:
        For each node a matrix G `[channels, channels]`: independent errors of covariance C at all
        places cost tr(G C), the share of what the outputs tell apart that is lost, times weights.
    """
    linear, kinds = before_activation(network)
    split = pre_activations_apart(linear, nodes)
    outputs = list(iterate_tensors(split.outputs))
    weights = [1.0] * len(outputs) if task_weights is None else task_weights
    observed = [Tensor(name) for name in nodes]
    split = prune_to(split, [*observed, *outputs])
    model = emit(split, wrap=False)
    run = offset_run(split, observed)

    def call(batch: Inputs, offsets: Sequence[Any] | None = None) -> list[Any]:
        if offsets is not None:
            return run(batch, offsets)
        return keras.tree.flatten(model(for_model(model, batch), training=False))

    batch_size = batch_size_of(all_floats(split), _BATCH_VALUES)
    logits = output_values(linear, x)
    directions = [
        np.sqrt(weight) * _directions(value, kind, rng)
        for value, kind, weight in zip(logits, kinds, weights, strict=True)
    ]
    result: list[Any] = [0.0] * len(observed)
    samples = count(x)
    for start in range(0, samples, batch_size):
        batch = rows(x, slice(start, start + batch_size))
        chosen = [d[start : start + batch_size] for d in directions]
        gradients = backends.current().inner_gradients(call, batch, chosen)
        for place, gradient in enumerate(gradients):
            flat = gradient.reshape(-1, gradient.shape[-1]).astype(np.float64)
            result[place] = result[place] + flat.T @ flat / samples
    return result


def _directions(logits: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The log probability's gradient by the logits for drawn answers.

    They are divided by what they make of the logits' own spread, so that outputs of all kinds and
    scales can be compared: no output counts for more since its logits are larger.
    """
    chances = tempered(logits, kind)
    if kind == "softmax":
        drawn = rng.random((*logits.shape[:-1], 1)) < np.cumsum(chances, axis=-1)
        found = np.eye(logits.shape[-1])[np.argmax(drawn, axis=-1)] - chances
    elif kind == "sigmoid":
        found = (rng.random(logits.shape) < chances) - chances
    else:
        found = rng.normal(size=logits.shape)
    flat, centred = (a.reshape(-1, a.shape[-1]) for a in (found, logits - logits.mean(axis=0)))
    spread = np.sum((flat.T @ flat) * (centred.T @ centred)) / len(flat) / len(logits)
    return (found / np.sqrt(max(spread, 1e-12))).astype(logits.dtype)


def pre_activations_apart(network: Network, nodes: Sequence[str]) -> Network:
    """The same network, with the activations of some layers in layers of their own.

    Args:
        network: Any network.
        nodes: Names of calls of the layers; afterwards they yield pre-activations.
    """
    wanted = {network.node(name).layer for name in nodes}
    layers, result = dict(network.layers), []
    moved: dict[Tensor, Tensor] = {}
    taken = {*network.layers, *network.nodes_by_name}

    current = functools.partial(_current, moved)
    for node in network.nodes:
        args, kwargs = map_tensors((node.args, dict(node.kwargs)), current)
        name = unique_name(f"{node.name}_behind", taken)
        parts = _in_two(network.layer_of(node), name) if node.layer in wanted else None
        if parts is None:
            result.append(Node(node.name, node.layer, args, kwargs, node.shapes))
            continue
        taken.add(name)
        layers[node.layer], layers[name] = parts
        first, shapes = Tensor(node.name), node.shapes
        form = linear_form(network.layer_of(node))
        if form is not None and form.whole:
            # The second part takes what else the layer is given, such as a mask or a state.
            read, width = args[0], parts[0].config["units"]
            shapes = ((*network.shape(node.inputs[0])[:-1], width),)
            now = {read: first}
            behind, options = map_tensors((args, kwargs), functools.partial(_current, now))
            args, kwargs = (read,), {}
        else:
            behind, options = (first,), {}
        result.append(Node(node.name, node.layer, args, kwargs, shapes))
        result.append(Node(name, name, behind, options, node.shapes))
        moved |= {tensor: Tensor(name, tensor.index) for tensor in node.outputs}
    outputs = map_tensors(network.outputs, current)
    return network.replace(layers=layers, nodes=tuple(result), outputs=outputs)


def _current(moved: Mapping[Tensor, Tensor], tensor: Tensor) -> Tensor:
    return moved.get(tensor, tensor)


def _in_two(layer: Layer, name: str) -> tuple[Layer, Layer] | None:
    """A layer up to its pre-activations, and what comes behind; None where nothing does."""
    form = linear_form(layer)
    if form is not None and form.whole:
        return projection_apart(form, layer, name)
    activation = layer.config.get("activation")
    if activation in (None, "linear"):
        return None
    config = {"name": name, "activation": activation}
    return with_activation(layer, "linear"), Layer(name, keras.layers.Activation, config, {})
