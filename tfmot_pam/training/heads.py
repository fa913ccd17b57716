"""What the numbers at a model's outputs are: probabilities, or anything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from tfmot_pam.graph.calling import answers_by_head

_ACTIVATIONS = {"softmax": "softmax", "sigmoid": "sigmoid"}
_OPERATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Identity": "linear"}
_KEEPS_VALUES = (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
    keras.layers.UpSampling3D,
)


def output_kind(model: keras.Model, task: str | None = None) -> str:
    """Returns what the last activation before an output makes of it.

    Looks through `TaskGroup` and other wrappers, a final Activation or Softmax layer or free op,
    layers that pass values on (Reshape, Dropout, cropping, up-sampling), and nested models.

    Args:
        model: A functional or sequential Keras 3 model.
        task: Key of a dict output; None for a model with one output.

    Returns:
        `"softmax"` (over the last axis), `"sigmoid"`, or `"linear"` for anything else.

    Example:
    >>> import keras
    >>> inputs = keras.Input((4,))
    >>> outputs = {"a": keras.layers.Dense(3, activation="softmax")(inputs)}
    >>> output_kind(keras.Model(inputs, outputs), "a")
    'softmax'
    """
    if isinstance(model, keras.Sequential):
        for layer in reversed(model.layers):
            kind = _kind(layer)
            if kind is not None:
                return kind
        return "linear"
    config = model.get_config()
    reference = config["output_layers"]
    if task is not None:
        reference = reference[task]
    return _kind_of(model, config, _first_reference(reference))


def output_kinds(model: keras.Model, tasks: Sequence[str]) -> dict[str, str]:
    """For each head of a model's tasks what `output_kind` says, in model order."""
    if isinstance(model, keras.Sequential):
        return {task: output_kind(model) for task in tasks}
    config = model.get_config()
    references = _marked(config["output_layers"])
    by_task = references if isinstance(references, dict) else {tasks[0]: references}
    return {
        head: _kind_of(model, config, reference.triple)
        for task in tasks
        for head, reference in answers_by_head(by_task, task).items()
    }


@dataclasses.dataclass(frozen=True)
class _Reference:
    """Keeps a `[layer, node, tensor]` triple from being taken for a nest."""

    triple: tuple[str, int, int]


def _marked(structure: Any) -> Any:
    if isinstance(structure, dict):
        return {key: _marked(value) for key, value in structure.items()}
    if isinstance(structure[0], str):
        return _Reference(tuple(structure))
    return [_marked(value) for value in structure]


def _first_reference(reference: Any) -> Any:
    while isinstance(reference, dict) or not isinstance(reference[0], str):
        reference = next(iter(reference.values() if isinstance(reference, dict) else reference))
    return reference


def _kind_of(model: keras.Model, config: dict[str, Any], reference: Any) -> str:
    nodes = {layer["name"]: layer["inbound_nodes"] for layer in config["layers"]}
    operations = {operation.name: operation for operation in model.operations}
    while True:
        name, node_index, _ = reference
        kind = _kind(operations[name])
        if kind is not None:
            return kind
        if not nodes[name]:
            return "linear"
        reference = _first_input(nodes[name][node_index])


def _kind(operation: Any) -> str | None:
    """Returns the kind an operation gives its output, None if it passes its input's on."""
    # A wrapped layer has no input and output of its own; its wrapper has.
    outer = operation
    while isinstance(operation, keras.layers.Wrapper):
        operation = operation.layer
    if isinstance(operation, keras.Model):
        return output_kind(operation)
    if isinstance(operation, keras.layers.Softmax):
        last = operation.axis in (-1, len(outer.output.shape) - 1)
        return "softmax" if last else "linear"
    activation = getattr(operation, "activation", None)
    if activation is not None:
        name = getattr(activation, "__name__", "")
        if isinstance(operation, keras.layers.Activation) and name == "linear":
            return None
        return _ACTIVATIONS.get(name, "linear")
    if isinstance(operation, keras.layers.Layer):
        keeps = isinstance(operation, _KEEPS_VALUES)
        return None if keeps and outer.input.shape[-1] == outer.output.shape[-1] else "linear"
    return _OPERATIONS.get(type(operation).__name__, "linear")


def _first_input(node: dict) -> tuple[str, int, int]:
    argument = node["args"][0]
    while isinstance(argument, list | tuple):
        argument = argument[0]
    return tuple(argument["config"]["keras_history"])
