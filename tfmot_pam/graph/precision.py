"""Networks in another precision than the one they were trained in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmot_pam.graph.network import Network

# Policies and types of floating point; integers, strings and quantised layers stay.
_FLOATS = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")


def in_float32(network: Network) -> Network:
    """The network with every layer, input and weight of floating point in float32."""
    return _in(network, "float32")


def in_float64(network: Network) -> Network:
    """The same in double precision, in which rounding is of no account."""
    return _in(network, "float64")


def is_in_float32(network: Network) -> bool:
    """Whether `in_float32` would change no configuration."""
    return all(
        layer.config == _converted(layer.config, "float32") for layer in network.layers.values()
    )


def _in(network: Network, dtype: str) -> Network:
    layers = {
        name: dataclasses.replace(
            layer,
            config=_converted(layer.config, dtype),
            weights={key: _array(value, dtype) for key, value in layer.weights.items()},
        )
        for name, layer in network.layers.items()
    }
    return network.replace(layers=layers)


def _converted(value: Any, dtype: str, key: str = "") -> Any:
    """A part of a configuration; those of layers that are written out in it likewise."""
    others = [name for name in _FLOATS if name != dtype]
    if isinstance(value, Mapping):
        policy = value.get("class_name") == "DTypePolicy" and value["config"]["name"] in others
        return dtype if policy else {n: _converted(v, dtype, n) for n, v in value.items()}
    if isinstance(value, list):
        return [_converted(entry, dtype) for entry in value]
    return dtype if key.endswith("dtype") and value in others else value


def _array(value: np.ndarray, dtype: str) -> np.ndarray:
    # NumPy has no bfloat16 of its own: the kind of that of `ml_dtypes` is "V".
    return value.astype(dtype) if value.dtype.kind in "fV" else value
