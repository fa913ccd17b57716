"""The Keras 3 door in: from a built functional or sequential model to a `Network`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph import network as net
from tfmot_pam.graph.einsum import as_dense
from tfmot_pam.graph.emitter import with_shapes
from tfmot_pam.graph.steps import at_each_step
from tfmot_pam.task_group import TaskGroup


def read(model: keras.Model) -> net.Network:
    """Reads a functional or sequential Keras 3 model, from its public `get_config()`.

    Models that are used as layers are looked into: their layers become layers of the network.

    Args:
        model: A built functional or sequential model. It is not changed; weights are copied.

    Returns:
        The network: layers, calls, weights and shapes, with the model's output structure.

    Raises:
        TypeError: `model` is not a Keras 3 model, or is a subclassed one.
        ValueError: `model` is not built.
    """
    check_model(model, "The model")
    reading = _Reading()
    inputs, outputs = reading.add(model, prefix="", arguments=None)
    network = net.Network(
        name=model.name,
        layers=reading.layers,
        nodes=tuple(reading.nodes),
        inputs=tuple(inputs),
        outputs=outputs,
        dict_inputs=not isinstance(model, keras.Sequential) and isinstance(model.input, Mapping),
    )
    if network.dict_inputs:
        # Keras goes through dicts in the order of their keys.
        network = net.with_input_names(network, sorted(model.input))
    # A model that is built for any size has the sizes that it is called with.
    return with_shapes(network) if reading.resized else network


def check_model(model: Any, what: str) -> None:
    """Raises unless `model` is a built functional or sequential Keras 3 model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{what} must be a keras.Model of Keras 3. Received: {model!r} of type "
            f"{type(model).__module__}.{type(model).__name__}. Pass the trained model object; "
            "load a saved one with keras.models.load_model first."
        )
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                f"{what} must be built. Received: the unbuilt sequential model '{model.name}'. "
                "Give it an input first: start it with keras.Input(shape), or call "
                "model.build(input_shape)."
            )
    elif not hasattr(model, "operations"):
        raise TypeError(
            f"{what} must be a functional or sequential model. Received: the subclassed model "
            f"'{model.name}' of type {type(model).__name__}, whose layers' connections cannot be "
            "read. Rebuild it with the functional API: keras.Model(inputs, outputs)."
        )


# A layer's name, the number of a call of it, and that of one of its results.
_Key = tuple[str, int, int]
_Shapes = dict[_Key, net.Shape]
_Resolved = dict[_Key, net.Tensor]


