"""Attention layers taken apart, so that their heads are channels, and put together again.

A head is removed with its part of the four projections. Apart, a layer is three dense layers, the
heads between them (`AttentionHeads`) and a dense layer behind: what dense layers read is pruned,
costed, gated and refitted everywhere, and a head's channels are tied by the rule of the heads.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from tfmot_pam.attention_heads import AttentionHeads
from tfmot_pam.graph.network import Layer, Network, Node, Tensor, iterate_tensors, unique_name

# The projections, in the order in which Keras makes their weights: kernel, kernel_1, ...
_QUERY, _KEY, _VALUE, _OUTPUT = range(4)
_PROJECTIONS = ("query", "key", "value", "output")
_WEIGHTS = ("kernel", "bias")
_ARGUMENTS = ("query", "value", "key")  # of a call, in order
_OF_THE_HEADS = ("use_causal_mask", "training")
_OF_DENSE_LAYERS = (
    "trainable",
    "dtype",
    "use_bias",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How one kind of attention layer names its sizes: heads of queries and of keys, and widths.

    `any_width` says whether it can write another number of channels than its queries have.
    """

    queries: str
    keys: str
    key_dim: str
    value_dim: str
    any_width: bool

    def sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        keys, width = config[self.keys], config[self.key_dim]
        return {
            "num_heads": keys,
            "queries_per_head": config[self.queries] // keys,
            "key_dim": width,
            "value_dim": config[self.value_dim] or width,
        }


_KINDS: Mapping[type, _Kind] = MappingProxyType(
    {
        keras.layers.MultiHeadAttention: _Kind(
            "num_heads", "num_heads", "key_dim", "value_dim", any_width=True
        ),
        keras.layers.GroupQueryAttention: _Kind(
            "num_query_heads", "num_key_value_heads", "head_dim", "head_dim", any_width=False
        ),
    }
)


def attention_apart(network: Network) -> Network:
    """The network with its attention layers as dense layers and what lies between them.

    Use it where heads are removed; `attention_together` is the way back.

    Args:
        network: Any network. Attention that a mask is passed to, that returns its scores, has a
            gate or a window, or looks along some axes only, stays as it is.

    Returns:
        A network that computes the same.
    """
    apart = {
        name
        for name, layer in network.layers.items()
        if layer.cls in _KINDS
        and all(_can_be_apart(network, node) for node in network.nodes if node.layer == name)
    }
    if not apart:
        return network
    layers: dict[str, Layer] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, layer in network.layers.items():
        if name not in apart:
            layers[name] = layer
            continue
        taken = {**network.layers, **layers}
        found = [unique_name(f"{name}_{part}", taken) for part in (*_PROJECTIONS[:3], "heads")]
        names[name] = (*found[:3], name, found[3])
        layers.update((part.name, part) for part in _parts(layer, names[name]))
    nodes: list[Node] = []
    for node in network.nodes:
        nodes += _calls(network, node, names[node.layer]) if node.layer in apart else [node]
    return network.replace(layers=layers, nodes=tuple(nodes))


def _can_be_apart(network: Network, node: Node) -> bool:
    config = network.layer_of(node).config
    shapes = [network.shape(tensor) for tensor in _read(node) if isinstance(tensor, Tensor)]
    if len(shapes) != 3 or len(node.args) > 3 or len(node.shapes) != 1:
        return False
    if any(not shape or len(shape) < 3 or shape[-1] is None for shape in shapes):
        return False
    if config.get("use_gate") or config.get("sliding_window"):
        return False
    if node.kwargs.keys() - {*_ARGUMENTS, *_OF_THE_HEADS}:
        return False
    dtype = config["dtype"]
    plain = isinstance(dtype, str) or dtype.get("class_name") == "DTypePolicy"
    middle, axes = tuple(range(1, len(shapes[0]) - 1)), config.get("attention_axes")
    along_all = axes is None or tuple(axis % len(shapes[0]) for axis in axes) == middle
    return plain and along_all and len(node.shapes[0]) == len(shapes[0])


def _read(node: Node) -> tuple[Any, ...]:
    """What a call reads as query, value and key; keys are values where it names none."""
    given = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    value = given.get("value")
    key = given.get("key")
    return given.get("query"), value, value if key is None else key


def _parts(layer: Layer, names: tuple[str, ...]) -> list[Layer]:
    config, sizes = layer.config, _KINDS[layer.cls].sizes(layer.config)
    of_dense = {name: config[name] for name in _OF_DENSE_LAYERS}
    parts = []
    for place, name in enumerate(names[:4]):
        weights = {
            weight: layer.weights[_numbered(weight, place)]
            for weight in _WEIGHTS
            if _numbered(weight, place) in layer.weights
        }
        kernel = weights["kernel"]
        rows = kernel.shape[0] if place != _OUTPUT else math.prod(kernel.shape[:2])
        weights = {
            weight: array.reshape((rows, -1) if weight == "kernel" else -1)
            for weight, array in weights.items()
        }
        changed = {**of_dense, "name": name, "units": weights["kernel"].shape[1]}
        parts.append(Layer(name, keras.layers.Dense, changed, weights, layer.tasks))
    heads = {
        **{name: config[name] for name in ("trainable", "dtype", "dropout", "seed")},
        **sizes,
        "name": names[4],
        "whole": dict(config),
    }
    return [*parts, Layer(names[4], AttentionHeads, heads, {}, layer.tasks)]


def _numbered(weight: str, place: int) -> str:
    return weight if place == 0 else f"{weight}_{place}"


