"""The tf_keras door in: a tf_keras model, replayed in Keras 3 and read from there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import keras

from tfmot_pam.graph import network as net
from tfmot_pam.graph.reader import own_functions
from tfmot_pam.graph.reader import read as read_keras
from tfmot_pam.graph.task_sets import restore_task_sets
from tfmot_pam.graph.tf_keras import layers, operations, wrappers
from tfmot_pam.graph.tf_keras.conversion import counterpart


def read(model: Any, what: str = "The model", *, quantized: bool = False) -> net.Network:
    """Reads a functional or sequential tf_keras model, from its public `get_config()`.

    Every layer becomes its Keras 3 counterpart, so that the network is the same as one that was
    read from Keras 3. Where the layers' names say that the model was merged, their task sets
    follow from the outputs that they reach.

    Args:
        model: A built functional or sequential tf_keras model. It is not changed.
        what: What the model is called in errors.
        quantized: Whether to see through the wrappers of quantisation aware training: the
            network is then the one in floating point that they were put around, with the weights
            as they are before a wrapper rounds them. Otherwise such a model is an error.

    Returns:
        The network.

    Raises:
        TypeError: `model` is not a tf_keras model, or is a subclassed one.
        ValueError: it is not built, it is wrapped by TFMOT, or it has a layer that Keras 3 lacks.
    """
    network, _ = _replayed(model, what, quantized)
    return network


def read_for_inference(model: Any, what: str = "The model") -> net.Network:
    """Reads a model that Keras 3 is to run as tf_keras runs it.

    Raises:
        TypeError, ValueError: as `read` does, and where a layer is called with `training=True`.
    """
    network, fixed = _replayed(model, what, False)
    if fixed:
        raise ValueError(
            f"{what} calls the layers {fixed} with training=True, so that they act in inference as "
            "they do in training. Models of Keras 3 overrule that. Call them without `training`."
        )
    return network


def _replayed(model: Any, what: str, quantized: bool) -> tuple[net.Network, list[str]]:
    """The network of a model, and the layers that are told to train whatever the model does."""
    check_model(model, what, quantized=quantized)
    replay = _Replay()
    network = net.rename_layers(read_keras(replay.model(model)), replay.operation_names)
    if isinstance(model.input, Mapping):
        keys = {name: key for key, (name, *_) in model.get_config()["input_layers"].items()}
        own = [network.node(tensor.node).layer for tensor in network.inputs]
        network = net.with_input_names(
            network.replace(dict_inputs=True), [keys.get(name, name) for name in own]
        )
    return restore_task_sets(network), replay.fixed


def check_model(model: Any, what: str, *, quantized: bool = False) -> None:
    """Raises unless `model` is a built functional or sequential tf_keras model, not wrapped.

    Args:
        model: Anything.
        what: What the model is called in errors.
        quantized: Whether the wrappers of quantisation aware training are allowed.
    """
    import tf_keras

    if not isinstance(model, tf_keras.Model):
        raise TypeError(
            f"{what} must be a tf_keras.Model. Received: {model!r} of type "
            f"{type(model).__module__}.{type(model).__name__}. Pass the trained model object."
        )
    if isinstance(model, tf_keras.Sequential):
        if not model.built or not model.inputs:
            raise ValueError(
                f"{what} must be built. Received: the unbuilt sequential model '{model.name}'. "
                "Give it an input first: start it with tf_keras.Input(shape)."
            )
    elif not _is_functional(model):
        raise TypeError(
            f"{what} must be a functional or sequential model. Received: the subclassed model "
            f"'{model.name}' of type {type(model).__name__}, whose layers' connections cannot be "
            "read. Rebuild it with the functional API: tf_keras.Model(inputs, outputs)."
        )
    for layer in model.layers:
        if wrappers.is_wrapper(layer) and not (quantized and wrappers.is_quantizing(layer)):
            raise ValueError(
                f"{what} must be stripped first. Received: '{model.name}', whose layer "
                f"'{layer.name}' is wrapped in TFMOT's {type(layer).__name__}. Use "
                "tfmot_pam.strip_wrappers for pruning and clustering; after quantisation aware "
                "training export it with tflite_export.export(..., quantization='int8') instead."
            )


def _is_functional(model: Any) -> bool:
    import tf_keras

    # Functional models have an output from the start; subclassed ones never have.
    return isinstance(model, tf_keras.Model) and getattr(model, "outputs", None) is not None


class _Replay:
    """Calls the Keras 3 counterparts of a model's layers as the model calls its layers."""

    def __init__(self) -> None:
        self._converted: dict[int, Any] = {}
        self._sources: list[tuple[Any, Any]] = []
        self._taken: set[str] = set()
        self._reserved: set[str] = set()
        # Keras 3 names its free operations itself; these are the names that they had.
        self.operation_names: dict[str, str] = {}
        # Layers that are called with `training=True`, alone or with a model that they are in.
        self.fixed: list[str] = []

    def model(self, model: Any) -> keras.Model:
        self._reserved = set(_layer_names(model))
        inputs, outputs = self._add(model, "", None)
        for source, layer in self._sources:
            found, names = layers.weights_by_name(source), net.weight_names(layer)
            if wrappers.is_quantizing(source):
                found = {name: found[name] for name in names if name in found}
            layers.copy_weights(found, names, layer)
        inputs = inputs[0] if len(inputs) == 1 else inputs
        return keras.Model(inputs, outputs, name=model.name)

    def _add(
        self, model: Any, prefix: str, arguments: list[Any] | None, training: bool = False
    ) -> tuple[list[Any], Any]:
        """One call of `model`; `arguments` are the outer tensors, None for the top level."""
        import tf_keras

        # A functional model of a user's own class may write what it likes into get_config().
        own = not type(model).__module__.startswith("tf_keras.")
        if own or isinstance(model, tf_keras.Sequential):
            model = tf_keras.Model(model.inputs, model.outputs, name=model.name)
        config = model.get_config()
        by_name = {layer.name: layer for layer in model.layers}
        known: dict[tuple[str, int, int], Any] = {}
        inputs = []
        for position, (name, *_) in enumerate(references(config["input_layers"], by_name)):
            given = None if arguments is None else arguments[position]
            tensor = self._input(by_name[name]) if given is None else given
            known[(name, 0, 0)] = tensor
            inputs.append(tensor)
        pending = [
            (entry["name"], index, call)
            for entry in config["layers"]
            for index, call in enumerate(entry["inbound_nodes"])
        ]
        while pending:
            waiting = []
            for name, index, call in pending:
                if all(key in known for key in references(call, by_name)):
                    layer = by_name[name]
                    found = self._call(layer, _arguments(call, known, by_name), prefix, training)
                    start = index + _starts_at_one(layer)
                    for position, tensor in enumerate(keras.tree.flatten(found)):
                        known[(name, start, position)] = tensor
                else:
                    waiting.append((name, index, call))
            if len(waiting) == len(pending):
                raise ValueError(f"The connections of model '{model.name}' form a cycle.")
            pending = waiting
        outputs = config["output_layers"]
        if isinstance(outputs, list) and len(outputs) == 1:
            outputs = outputs[0]  # tf_keras writes one output as a list of one.
        return inputs, _resolve(outputs, known, by_name)

    def _input(self, layer: Any) -> Any:
        config = layer.get_config()
        return keras.Input(
            batch_shape=config["batch_input_shape"],
            dtype=config["dtype"],
            sparse=config.get("sparse") or None,
            name=self._name(layer.name, ""),
        )

    def _call(
        self, layer: Any, arguments: tuple[Any, dict[str, Any]], prefix: str, training: bool
    ) -> Any:
        first, kwargs = arguments
        training = kwargs.pop("training", training)
        source, layer = layer, wrappers.unwrapped(layer)
        if layer is None:
            return first
        if _is_functional(layer):
            tensors = keras.tree.flatten(first)
            _, outputs = self._add(layer, f"{prefix}{layer.name}_", tensors, training)
            return outputs
        if training and "training" in inspect.signature(layer.call).parameters:
            self.fixed.append(layer.name)
        kind = type(layer).__name__
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            return self._operate(layer, first, kwargs, prefix)
        if isinstance(first, list) and hasattr(layer, "return_state"):
            # tf_keras lists an initial state with the input.
            first, *state = first
            kwargs = {**kwargs, "initial_state": state}
        return self._layer(layer, source, prefix, first)(first, **kwargs)

    def _operate(self, layer: Any, first: Any, kwargs: dict[str, Any], prefix: str) -> Any:
        symbol = layer.get_config()["function"]
        try:
            name, result = self._free_operation(symbol, first, kwargs)
        except ValueError as error:
            raise ValueError(
                f"The free operation '{layer.name}' cannot be converted to Keras 3: {error}. "
                "Compute it in a layer, and register that with "
                "tfmot_pam.register_layer_conversion."
            ) from error
        self.operation_names[name] = self._name(layer.name, prefix)
        return result

    def _free_operation(self, symbol: str, first: Any, kwargs: dict[str, Any]) -> tuple[str, Any]:
        """The result of an operation, and the name that Keras 3 gave it."""
        given = keras.tree.flatten((first, kwargs))
        tensors = [value for value in given if isinstance(value, keras.KerasTensor)]
        while True:
            result = operations.keras_call(symbol, first, kwargs)
            # From its own inputs on: a whole graph with a name used twice cannot be listed.
            *_, operation = keras.Function(tensors, result).operations
            # Keras 3 numbers its names without looking at those that were given.
            if operation.name not in self._reserved:
                return operation.name, result

    def _name(self, wanted: str, prefix: str) -> str:
        """A name that Keras 3 takes, unique in the model."""
        name = wanted.replace("/", "_")
        if name in self._taken:
            name = net.unique_name(prefix.replace("/", "_") + name, self._taken)
        self._taken.add(name)
        return name

    def _layer(self, layer: Any, source: Any, prefix: str, first: Any) -> Callable[..., Any]:
        """The counterpart of a layer whose weights are those of `source`: itself or a wrapper."""
        if id(layer) not in self._converted:
            name = self._name(layer.name, prefix)
            if counterpart(type(layer), keras) is None:
                nothing = layers.training_only(layer, first.shape, name, keras)
                if nothing is not None:
                    self._converted[id(layer)] = nothing
                    return nothing
            converted = layers.convert_layer(type(layer), _config(layer), name, keras, self._taken)
            self._converted[id(layer)] = converted
            if converted.layer is not None and source.weights:
                self._sources.append((source, converted.layer))
        return self._converted[id(layer)]


