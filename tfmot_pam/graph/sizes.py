"""Networks of open size, such as images of any height and width, at one size."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from tfmot_pam.graph.channels import rule_of
from tfmot_pam.graph.emitter import with_shapes
from tfmot_pam.graph.network import Network, Shape, Tensor
from tfmot_pam.graph.rules import Call, call_of

InputShape = Sequence[int] | Mapping[str, Sequence[int]]


def sized(network: Network, input_shape: InputShape | None, what: str = "The model") -> Network:
    """The network at one size of its inputs, at which every layer can be counted.

    Args:
        network: Any network.
        input_shape: The shape of an input without the samples' axis; of several inputs a dict by
            name. None takes the sizes that the network has.
        what: What the network is called in errors.

    Raises:
        TypeError: `input_shape` is no shape.
        ValueError: it does not fit the inputs, or it is None and sizes are open on which costs
            depend.
    """
    if input_shape is not None:
        shapes = _by_input(network, input_shape)
        if any(network.shape(tensor) != shape for tensor, shape in shapes.items()):
            network = with_shapes(with_inputs(network, shapes))
    uncounted = _uncounted(network)
    if uncounted:
        found = {tensor.node: network.shape(tensor) for tensor in network.inputs}
        raise ValueError(
            f"{what} is of open size: its inputs have the shapes {found}, and what "
            f"{uncounted[:3]} cost depends on it. Pass the size that it is to run at, such as "
            "input_shape=(224, 224, 3)."
        )
    return network


def with_inputs(network: Network, shapes: Mapping[Tensor, Shape]) -> Network:
    """The network with inputs of other shapes, the axis of the samples included.

    What follows from them is not in it: emit it, or see `with_shapes`.
    """
    layers = dict(network.layers)
    for tensor, shape in shapes.items():
        name = network.node(tensor.node).layer
        config = {**layers[name].config, "batch_shape": shape}
        layers[name] = dataclasses.replace(layers[name], config=config)
    return network.replace(layers=layers)


def is_of_open_size(call: Call) -> bool:
    """Whether a call reads or writes tensors of open size, which cannot be counted."""
    return any(shape is None or None in shape[1:] for shape in (*call.in_shapes, call.out_shape))


def _uncounted(network: Network) -> list[str]:
    """The nodes that cost something, which is not known because sizes are open."""
    calls = network.calls()
    found = []
    for node in network.nodes:
        call = call_of(network, node, calls)
        rule = rule_of(call) if node.inputs else None
        # What nobody reads has no shape; that is no question of its size.
        known = None not in (*call.in_shapes, call.out_shape)
        if rule is not None and rule.macs is not None and known and is_of_open_size(call):
            found.append(node.name)
    return found


def _by_input(network: Network, input_shape: InputShape) -> dict[Tensor, Shape]:
    """The whole shape of every input."""
    names = {tensor.node: tensor for tensor in network.inputs}
    if isinstance(input_shape, Mapping):
        shapes = dict(input_shape)
    else:
        shapes = dict.fromkeys(names, input_shape) if len(names) == 1 else {}
    if set(shapes) != set(names):
        raise ValueError(
            f"`input_shape` is {input_shape!r}. Expected a shape for each of the inputs "
            f"{list(names)}: a dict by name. Pass such as {{{next(iter(names))!r}: (224, 224, 3)}}."
        )
    found = {}
    for name, tensor in names.items():
        known, wanted = network.shape(tensor), _checked(shapes[name])
        fits = len(wanted) == len(known) - 1 and all(
            size in (None, given) for size, given in zip(known[1:], wanted, strict=True)
        )
        if not fits:
            raise ValueError(
                f"`input_shape` has {wanted} for the input '{name}', which is of the shape "
                f"{known[1:]} (None: open). Expected the same number of sizes, and its own where "
                "they are fixed. Leave out the axis of the samples."
            )
        found[tensor] = (known[0], *wanted)
    return found


def _checked(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise TypeError(
            f"`input_shape` must be a tuple of whole numbers. Received: {shape!r} of type "
            f"{type(shape).__name__}. Pass such as (224, 224, 3)."
        )
    if not all(isinstance(size, numbers.Integral) and int(size) > 0 for size in shape):
        raise ValueError(
            f"`input_shape` must hold whole numbers above 0. Received: {tuple(shape)!r}. Pass such "
            "as (224, 224, 3)."
        )
    return tuple(int(size) for size in shape)
