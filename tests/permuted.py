"""Networks with their channels in other orders, which compute the same."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from tfmot_pam.graph.channels import build_channel_graph, known_rule
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.network import Network, Tensor
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.slicing import Layout, arrange, slice_weights


def permuted(
    model: keras.Model, seed: int, noise: float = 0.0
) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """A model with the channels of its inner spaces in random orders.

    Args:
        model: A model whose spaces are free, but for its output.
        seed: Of the orders.
        noise: The size of random changes of its weights, as a share of each one's deviation.

    Returns:
        The model, and by name of the first layer that writes a space, where each of its channels
        was before.
    """
    rng = np.random.default_rng(seed)
    network = read(model)
    graph = build_channel_graph(network)
    inner = {
        index
        for index, space in enumerate(graph.spaces)
        if not space.given and space.frozen is None and space.readers
    }
    rank = np.arange(len(graph.space_of))
    for index in inner:
        channels = graph.spaces[index].channels
        rank[channels] = rng.permutation(channels)
    layouts: dict[Tensor, Layout] = {}
    layers = dict(network.layers)
    for node in network.nodes:
        call, (output,) = graph.call(node), node.outputs
        labels = graph.labels[output]
        rows = [layouts[tensor] for tensor in node.inputs]
        identity = Layout(np.zeros(len(labels), int), np.arange(len(labels)))
        role = graph.roles[node.name]
        if role in ("input", "copied"):
            layouts[output] = identity
        elif role == "mixing":
            layouts[output] = dataclasses.replace(
                identity, positions=np.argsort(rank[labels], kind="stable")
            )
        elif role == "channelwise":
            layouts[output] = arrange(known_rule(call), {0: call}, call, rows[0])
        elif role == "join":
            layouts[output] = rows[0]
        else:
            widths = np.cumsum([0, *map(len, rows)])
            layouts[output] = Layout.concatenate(
                [own.shifted({0: int(start)}) for own, start in zip(rows, widths, strict=False)]
            )
        if call.layer.weights and role != "copied":
            weights = slice_weights(known_rule(call), {0: call}, rows[0], layouts[output])
            weights = {
                name: (w + noise * w.std() * rng.normal(size=w.shape)).astype(w.dtype)
                for name, w in weights.items()
            }
            layers[node.layer] = dataclasses.replace(call.layer, weights=weights)
    orders = {
        graph.spaces[index].name: np.argsort(rank[graph.spaces[index].channels], kind="stable")
        for index in inner
    }
    return emit(Network(**{**_fields(network), "layers": layers})), orders


def in_three_orders(model: keras.Model) -> dict[str, keras.Model]:
    """A model and two that compute the same up to a little noise, by task."""
    others = {name: permuted(model, i + 1, noise=1e-5)[0] for i, name in enumerate("bc")}
    return {"a": model, **others}


def widths(model: keras.Model) -> dict[str, int]:
    """The number of channels of each layer."""
    return {layer.name: layer.output.shape[-1] for layer in model.layers}


def _fields(network: Network) -> dict:
    return {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
