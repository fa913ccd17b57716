"""Networks in another precision than the one they were trained in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmot_pam.graph.network import Network

# Policies and types that become float32; integers, strings and quantised layers stay.
_OTHERS = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")


def in_float32(network: Network) -> Network:
    """The network with every layer, input and weight of floating point in float32."""
    layers = {
        name: dataclasses.replace(
            layer,
            config=_converted(layer.config),
            weights={key: _array(value) for key, value in layer.weights.items()},
        )
        for name, layer in network.layers.items()
    }
    return network.replace(layers=layers)


def is_in_float32(network: Network) -> bool:
    """Whether `in_float32` would change no configuration."""
    return all(layer.config == _converted(layer.config) for layer in network.layers.values())


def _converted(value: Any, key: str = "") -> Any:
    """A part of a configuration; those of layers that are written out in it likewise."""
    if isinstance(value, Mapping):
        policy = value.get("class_name") == "DTypePolicy" and value["config"]["name"] in _OTHERS
        return "float32" if policy else {name: _converted(v, name) for name, v in value.items()}
    if isinstance(value, list):
        return [_converted(entry) for entry in value]
    return "float32" if key.endswith("dtype") and value in _OTHERS else value


def _array(value: np.ndarray) -> np.ndarray:
    # NumPy has no bfloat16 of its own: the kind of that of `ml_dtypes` is "V".
    return value.astype("float32") if value.dtype.kind in "fV" else value
