"""The way into TFMOT: a model of its own Keras that shares nothing with the user's."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tfmot_pam.graph.generation import read_model
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.tf_keras import convert, emitter

_SWITCH = "TF_USE_LEGACY_KERAS"


def import_tfmot() -> Any:
    """TensorFlow Model Optimization, imported without changing what the user's `tf.keras` is.

    Its import sets an environment variable that decides, also for processes started later, which
    Keras `tf.keras` is, and that is settled by whoever uses `tf.keras` first.
    """
    if "tensorflow_model_optimization" not in sys.modules:
        import tensorflow as tf

        tf.keras.version()  # noqa: TID251 - settles it as the user's environment says
        before = os.environ.get(_SWITCH)
        import tensorflow_model_optimization  # noqa: F401

        if before is None:
            os.environ.pop(_SWITCH, None)
        else:
            os.environ[_SWITCH] = before
    return sys.modules["tensorflow_model_optimization"]


def enter(model: Any, change: Callable[[Network], Network] = lambda network: network) -> Any:
    """A tf_keras model that computes the same: the copy that TFMOT may change.

    Args:
        model: A model of either Keras.
        change: A transformation of its network that leaves alone what it computes.
    """
    copied = emitter.emit(change(read_model(model)))
    convert.check_crossing(model, copied)
    return convert.with_plan(copied, model)


def check_names(skip: Iterable[str], model: Any) -> frozenset[str]:
    """`skip` as a set of layer names of `model`."""
    if isinstance(skip, str):
        skip = (skip,)
    names = frozenset(skip)
    unknown = sorted(names - {layer.name for layer in model.layers})
    if unknown:
        raise ValueError(
            f"`skip` names the layers {unknown}, which model '{model.name}' lacks. Expected some "
            f"of {[layer.name for layer in model.layers if layer.weights]}. Correct the names."
        )
    return names


def has_kernel(layer: Any) -> bool:
    """Whether a layer has a weight of at least two axes: one that is worth treating."""
    return any(len(weight.shape) > 1 for weight in layer.weights)


def finish(treated: Any, source: Any, left_out: Mapping[str, str], what: str) -> Any:
    """The treated model, with the plan of its source and a word on the layers left out."""
    if left_out:
        listed = "; ".join(f"'{name}': {reason}" for name, reason in left_out.items())
        warnings.warn(f"{what} left out {listed}.", stacklevel=3)
    return convert.with_plan(emitter.name_outputs(treated), source)
