"""The tf_keras door out: from a `Network` to a functional tf_keras model of built-in layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfmot_pam.graph import network as net
from tfmot_pam.graph.emitter import instantiate
from tfmot_pam.graph.heads import leaves
from tfmot_pam.graph.tf_keras import layers, operations
from tfmot_pam.graph.tf_keras.conversion import counterpart


def emit(network: net.Network) -> Any:
    """Builds the functional tf_keras model of a network, weights included.

    Layers are written as they are, without `TaskGroup`, so that TFMOT's tools know them.

    Args:
        network: The network.

    Returns:
        A new functional `tf_keras.Model` with the network's input names and output structure.

    Raises:
        ValueError: tf_keras lacks a layer, an option or an operation.
    """
    import tf_keras

    taken = set(network.layers)
    calls: dict[str, Callable[..., Any]] = {}
    tensors: dict[net.Tensor, Any] = {}
    for node in network.nodes:
        layer = network.layer_of(node)
        if issubclass(layer.cls, keras.layers.InputLayer):
            results = [_input(layer)]
        else:
            if node.layer not in calls:
                calls[node.layer] = _caller(layer, network.shape(node.inputs[0]), taken)
            args = net.map_tensors(node.args, tensors.__getitem__)
            kwargs = net.map_tensors(dict(node.kwargs), tensors.__getitem__)
            # Models of Keras 3 overrule what was said when a layer was called; tf_keras would
            # hold to it in inference.
            kwargs.pop("training", None)
            # Keras 3 and tf_keras count the entries of dicts in the order of their keys.
            results = keras.tree.flatten(calls[node.layer](*args, **kwargs))
        tensors.update((net.Tensor(node.name, i), result) for i, result in enumerate(results))
    for name, call in calls.items():
        layer = network.layers[name]
        if isinstance(call, layers.Converted) and call.layer is not None and layer.weights:
            names = layers.tf_keras_weight_names(call.layer)
            layers.copy_weights(layer.weights, names, call.layer)
    model = tf_keras.Model(
        net.input_structure(network, tensors),
        net.map_tensors(network.outputs, tensors.__getitem__),
        name=network.name,
    )
    return name_outputs(model)


def name_outputs(model: Any) -> Any:
    """Lets the logs of a model with a dict of outputs name the keys instead of the last layers."""
    if isinstance(model.output, Mapping):
        # tf_keras goes through dicts in the order of their keys.
        model.output_names = [
            head for key in sorted(model.output) for head in _sorted_leaves(key, model.output[key])
        ]
    return model


def _sorted_leaves(name: str, structure: Any) -> list[str]:
    if isinstance(structure, Mapping):
        parts = (_sorted_leaves(f"{name}/{key}", structure[key]) for key in sorted(structure))
        return [head for part in parts for head in part]
    return list(leaves(name, structure))


def _input(layer: net.Layer) -> Any:
    import tf_keras

    config = layer.config
    return tf_keras.Input(
        batch_shape=tuple(config["batch_shape"]),
        dtype=config["dtype"],
        sparse=bool(config.get("sparse")),
        name=layer.name,
    )


def _caller(layer: net.Layer, shape: net.Shape, taken: set[str]) -> Callable[..., Any]:
    """What computes a layer that reads tensors of a shape."""
    import tf_keras

    if not issubclass(layer.cls, keras.layers.Layer):
        return _operation(layer, taken)
    if counterpart(layer.cls, tf_keras) is None:
        nothing = layers.training_only(instantiate(layer, wrap=False), shape, layer.name, tf_keras)
        if nothing is not None:
            return nothing
    config = dict(layer.config)
    if issubclass(layer.cls, keras.layers.Lambda):
        config.pop("output_shape", None)
        config.pop("mask", None)
    return layers.convert_layer(layer.cls, config, layer.name, tf_keras, taken)


def _operation(layer: net.Layer, taken: set[str]) -> Callable[..., Any]:
    """A Keras 3 operation as tf_keras's layer around a TensorFlow function."""
    import tf_keras

    name = layer.name
    pieces = layers.operation_pieces(layer.cls, name, tf_keras, taken)
    if pieces is not None:
        return pieces
    built: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            found = operations.tf_keras_call(layer.cls, layer.config, args, kwargs)
        except ValueError as error:
            raise ValueError(
                f"The free operation '{name}' of class {layer.kind} cannot be converted to "
                f"tf_keras: {error}. Compute it in a layer, and register that with "
                "tfmot_pam.register_layer_conversion."
            ) from error
        symbol, first, others = found
        if not built:
            kind = "SlicingOpLambda" if symbol.endswith("getitem") else "TFOpLambda"
            config = {"name": name, "trainable": True, "dtype": "float32", "function": symbol}
            built.append(tf_keras.layers.deserialize({"class_name": kind, "config": config}))
        return built[0](first, **others)

    return call
