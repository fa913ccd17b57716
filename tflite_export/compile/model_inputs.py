"""The inputs of a model by name, and the model called on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def inputs_of(model: keras.Model) -> dict[str, Any]:
    """The input tensors of a functional model of either Keras, by the names of its InputLayers."""
    names = getattr(model, "input_names", None)
    if names is None:  # of Keras 3, which does not tell the names
        entries = [op for op in model.operations if type(op).__name__ == "InputLayer"]
        by_tensor = {id(entry.output): entry.name for entry in entries}
        names = [by_tensor[id(tensor)] for tensor in model.inputs]
    return dict(zip(names, model.inputs, strict=True))


def called(model: keras.Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a model with a dict of outputs answers, by head.

    Args:
        model: A functional model that `exportable` returned, or a view of one.
        inputs: A batch by name, of which the model may take a part.
    """
    from tfmot_pam.graph.heads import leaves

    own = {name: inputs[name] for name in inputs_of(model)}
    x: Any = own
    if not isinstance(model.input, Mapping):
        x = list(own.values()) if len(own) > 1 else next(iter(own.values()))
    outputs = model(x, training=False)
    return {head: v for task, nest in outputs.items() for head, v in leaves(task, nest).items()}
