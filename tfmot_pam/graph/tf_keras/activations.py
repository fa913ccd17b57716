"""Activations that one Keras lacks, or computes otherwise, built of layers that both have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

# Builds a layer: its kind, what its name ends in (None for the last one), and its options.
Build = Callable[..., Any]
Pieces = Callable[[Any, Build], Any]

# These are the same function under the same name in both.
SAME = frozenset(
    "linear relu elu selu gelu softmax sigmoid tanh softplus softsign exponential mish".split()
)
# Keras 3's name, and the name that both understand.
RENAMED: Mapping[str, str] = MappingProxyType({"silu": "swish", "swish": "swish"})


def _shift_and_clip(x: Any, build: Build) -> Any:
    x = build("Rescaling", "shift", scale=1.0, offset=3.0)(x)
    return build("ReLU", "clip", max_value=6.0)(x)


def _hard_sigmoid(x: Any, build: Build) -> Any:
    """relu6(x + 3) / 6."""
    return build("Rescaling", None, scale=1 / 6, offset=0.0)(_shift_and_clip(x, build))


def _hard_silu(x: Any, build: Build) -> Any:
    """The product of x and hard_sigmoid(x)."""
    gate = build("Rescaling", "scale", scale=1 / 6, offset=0.0)(_shift_and_clip(x, build))
    return build("Multiply", None)([x, gate])


def _relu6(x: Any, build: Build) -> Any:
    return build("ReLU", None, max_value=6.0)(x)


def _leaky_relu(x: Any, build: Build) -> Any:
    # Without arguments the function has another slope than the layer.
    return build("LeakyReLU", None, alpha=0.2)(x)


def _tf_keras_hard_sigmoid(x: Any, build: Build) -> Any:
    """clip(0.2 x + 0.5, 0, 1)."""
    x = build("Rescaling", "line", scale=0.2, offset=0.5)(x)
    return build("ReLU", None, max_value=1.0)(x)


TO_TF_KERAS: Mapping[str, Pieces] = MappingProxyType(
    {
        "hard_sigmoid": _hard_sigmoid,
        "hard_silu": _hard_silu,
        "hard_swish": _hard_silu,
        "relu6": _relu6,
        "leaky_relu": _leaky_relu,
    }
)
FROM_TF_KERAS: Mapping[str, Pieces] = MappingProxyType({"hard_sigmoid": _tf_keras_hard_sigmoid})


def split(name: str, target: Any) -> tuple[str, Pieces | None]:
    """The activation to give to the other Keras's layer, and the pieces to put after it.

    Args:
        name: Name of the activation in the Keras that is left.
        target: The module `keras` or `tf_keras`.

    Raises:
        ValueError: the other Keras has no equal.
    """
    pieces = FROM_TF_KERAS if target.__name__ == "keras" else TO_TF_KERAS
    if name in pieces:
        return "linear", pieces[name]
    if name in SAME:
        return name, None
    if name in RENAMED:
        return RENAMED[name], None
    raise ValueError(f"its activation {name!r} has no equal in {target.__name__}")
