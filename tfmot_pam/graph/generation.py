"""Both generations of Keras at the doors: what goes in tells what comes out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import keras

from tfmot_pam.graph import reader
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.tf_keras import convert
from tfmot_pam.graph.tf_keras import emitter as tf_keras_emitter
from tfmot_pam.graph.tf_keras import reader as tf_keras_reader

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def is_tf_keras(value: Any) -> bool:
    """Whether an object is one of tf_keras, or of a class derived from one.

    The module of the class tells, whatever was imported first and whatever `tf.keras` is.
    """
    return any(cls.__module__.partition(".")[0] == "tf_keras" for cls in type(value).__mro__)


def read_model(model: Any) -> Network:
    """Reads a functional or sequential model of either Keras.

    Raises:
        TypeError: `model` is of neither, or is a subclassed model.
        ValueError: it is not built, or has a layer that Keras 3 lacks.
    """
    return tf_keras_reader.read(model) if is_tf_keras(model) else reader.read(model)


def emit_like(model: Any, network: Network) -> Any:
    """Writes a network as a model of the generation that `model` is of."""
    return tf_keras_emitter.emit(network) if is_tf_keras(model) else emit(network)


def as_keras(model: Any, what: str = "The model") -> Any:
    """The Keras 3 twin of a tf_keras model; anything else is returned as it is."""
    return convert.convert_to_keras(model, what) if is_tf_keras(model) else model


def same_generation(
    argument: str,
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Lets a function that is written for Keras 3 take tf_keras models and return one.

    tf_keras models are converted wherever they are passed, alone or in a dict, list or tuple. If
    those of `argument` are tf_keras models, so is the model that is returned; what is no model is
    returned as it is.

    Args:
        argument: The argument whose generation decides.

    Example:
    >>> import tf_keras
    >>> @same_generation("model")
    ... def renamed(model, name):
    ...     return keras.Model(model.input, model.output, name=name)
    >>> import keras
    >>> x = tf_keras.Input((4,))
    >>> is_tf_keras(renamed(tf_keras.Model(x, tf_keras.layers.Dense(2)(x)), "new"))
    True
    """

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            bound = signature.bind(*args, **kwargs)
            back = are_tf_keras(bound.arguments.get(argument), argument)
            for name, value in bound.arguments.items():
                bound.arguments[name] = _converted(value, name)
            result = function(*bound.args, **bound.kwargs)
            back = back and isinstance(result, keras.Model)
            return convert.to_tf_keras(result) if back else result

        return wrapper

    return decorate


def are_tf_keras(value: Any, argument: str) -> bool:
    """Whether a model, or all of several, are of tf_keras.

    Raises:
        ValueError: they are of both generations.
    """
    models = [model for _, model in _members(value, argument)]
    generations = {is_tf_keras(model) for model in models}
    if len(generations) > 1:
        received = {
            what: "tf_keras" if is_tf_keras(model) else type(model).__module__.partition(".")[0]
            for what, model in _members(value, argument)
        }
        raise ValueError(
            f"`{argument}` mixes the two generations of Keras. Received: {received}. Expected all "
            "of one. Convert the others with tfmot_pam.from_tf_keras or tfmot_pam.to_tf_keras."
        )
    return generations == {True}


def _members(value: Any, argument: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f"The model of {key!r}", entry) for key, entry in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"Model {index} of `{argument}`", entry) for index, entry in enumerate(value)]
    return [(f"`{argument}`", value)]


def _converted(value: Any, argument: str) -> Any:
    """`value` with Keras 3 models in the place of tf_keras ones."""
    members = _members(value, argument)
    if not any(is_tf_keras(member) for _, member in members):
        return value
    entries = [_keras_object(member, what, argument) for what, member in members]
    if isinstance(value, Mapping):
        return dict(zip(value, entries, strict=True))
    return type(value)(entries) if isinstance(value, (list, tuple)) else entries[0]


def _keras_object(value: Any, what: str, argument: str) -> Any:
    if not is_tf_keras(value):
        return value
    if not hasattr(value, "predict_on_batch"):
        raise TypeError(
            f"`{argument}` must be of Keras 3, in which all training happens. Received: {value!r} "
            f"of type {type(value).__module__}.{type(value).__name__}. Pass its counterpart of "
            "the package keras, or its name."
        )
    return as_keras(value, what)