class _Reading:
    """Collects layers and nodes while models are walked, nested ones included."""

    def __init__(self) -> None:
        self.layers: dict[str, net.Layer] = {}
        self.nodes: list[net.Node] = []
        # Whether a model is called with other sizes than those that it was built for.
        self.resized = False
        # By layer, or by layer and what it is called in a model that the layer calls.
        self._names: dict[Any, str] = {}
        self._calls: dict[str, int] = {}
        self._shapes: dict[net.Tensor, net.Shape | None] = {}

    def add(
        self, model: keras.Model, prefix: str, arguments: Sequence[net.Tensor] | None
    ) -> tuple[list[net.Tensor], Any]:
        """Adds one call of `model`; `arguments` are the outer tensors, None for the top level."""
        if isinstance(model, keras.Sequential):
            model = keras.Model(model.inputs, model.outputs, name=model.name)
        elif not _is_plain_functional(model):
            model = keras.Model(model.input, model.output, name=model.name)
        config = model.get_config()
        operations = {operation.name: operation for operation in model.operations}
        resolved: _Resolved = {}
        outputs = _map_leaves(config["output_layers"], lambda leaf: _output_key(leaf, operations))
        shapes = _boundary_shapes(model, config["input_layers"], outputs)
        for entry in config["layers"]:
            for call in entry["inbound_nodes"]:
                _collect_shapes((call["args"], call["kwargs"]), shapes)
        input_names = [leaf[0] for leaf in _leaves(config["input_layers"])]
        inputs = []
        for position, name in enumerate(input_names):
            if arguments is None:
                tensor = self._node(operations[name], prefix, (), {}, (shapes[(name, 0, 0)],))
            else:
                tensor = arguments[position]
                self.resized |= self._shapes[tensor] != shapes[(name, 0, 0)]
            resolved[(name, 0, 0)] = tensor
            inputs.append(tensor)
        pending = [
            (entry, index)
            for entry in config["layers"]
            if entry["name"] not in input_names
            for index in range(len(entry["inbound_nodes"]))
        ]
        while pending:
            waiting = []
            for entry, index in pending:
                if not self._call(entry, index, operations, resolved, shapes, prefix):
                    waiting.append((entry, index))
            if len(waiting) == len(pending):
                raise ValueError(f"The connections of model '{model.name}' form a cycle.")
            pending = waiting
        return inputs, _map_leaves(outputs, resolved.__getitem__)

    def _call(
        self,
        entry: Mapping[str, Any],
        index: int,
        operations: Mapping[str, Any],
        resolved: _Resolved,
        shapes: _Shapes,
        prefix: str,
    ) -> bool:
        call = entry["inbound_nodes"][index]
        keys = list(_histories((call["args"], call["kwargs"])))
        if any(key not in resolved for key in keys):
            return False
        name, operation = entry["name"], operations[entry["name"]]
        args = _restore(call["args"], resolved)
        kwargs = _restore(call["kwargs"], resolved)
        if isinstance(operation, keras.Sequential) or _is_functional(operation):
            # Keras counts the entries of dicts in the order of their keys.
            tensors = keras.tree.flatten(args)
            _, outputs = self.add(operation, f"{prefix}{name}_", tensors)
            for position, tensor in enumerate(keras.tree.flatten(outputs)):
                resolved[(name, index, position)] = tensor
            return True
        if isinstance(operation, keras.layers.TimeDistributed) and len(args) == 1:
            last = self._steps(operation, prefix, args[0])
            if last is not None:
                resolved[(name, index, 0)] = last
                return True
        count = max((key[2] + 1 for key in shapes if key[:2] == (name, index)), default=1)
        found = tuple(shapes.get((name, index, position)) for position in range(count))
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        first = self._node(operation, prefix, tuple(args), kwargs, found)
        for position in range(count):
            resolved[(name, index, position)] = net.Tensor(first.node, position)
        return True

    def _steps(self, operation: Any, prefix: str, tensor: net.Tensor) -> net.Tensor | None:
        """Adds the layers of a model that is called at each step, if this is one."""
        model, shape = operation.layer, self._shapes.get(tensor)
        if not isinstance(model, keras.Model) or not model.built or shape is None:
            return None
        if not (isinstance(model, keras.Sequential) or _is_functional(model)):
            return None
        inner = at_each_step(read(model), shape[1])
        if inner is None:
            return None
        moved = {inner.inputs[0]: tensor}
        self.resized |= inner.shape(inner.inputs[0]) != shape
        for node in inner.nodes:
            if not node.inputs:
                continue
            key = id(operation), node.layer
            if key not in self._names:
                wanted = f"{operation.name}_{node.layer}"
                self._names[key] = net.unique_name(wanted, self.layers)
                layer = dataclasses.replace(inner.layer_of(node), name=self._names[key])
                self.layers[layer.name] = layer
            args = net.map_tensors(node.args, moved.__getitem__)
            moved[net.Tensor(node.name)] = self._append(self._names[key], args, {}, node.shapes)
        return moved[next(net.iterate_tensors(inner.outputs))]

    def _node(self, operation: Any, prefix: str, *called: Any) -> net.Tensor:
        return self._append(self._layer(operation, prefix), *called)

    def _append(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        shapes: tuple[net.Shape | None, ...],
    ) -> net.Tensor:
        count = self._calls.get(name, 0)
        self._calls[name] = count + 1
        node_name = name if count == 0 else f"{name}@{count}"
        node = net.Node(node_name, name, args, kwargs, shapes)
        self.nodes.append(node)
        self._shapes.update(zip(node.outputs, shapes, strict=True))
        return net.Tensor(node_name, 0)

    def _layer(self, operation: Any, prefix: str) -> str:
        if id(operation) in self._names:
            return self._names[id(operation)]
        name = operation.name
        if name in self.layers:
            name = net.unique_name(prefix + name, self.layers)
        inner = operation.layer if isinstance(operation, TaskGroup) else operation
        arrays = (
            np.array(keras.ops.convert_to_numpy(weight)) for weight in getattr(inner, "weights", ())
        )
        weights = dict(zip(net.weight_names(inner), arrays, strict=True))
        found = dataclasses.replace(described(operation, name), weights=weights)
        self.layers[name] = as_dense(found)
        self._names[id(operation)] = name
        return name


