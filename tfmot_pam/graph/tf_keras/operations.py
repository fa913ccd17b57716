"""Free operations: Keras 3's `keras.ops` and the TensorFlow functions that tf_keras records."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation in both Kerases.

    Args:
        symbol: TensorFlow's public name of it, as tf_keras writes it.
        arguments: TensorFlow's names of the arguments, by Keras 3's. The first is what both are
            called on.
        aliases: Other public names of the same TensorFlow function.
    """

    symbol: str
    arguments: Mapping[str, str]
    aliases: tuple[str, ...] = ()


def _binary(symbol: str, *aliases: str) -> Operation:
    return Operation(symbol, {"x1": "x", "x2": "y"}, aliases)


def _unary(symbol: str, argument: str = "x", *aliases: str) -> Operation:
    return Operation(symbol, {"x": argument}, aliases)


def _reduction(symbol: str) -> Operation:
    names = {"x": "input_tensor", "axis": "axis", "keepdims": "keepdims"}
    return Operation(symbol, names)


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "Add": _binary("math.add", "__operators__.add"),
        "Subtract": _binary("math.subtract"),
        "Multiply": _binary("math.multiply"),
        "TrueDivide": _binary("math.truediv", "math.divide", "divide"),
        "Divide": _binary("math.divide"),
        "Power": _binary("math.pow"),
        "Maximum": _binary("math.maximum"),
        "Minimum": _binary("math.minimum"),
        "Greater": _binary("math.greater"),
        "GreaterEqual": _binary("math.greater_equal"),
        "Less": _binary("math.less"),
        "LessEqual": _binary("math.less_equal"),
        "Equal": _binary("math.equal"),
        "NotEqual": _binary("math.not_equal"),
        "LogicalAnd": _binary("math.logical_and"),
        "LogicalOr": _binary("math.logical_or"),
        "LogicalNot": _unary("math.logical_not"),
        "Any": _reduction("math.reduce_any"),
        "All": _reduction("math.reduce_all"),
        "Matmul": Operation("linalg.matmul", {"x1": "a", "x2": "b"}),
        "Negative": _unary("math.negative"),
        "Abs": _unary("math.abs"),
        "Absolute": _unary("math.abs"),
        "Square": _unary("math.square"),
        "Sqrt": _unary("math.sqrt"),
        "Rsqrt": _unary("math.rsqrt"),
        "Exp": _unary("math.exp"),
        "Log": _unary("math.log"),
        "Log1p": _unary("math.log1p"),
        "Sin": _unary("math.sin"),
        "Cos": _unary("math.cos"),
        "Tanh": _unary("math.tanh", "x", "nn.tanh"),
        "Sigmoid": _unary("math.sigmoid", "x", "nn.sigmoid"),
        "Relu": _unary("nn.relu", "features"),
        "Relu6": _unary("nn.relu6", "features"),
        "Elu": _unary("nn.elu", "features"),
        "Selu": _unary("nn.selu", "features"),
        "Silu": _unary("nn.silu", "features", "nn.swish"),
        "Softplus": _unary("math.softplus", "features", "nn.softplus"),
        "LeakyRelu": Operation("nn.leaky_relu", {"x": "features", "negative_slope": "alpha"}),
        "Softmax": Operation("nn.softmax", {"x": "logits", "axis": "axis"}),
        "Mean": _reduction("math.reduce_mean"),
        "Sum": _reduction("math.reduce_sum"),
        "Max": _reduction("math.reduce_max"),
        "Min": _reduction("math.reduce_min"),
        "Clip": Operation(
            "clip_by_value", {"x": "t", "x_min": "clip_value_min", "x_max": "clip_value_max"}
        ),
        "Concatenate": Operation("concat", {"xs": "values", "axis": "axis"}),
        "Stack": Operation("stack", {"x": "values", "axis": "axis"}),
        "Split": Operation(
            "split", {"x": "value", "indices_or_sections": "num_or_size_splits", "axis": "axis"}
        ),
        "Reshape": Operation("reshape", {"x": "tensor", "newshape": "shape"}),
        "Transpose": Operation(
            "transpose", {"x": "a", "axes": "perm"}, ("compat.v1.transpose", "linalg.transpose")
        ),
        "Squeeze": Operation("squeeze", {"x": "input", "axis": "axis"}, ("compat.v1.squeeze",)),
        "ExpandDims": Operation(
            "expand_dims", {"x": "input", "axis": "axis"}, ("compat.v1.expand_dims",)
        ),
        "ConvertToTensor": Operation("convert_to_tensor", {"x": "value", "dtype": "dtype"}),
        "ZerosLike": Operation("zeros_like", {"x": "input", "dtype": "dtype"}),
        "OnesLike": Operation("ones_like", {"x": "input", "dtype": "dtype"}),
        "Cast": Operation("cast", {"x": "x", "dtype": "dtype"}),
        "Pad": Operation(
            "pad",
            {
                "x": "tensor",
                "pad_width": "paddings",
                "mode": "mode",
                "constant_values": "constant_values",
            },
            ("compat.v1.pad",),
        ),
        "Where": Operation("where", {"condition": "condition", "x1": "x", "x2": "y"}),
        "Take": Operation("gather", {"x": "params", "indices": "indices", "axis": "axis"}),
        "GetItem": Operation("__operators__.getitem", {"x": "tensor", "key": "slice_spec"}),
    }
)


