"""Free operations written as layers, which TFMOT can rebuild and quantise."""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph.network import Layer, MaybeNone, Network, Node, Shape, Tensor

# What stands for an operation: a class of layers, its configuration and what it is called on.
Written = tuple[type, Mapping[str, Any], Any]


def operations_as_layers(network: Network) -> Network:
    """Writes operations such as `x * 2.0`, `x + y` and `keras.ops.relu(x)` as layers.

    TFMOT cannot rebuild calls of operations that are given numbers, and quantises few of the
    others. Operations without a layer that computes the same stay.

    Args:
        network: Any network; what it computes stays the same.
    """
    layers, nodes = dict(network.layers), []
    for node in network.nodes:
        layer = network.layer_of(node)
        write = None if issubclass(layer.cls, keras.layers.Layer) else LAYERS.get(layer.kind)
        written = None if write is None else write(_Call(network, node))
        if written is not None:
            cls, config, read = written
            layers[layer.name] = Layer(layer.name, cls, config, {}, layer.tasks)
            node = dataclasses.replace(node, args=(read,), kwargs={})
        nodes.append(node)
    return network.replace(layers=layers, nodes=tuple(nodes))


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of an operation."""

    network: Network
    node: Node

    @property
    def values(self) -> tuple[Any, ...]:
        """What it is called on, tensors and constants, in the operation's own order."""
        named = inspect.signature(self.network.layer_of(self.node).cls.call).parameters
        kwargs = self.node.kwargs
        return (*self.node.args, *(kwargs[name] for name in named if name in kwargs))

    @property
    def config(self) -> Mapping[str, Any]:
        return self.network.layer_of(self.node).config

    @property
    def only(self) -> Tensor | None:
        """The tensor that it is called on, if there is nothing besides."""
        (value, *others) = self.values
        return value if isinstance(value, Tensor) and not others else None

    @property
    def shape(self) -> Shape | MaybeNone:
        return self.node.shapes[0]

    def alone(self, kind: type, config: Mapping[str, Any]) -> Written | None:
        """It as a layer of one tensor, if that is what it is called on."""
        return None if self.only is None else (kind, config, self.only)


_Write = Callable[[_Call], Written | None]


def _activation(name: str) -> _Write:
    return lambda call: call.alone(keras.layers.Activation, {"activation": name})


def _relu(limit: float | None) -> _Write:
    return lambda call: call.alone(keras.layers.ReLU, {"max_value": limit})


def _leaky_relu(call: _Call) -> Written | None:
    slope = {"negative_slope": call.config.get("negative_slope", 0.2)}
    return call.alone(keras.layers.LeakyReLU, slope)


def _elu(call: _Call) -> Written | None:
    return call.alone(keras.layers.ELU, {"alpha": call.config.get("alpha", 1.0)})


def _clip(call: _Call) -> Written | None:
    low, high = call.config.get("x_min"), call.config.get("x_max")
    if call.only is None or low != 0 or not isinstance(high, numbers.Real):
        return None
    return keras.layers.ReLU, {"max_value": float(high)}, call.only


def _softmax(call: _Call) -> Written | None:
    axis = {"axis": call.config.get("axis", -1)}
    return call.alone(keras.layers.Softmax, axis)


def _joined(kind: type | None, constant: Callable[..., Any] | None = None) -> _Write:
    """Two tensors of one shape; or a tensor and what is the same everywhere, left or right."""

    def write(call: _Call) -> Written | None:
        if len(call.values) != 2:
            return None
        first, second = call.values
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            shapes = {call.network.shape(tensor) for tensor in (first, second)}
            return (kind, {}, [first, second]) if kind and shapes == {call.shape} else None
        if constant is None:
            return None
        left = not isinstance(first, Tensor)
        value, tensor = (first, second) if left else (second, first)
        fits = isinstance(value, numbers.Real) or np.shape(value) == call.shape[-1:]
        if not fits or call.network.shape(tensor) != call.shape:
            return None
        found = constant(np.asarray(value, "float64"), left)
        return found and (found[0], found[1], tensor)

    return write


def _rescaled(scale: Any, offset: Any) -> tuple[type, dict[str, Any]]:
    entries = {"scale": np.asarray(scale).tolist(), "offset": np.asarray(offset).tolist()}
    return keras.layers.Rescaling, entries


def _above(value: np.ndarray, left: bool) -> tuple[type, dict[str, Any]] | None:
    return (keras.layers.ReLU, {}) if not np.any(value) else None


def _negative(call: _Call) -> Written | None:
    return call.alone(*_rescaled(-1.0, 0.0))


def _mean(call: _Call) -> Written | None:
    if call.only is None:
        return None
    read = call.network.shape(call.only)
    axes, rank = call.config.get("axis"), len(read) - 2
    axes = sorted(a % len(read) for a in np.atleast_1d(axes)) if axes is not None else []
    if rank not in (1, 2, 3) or axes != list(range(1, rank + 1)):
        return None
    pooling = getattr(keras.layers, f"GlobalAveragePooling{rank}D")
    return pooling, {"keepdims": bool(call.config.get("keepdims", False))}, call.only


def _concatenate(call: _Call) -> Written | None:
    (parts, *others) = call.values
    tensors = isinstance(parts, (list, tuple)) and all(isinstance(p, Tensor) for p in parts)
    if others or not tensors:
        return None
    return keras.layers.Concatenate, {"axis": call.config.get("axis", -1)}, [*parts]


def _reshape(call: _Call) -> Written | None:
    shape = call.shape[1:]
    wanted = tuple(call.config.get("newshape", ()))
    if call.only is None or None in shape or wanted[:1] != (-1,):
        return None
    return keras.layers.Reshape, {"target_shape": shape}, call.only


# The layer that computes what an operation computes, by the operation's class.
LAYERS: Mapping[str, _Write] = MappingProxyType(
    {
        "Add": _joined(keras.layers.Add, lambda c, left: _rescaled(1.0, c)),
        "Subtract": _joined(
            keras.layers.Subtract,
            lambda c, left: _rescaled(-1.0, c) if left else _rescaled(1.0, -c),
        ),
        "Multiply": _joined(keras.layers.Multiply, lambda c, left: _rescaled(c, 0.0)),
        "TrueDivide": _joined(None, lambda c, left: None if left else _rescaled(1.0 / c, 0.0)),
        "Divide": _joined(None, lambda c, left: None if left else _rescaled(1.0 / c, 0.0)),
        "Maximum": _joined(keras.layers.Maximum, _above),
        "Minimum": _joined(keras.layers.Minimum),
        "Negative": _negative,
        "Relu": _relu(None),
        "Relu6": _relu(6.0),
        "Clip": _clip,
        "LeakyRelu": _leaky_relu,
        "Sigmoid": _activation("sigmoid"),
        "Tanh": _activation("tanh"),
        "Silu": _activation("silu"),
        "Elu": _elu,
        "Selu": _activation("selu"),
        "Softplus": _activation("softplus"),
        "Softmax": _softmax,
        "Mean": _mean,
        "Concatenate": _concatenate,
        "Reshape": _reshape,
    }
)