def described(operation: Any, name: str) -> net.Layer:
    """A Keras layer or operation as data, but for its weights."""
    inner, tasks = operation, None
    if isinstance(operation, TaskGroup):
        inner, tasks = operation.layer, operation.tasks
    return net.Layer(name, type(inner), _config(inner), {}, tasks)


def _config(operation: Any) -> dict[str, Any]:
    config = operation.get_config()
    if isinstance(operation, keras.layers.Lambda):
        # A function that is written out loses what it refers to, so the live one is kept.
        config = {**config, "function": operation.function, "mask": operation.mask}
        config["arguments"] = operation.arguments
        if isinstance(config.get("output_shape"), Mapping):
            del config["output_shape"]  # A function too; Keras infers the shape without it.
        return config
    return {**config, **own_functions(operation, config)}


def own_functions(operation: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """A user's activation function is kept too: written out it is a name, not always its own."""
    live = {
        key: getattr(operation, key, None)
        for key, value in config.items()
        if isinstance(value, (str, Mapping))
    }
    return {
        key: function
        for key, function in live.items()
        if hasattr(function, "__code__")
        and function.__module__.split(".")[0] not in ("keras", "tf_keras", "tensorflow")
    }


def _is_plain_functional(model: Any) -> bool:
    # A functional model of a user's own class may write what it likes into get_config().
    return type(model).__module__.startswith("keras.")


def _is_functional(operation: Any) -> bool:
    return (
        isinstance(operation, keras.Model)
        and hasattr(operation, "operations")
        and not isinstance(operation, keras.Sequential)
    )


def _output_key(leaf: _Key, operations: Mapping[str, Any]) -> _Key:
    """Where Keras lists outputs, it counts a nested functional model's calls from 1."""
    name, index, position = leaf
    return name, index - _is_functional(operations[name]), position


def _boundary_shapes(model: keras.Model, inputs: Any, outputs: Any) -> _Shapes:
    shapes = {}
    for structure, tensors in (
        (inputs, model.inputs),
        (outputs, keras.tree.flatten(model.output)),
    ):
        for leaf, tensor in zip(_leaves(structure), tensors, strict=True):
            shapes[leaf] = tuple(tensor.shape)
    return shapes


class _Leaf:
    """Keeps a `[layer, node, tensor]` triple from being flattened."""

    def __init__(self, triple: _Key):
        self.key = tuple(triple)


def _is_leaf(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and isinstance(value[2], int)
    )


def _map_leaves(structure: Any, function: Callable[[Any], Any]) -> Any:
    if _is_leaf(structure):
        return function(structure)
    if isinstance(structure, Mapping):
        return {key: _map_leaves(value, function) for key, value in structure.items()}
    return [_map_leaves(value, function) for value in structure]


def _leaves(structure: Any) -> list[_Key]:
    return [leaf.key for leaf in keras.tree.flatten(_map_leaves(structure, _Leaf))]


def _is_keras_tensor(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__"


def _keras_tensors(structure: Any) -> Iterator[Mapping[str, Any]]:
    if _is_keras_tensor(structure):
        yield structure["config"]
    elif isinstance(structure, Mapping):
        for value in structure.values():
            yield from _keras_tensors(value)
    elif isinstance(structure, (list, tuple)):
        for value in structure:
            yield from _keras_tensors(value)


def _histories(structure: Any) -> Iterator[_Key]:
    return map(_history, _keras_tensors(structure))


def _history(config: Mapping[str, Any]) -> _Key:
    name, index, position = config["keras_history"]
    return name, index, position


def _collect_shapes(structure: Any, shapes: _Shapes) -> None:
    for config in _keras_tensors(structure):
        shapes[_history(config)] = tuple(config["shape"])


def _restore(structure: Any, resolved: Mapping[Any, net.Tensor]) -> Any:
    """Call arguments with `Tensor` leaves; other serialised objects become objects again."""
    if _is_keras_tensor(structure):
        return resolved[tuple(structure["config"]["keras_history"])]
    if isinstance(structure, Mapping):
        if "class_name" in structure:
            return keras.saving.deserialize_keras_object(structure)
        return {key: _restore(value, resolved) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(_restore(value, resolved) for value in structure)
    return structure