def tf_keras_call(
    cls: type[Any], config: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, Any, dict[str, Any]]:
    """A Keras 3 operation as tf_keras calls it: TensorFlow's symbol, first argument, the others.

    Raises:
        ValueError: the table has no such operation, or it uses an option that TensorFlow lacks.
    """
    operation = OPERATIONS.get(cls.__name__)
    if operation is None:
        raise ValueError("tf_keras has no such operation")
    names = [name for name in inspect.signature(cls.call).parameters if name != "self"]
    given = {key: value for key, value in config.items() if key != "name"}
    given.update(zip(names, args, strict=False))
    given.update(kwargs)
    # An operation that takes its axis in the call as well as in the constructor repeats it.
    given = {key: value for key, value in given.items() if value is not None or key == "axis"}
    defaults = inspect.signature(cls).parameters
    unknown = sorted(
        key
        for key in given.keys() - operation.arguments.keys()
        if key not in defaults or given[key] != defaults[key].default
    )
    if unknown:
        raise ValueError(f"TensorFlow's {operation.symbol} has no equal of {unknown}")
    if cls.__name__ == "Split":
        given = _sizes(given)
    if cls.__name__ == "GetItem":
        given = {**given, "key": _written_slices(given["key"], len(given["x"].shape))}
    first, *others = operation.arguments
    return (
        operation.symbol,
        given[first],
        {operation.arguments[key]: given[key] for key in others if key in given},
    )


def keras_call(symbol: str, first: Any, kwargs: Mapping[str, Any]) -> Any:
    """Calls the Keras 3 operation that computes what a TensorFlow function computes.

    Raises:
        ValueError: the table has no such function, or it is called with an option that Keras 3
            has not.
    """
    name = _NAMES.get(symbol)
    if name is None:
        raise ValueError(f"keras has no operation that is known to equal TensorFlow's {symbol}")
    arguments = OPERATIONS[name].arguments
    own = {theirs: ours for ours, theirs in arguments.items()}
    given = {
        key: value
        for key, value in kwargs.items()
        if key != "name" and not (key not in own and value in (None, False))
    }
    unknown = sorted(given.keys() - own.keys())
    if unknown:
        raise ValueError(f"Keras 3's {name} has no equal of {unknown}")
    given = {own[key]: value for key, value in given.items()}
    if "x1" in arguments:
        first, given = _operands(first, given)
    if name == "GetItem":
        return first[_slices(given["key"])]
    if name == "Pad":
        given = _padding(given)
    if name == "Split":
        given = _split(first, given)
    return getattr(keras.ops, _snake(name))(first, **given)


def _operands(first: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """tf_keras writes constant arrays as lists."""
    tensors = [value for value in (first, *given.values()) if isinstance(value, keras.KerasTensor)]
    dtype = tensors[0].dtype

    def as_array(value: Any) -> Any:
        return np.asarray(value, dtype) if isinstance(value, (list, tuple)) else value

    return as_array(first), {key: as_array(value) for key, value in given.items()}


def _padding(given: dict[str, Any]) -> dict[str, Any]:
    given = {**given, "mode": given.get("mode", "constant").lower()}
    if given["mode"] != "constant":
        given.pop("constant_values", None)
    return given


def _split(first: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Keras 3 names the places to cut at, TensorFlow the sizes."""
    sizes = given["indices_or_sections"]
    if isinstance(sizes, (list, tuple)):
        places = [sum(sizes[: position + 1]) for position in range(len(sizes) - 1)]
        given = {**given, "indices_or_sections": places}
    return {"axis": 0, **given}


def _sizes(given: dict[str, Any]) -> dict[str, Any]:
    """The same the other way."""
    places = given["indices_or_sections"]
    if isinstance(places, (list, tuple)):
        cuts = [0, *places, given["x"].shape[given["axis"]]]
        given = {**given, "indices_or_sections": np.diff(cuts).tolist()}
    return given


def _slices(key: Any) -> Any:
    if isinstance(key, (list, tuple)):
        return tuple(_slices(value) for value in key)
    if isinstance(key, Mapping):
        return slice(key["start"], key["stop"], key["step"])
    return key


def _written_slices(key: Any, rank: int) -> list[Any]:
    """tf_keras writes slices as dicts, and cannot save an ellipsis."""
    keys = list(key) if isinstance(key, (list, tuple)) else [key]
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        used = sum(entry is not None for entry in keys) - 1
        keys[place : place + 1] = [slice(None)] * (rank - used)
    return [
        {"start": entry.start, "stop": entry.stop, "step": entry.step}
        if isinstance(entry, slice)
        else entry
        for entry in keys
    ]


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _names() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, operation in OPERATIONS.items():
        for symbol in (operation.symbol, *operation.aliases):
            found.setdefault(symbol, name)
    return found


_NAMES: Mapping[str, str] = MappingProxyType(_names())
