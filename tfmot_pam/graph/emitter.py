"""The Keras 3 door out: from a `Network` to a functional model."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph import network as net
from tfmot_pam.task_group import TaskGroup


def emit(
    network: net.Network, *, wrap: bool = True, cls: type[keras.Model] = keras.Model
) -> keras.Model:
    """Builds the functional Keras 3 model of a network, weights included.

    Args:
        network: The network.
        wrap: Whether layers that carry a task set are wrapped in `TaskGroup`.
        cls: The class of the model, with the constructor of `keras.Model`.

    Returns:
        A new functional model with the network's input names and output structure.
    """
    built, tensors = _called(network, wrap)
    for name, layer in network.layers.items():
        load_weights(built[name], layer)
    return cls(
        net.input_structure(network, tensors),
        net.map_tensors(network.outputs, tensors.__getitem__),
        name=network.name,
    )


def with_shapes(network: net.Network) -> net.Network:
    """The network with the shapes that follow from those of its inputs."""
    _, tensors = _called(network, wrap=False)
    shapes = {tensor: tuple(found.shape) for tensor, found in tensors.items()}
    nodes = (
        dataclasses.replace(node, shapes=tuple(shapes[tensor] for tensor in node.outputs))
        for node in network.nodes
    )
    return network.replace(nodes=tuple(nodes))


def _called(
    network: net.Network, wrap: bool
) -> tuple[dict[str, Any], dict[net.Tensor, keras.KerasTensor]]:
    """A network's layers, weights not loaded, and what they make of its inputs."""
    # TaskGroup takes layers of one argument; others are written as they are.
    several = {
        node.layer
        for node in network.nodes
        if len(node.args) != 1 or not node.kwargs.keys() <= {"training"}
    }
    built = {
        name: instantiate(layer, wrap and name not in several)
        for name, layer in network.layers.items()
    }
    tensors: dict[net.Tensor, Any] = {}
    for node in network.nodes:
        operation = built[node.layer]
        if isinstance(operation, keras.layers.InputLayer):
            results = [operation.output]
        else:
            args = net.map_tensors(node.args, tensors.__getitem__)
            kwargs = net.map_tensors(node.kwargs, tensors.__getitem__)
            results = keras.tree.flatten(operation(*args, **kwargs))
        tensors.update((net.Tensor(node.name, i), result) for i, result in enumerate(results))
    return built, tensors


def instantiate(layer: net.Layer, wrap: bool) -> Any:
    """The Keras layer or operation of a `Layer`, not built yet."""
    config = {**_copied(dict(layer.config)), "name": layer.name}
    arguments = inspect.signature(layer.cls.__init__).parameters
    if not issubclass(layer.cls, keras.layers.Layer) and "name" not in arguments:
        del config["name"]  # Many operations of older Keras name themselves.
    if issubclass(layer.cls, keras.layers.Lambda):
        # The function is the user's live one: written out, it would lose what it refers to.
        operation = layer.cls(**config)
    else:
        operation = layer.cls.from_config(config)
    if wrap and layer.tasks is not None and isinstance(operation, keras.layers.Layer):
        return TaskGroup(operation, layer.tasks)
    return operation


def _copied(value: Any) -> Any:
    """A configuration that `from_config` may change; objects in it stay the user's own."""
    if type(value) is dict:
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if type(value) is list else value


def load_weights(operation: Any, layer: net.Layer) -> None:
    """Copies a `Layer`'s weights, by name, into its built Keras layer."""
    target = operation.layer if isinstance(operation, TaskGroup) else operation
    if not layer.weights:
        return
    names = net.weight_names(target)
    if set(names) != set(layer.weights):
        raise ValueError(
            f"Layer '{layer.name}' of class {layer.kind} has the weights {sorted(names)} when it "
            f"is built anew, but its network holds {sorted(layer.weights)}. Its get_config() does "
            "not describe it fully; let it return every argument of the constructor."
        )
    for name, weight in zip(names, target.weights, strict=True):
        weight.assign(np.asarray(layer.weights[name]))
    if isinstance(target, keras.layers.Normalization):
        # The adapted statistics are derived from the weights, not recomputed on assignment.
        target.finalize_state()