def _layer_names(model: Any) -> Iterator[str]:
    for layer in model.layers:
        yield (wrappers.unwrapped(layer) or layer).name.replace("/", "_")
        if _is_functional(layer):
            yield from _layer_names(layer)


def _config(layer: Any) -> dict[str, Any]:
    import tf_keras

    config = layer.get_config()
    if isinstance(layer, tf_keras.layers.Lambda):
        config = {key: config[key] for key in ("name", "trainable", "dtype")}
        return {**config, "function": layer.function, "arguments": layer.arguments}
    shapes = {"build_config": layer.get_build_config()}
    return {**wrappers.plain_config(config), **own_functions(layer, config), **shapes}


def _starts_at_one(layer: Any) -> bool:
    """Whether tf_keras counts a nested model's calls from 1: where it holds its own input."""
    if not _is_functional(layer):
        return False
    config = layer.get_config()
    return config["layers"][0]["class_name"] == "InputLayer"


# --- references: [layer, call, tensor] and, in first arguments, the other arguments behind them --


def _is_reference(value: Any, by_name: Collection[str]) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and value[0] in by_name
        and isinstance(value[1], int)
        and isinstance(value[2], int)
    )


def _is_constant(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) >= 3 and value[0] == "_CONSTANT_VALUE"


def references(structure: Any, by_name: Collection[str]) -> list[tuple[str, int, int]]:
    """The [layer, call, tensor] triples in a part of a model's configuration, in order."""
    found = []
    if _is_reference(structure, by_name):
        found.append(tuple(structure[:3]))
        structure = structure[3:]
    if isinstance(structure, Mapping):
        # TensorFlow goes through dicts in the order of their keys.
        structure = [structure[key] for key in sorted(structure)]
    if isinstance(structure, (list, tuple)):
        for value in structure:
            found.extend(references(value, by_name))
    return found


def _resolve(structure: Any, known: Mapping[tuple, Any], by_name: Mapping[str, Any]) -> Any:
    if _is_reference(structure, by_name):
        return known[tuple(structure[:3])]
    if _is_constant(structure):
        return structure[2]
    if isinstance(structure, Mapping):
        return {key: _resolve(value, known, by_name) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(_resolve(value, known, by_name) for value in structure)
    return structure


def _arguments(
    call: Any, known: Mapping[tuple, Any], by_name: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The first argument of a call and the others by name."""
    leaf = call
    while not (_is_reference(leaf, by_name) or _is_constant(leaf)):
        leaf = next(iter(leaf.values())) if isinstance(leaf, Mapping) else leaf[0]
    kwargs = leaf[3] if len(leaf) > 3 else {}
    first = _resolve(call, known, by_name)
    if isinstance(first, list) and len(first) == 1:
        first = first[0]
    kwargs = {key: _resolve(value, known, by_name) for key, value in kwargs.items()}
    return first, {key: value for key, value in kwargs.items() if value is not None}
