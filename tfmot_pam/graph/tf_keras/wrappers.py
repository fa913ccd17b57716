"""TFMOT's wrappers around tf_keras layers, told by their classes' names: TFMOT is not imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_QUANTIZING = ("QuantizeLayer", "QuantizeWrapper", "QuantizeWrapperV2")
_INITIAL = (0.0, 6.0)  # ranges before training: -6 to 6, of inputs 0 to 0


def is_wrapper(layer: Any) -> bool:
    """Whether a layer is one of TFMOT's."""
    return type(layer).__module__.startswith("tensorflow_model_optimization")


def is_quantizing(layer: Any) -> bool:
    """Whether a layer is one of those that emulate quantisation while a model is trained."""
    return is_wrapper(layer) and type(layer).__name__ in _QUANTIZING


def is_quantization_aware(model: Any) -> bool:
    """Whether a tf_keras model has been prepared for quantisation aware training.

    Args:
        model: Anything.
    """
    return any(is_quantizing(layer) for layer in getattr(model, "layers", ()))


def unwrapped(layer: Any) -> Any:
    """The layer in a quantising wrapper, None if it only quantises, else the layer itself."""
    return getattr(layer, "layer", None) if is_quantizing(layer) else layer


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a layer in a quantising wrapper with the activation that it had."""
    activation = config.get("activation")
    while isinstance(activation, Mapping):
        if activation.get("class_name") == "QuantizeAwareActivation":
            activation = activation["config"]["activation"]
        elif activation.get("class_name") == "NoOpActivation":
            activation = "linear"
        else:
            break
    return {**config, "activation": activation} if "activation" in config else dict(config)


def has_learned_ranges(model: Any) -> bool:
    """Whether training has changed any range of a quantisation aware model.

    Args:
        model: A model that `is_quantization_aware`.
    """
    return any(not np.isin(np.abs(variable.numpy()), _INITIAL).all() for variable in _ranges(model))


def _ranges(model: Any) -> Iterator[Any]:
    for layer in filter(is_quantizing, model.layers):
        for variable in layer.weights:
            if variable.name.split(":")[0].endswith(("_min", "_max")):
                yield variable
