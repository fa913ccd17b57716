"""A model that is called at each step of a sequence, as layers that are."""

from __future__ import annotations

import dataclasses

import keras

from tfmot_pam.graph.emitter import instantiate
from tfmot_pam.graph.network import Layer, Network, Node, Tensor, iterate_tensors

# What combines tensors entry by entry does so at all steps at once.
_JOINS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate")
# Their configuration or weights alone do not tell what they compute.
_LIVE = (keras.layers.Lambda, keras.layers.Normalization)


def at_each_step(inner: Network, steps: int | None) -> Network | None:
    """The network that calls every layer of another one at each step of a sequence.

    Args:
        inner: The network of one step.
        steps: The number of steps; None where it is open.

    Returns:
        A network that computes at each step what `inner` does; None if some layer of it has no
        equal among layers that are called at each step.
    """
    called = [node for node in inner.nodes if node.inputs]
    # A sequential model lists its one output.
    single = len(inner.inputs) == len(list(iterate_tensors(inner.outputs))) == 1
    if not single or not called or not all(_has_equal(inner, node) for node in called):
        return None
    names = {node.layer for node in called if inner.layer_of(node).kind not in _JOINS}
    layers = {
        name: _wrapped(layer) if name in names else layer for name, layer in inner.layers.items()
    }
    nodes = (
        dataclasses.replace(
            node,
            kwargs={},
            shapes=tuple(shape and (shape[0], steps, *shape[1:]) for shape in node.shapes),
        )
        for node in inner.nodes
    )
    return inner.replace(layers=layers, nodes=tuple(nodes))


def _has_equal(network: Network, node: Node) -> bool:
    layer = network.layer_of(node)
    if not issubclass(layer.cls, keras.layers.Layer) or issubclass(layer.cls, _LIVE):
        return False
    if len(node.shapes) != 1 or any(callable(value) for value in layer.config.values()):
        return False
    if layer.kind in _JOINS and layer.cls is getattr(keras.layers, layer.kind):
        return layer.config.get("axis", -1) == -1
    plain = len(node.args) == 1 and isinstance(node.args[0], Tensor)
    return plain and node.kwargs.keys() <= {"training"}


def _wrapped(layer: Layer) -> Layer:
    wrapper = keras.layers.TimeDistributed(instantiate(layer, wrap=False), name=layer.name)
    return Layer(layer.name, keras.layers.TimeDistributed, wrapper.get_config(), layer.weights)