def _calls(network: Network, node: Node, names: tuple[str, ...]) -> list[Node]:
    """The calls of a layer's parts in place of one of the layer's."""
    layer, (query, value, key) = network.layer_of(node), _read(node)
    sizes = _KINDS[layer.cls].sizes(layer.config)
    heads, queries = sizes["num_heads"], sizes["num_heads"] * sizes["queries_per_head"]
    number = node.name.removeprefix(node.layer)
    called = [name + number for name in names]
    widths = {
        _QUERY: (query, queries * sizes["key_dim"]),
        _KEY: (key, heads * sizes["key_dim"]),
        _VALUE: (value, heads * sizes["value_dim"]),
    }
    nodes = [
        Node(called[place], names[place], (read,), {}, ((*network.shape(read)[:-1], width),))
        for place, (read, width) in widths.items()
    ]
    options = {name: node.kwargs[name] for name in _OF_THE_HEADS if name in node.kwargs}
    seen = (*network.shape(query)[:-1], queries * sizes["value_dim"])
    projected = tuple(Tensor(called[place]) for place in (_QUERY, _VALUE, _KEY))
    nodes.append(Node(called[4], names[4], projected, options, (seen,)))
    nodes.append(Node(node.name, names[_OUTPUT], (Tensor(called[4]),), {}, node.shapes))
    return nodes


def attention_together(network: Network) -> Network:
    """The network with attention layers in place of the parts that `attention_apart` made.

    Args:
        network: Any network. Parts that something else reads as well stay apart, as do those that
            write another number of channels than their kind of attention can.
    """
    readers = network.readers()
    found = {
        node.name: _around(network, node, readers)
        for node in network.nodes
        if network.layer_of(node).cls is AttentionHeads
    }
    calls = network.calls()
    layers_of = {name: tuple(part.layer for part in around or ()) for name, around in found.items()}
    uses = collections.Counter(layers_of.values())
    layers, nodes = dict(network.layers), dict(network.nodes_by_name)
    parts: set[str] = set()
    for name, around in found.items():
        used = layers_of[name]
        if around is None or {calls[layer] for layer in used} != {uses[used]}:
            continue
        output = around[_OUTPUT]
        layers[output.layer] = _together(network, around)
        nodes[output.name] = _called(around)
        parts.update(node.name for node in around if node is not output)
    kept = tuple(nodes[node.name] for node in network.nodes if node.name not in parts)
    called = {node.layer for node in kept}
    return network.replace(
        layers={name: layer for name, layer in layers.items() if name in called}, nodes=kept
    )


def _around(
    network: Network, heads: Node, readers: Mapping[Tensor, tuple[str, ...]]
) -> tuple[Node, ...] | None:
    """The four projections around heads, in their order, and the heads; None where one is not."""
    query, value, key = heads.args
    behind = readers.get(Tensor(heads.name), ())
    if len(behind) != 1 or any(readers[tensor] != (heads.name,) for tensor in heads.args):
        return None
    around = (
        *(network.node(tensor.node) for tensor in (query, key, value)),
        network.node(behind[0]),
    )
    if any(network.layer_of(node).cls is not keras.layers.Dense for node in around):
        return None
    outputs = {tensor.node for tensor in iterate_tensors(network.outputs)}
    if outputs & {node.name for node in (*around[:3], heads)}:
        return None
    whole = network.layer_of(heads).config["whole"]
    if whole is None:
        return None
    read, written = _widths(network, around)
    return (*around, heads) if read == written or _KINDS[_class_of(whole)].any_width else None


def _class_of(whole: Mapping[str, Any]) -> type:
    """The attention layer that a configuration is one of."""
    return next(cls for cls, kind in _KINDS.items() if kind.queries in whole)


def _widths(network: Network, around: tuple[Node, ...]) -> tuple[int, int]:
    """The channels that the queries are made of, and those that come out in the end."""
    return network.shape(around[_QUERY].args[0])[-1], around[_OUTPUT].shapes[0][-1]


def _together(network: Network, around: tuple[Node, ...]) -> Layer:
    """The attention layer of four projections and heads."""
    *projections, heads = [network.layer_of(node) for node in around]
    whole, now = heads.config["whole"], heads.config
    cls = _class_of(whole)
    kind, keys = _KINDS[cls], now["num_heads"]
    queries = keys * now["queries_per_head"]
    shapes = {
        _QUERY: (queries, now["key_dim"]),
        _KEY: (keys, now["key_dim"]),
        _VALUE: (keys, now["value_dim"]),
    }
    biased = any("bias" in layer.weights for layer in projections)
    weights = {}
    for place, layer in enumerate(projections):
        kernel = layer.weights["kernel"]
        shape = shapes.get(place, (kernel.shape[1],))
        rows = (len(kernel),) if place != _OUTPUT else (queries, now["value_dim"])
        weights[_numbered("kernel", place)] = kernel.reshape(*rows, *shape)
        if biased:
            bias = layer.weights.get("bias", np.zeros(kernel.shape[1], kernel.dtype))
            weights[_numbered("bias", place)] = bias.reshape(shape)
    config = {
        **whole,
        "name": projections[_OUTPUT].name,
        "trainable": projections[_OUTPUT].config["trainable"],
        "use_bias": biased,
        kind.queries: queries,
        kind.keys: keys,
    }
    read, written = _widths(network, around)
    if written != read or config.get("output_shape"):
        config["output_shape"] = (written,)
    return Layer(config["name"], cls, config, weights, projections[_OUTPUT].tasks)


def _called(around: tuple[Node, ...]) -> Node:
    """The call of an attention layer in place of that of its last projection."""
    query, key, value, output, heads = around
    args = (query.args[0], value.args[0], key.args[0])
    return dataclasses.replace(output, args=args, kwargs=heads.kwargs)
