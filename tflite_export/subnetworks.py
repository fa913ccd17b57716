"""What is exported: the networks of the chosen combinations, and inputs to try them on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.converter import input_name

if TYPE_CHECKING:
    import keras

_RANDOM_SAMPLES = 16
_MOST_SAMPLES = 256
_KERAS_BATCH = 32
_SIGNATURE_NAME = r"[A-Za-z0-9.][A-Za-z0-9_.-]*"


def exportable(model: Any) -> keras.Model:
    """Returns a functional model with a dict of outputs, checked to fit into TFLite files.

    Args:
        model: What the user passed.

    Returns:
        A functional model of the same layers and weights, called on a bare tensor. A single
        output is keyed by the name of the output layer.

    Raises:
        TypeError: `model` is not a functional or sequential Keras 3 model.
        ValueError: It is not built, its outputs have no task names, it has several inputs, an
            input of unknown size or with a name that TensorFlow cannot write, or a weight that is
            not finite; or Keras runs on another backend than TensorFlow.
    """
    import keras

    from tfmot_pam.graph.generation import as_keras
    from tfmot_pam.graph.reader import check_model

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "TFLite files are made by TensorFlow. Received: a model on the Keras backend "
            f"'{keras.backend.backend()}'. Save it, and load it with KERAS_BACKEND=tensorflow."
        )
    model = as_keras(model, "`model`")
    check_model(model, "`model`")
    if len(model.inputs) != 1:
        raise ValueError(
            f"The model must have one input. Received: {len(model.inputs)} inputs. "
            "Feed it one tensor and split that inside the model."
        )
    model = keras.Model(model.inputs[0], _outputs_by_task(model), name=model.name)
    _check_input(model)
    for variable in model.weights:
        if not np.isfinite(np.asarray(variable.numpy(), dtype=np.float64)).all():
            raise ValueError(
                f"The weights must be finite. Received: NaN or infinity in '{variable.path}' of "
                f"model '{model.name}'. Train the model again; it diverged."
            )
    return model


def choose_combinations(
    model: keras.Model, combinations: str | Iterable[str | Iterable[str]]
) -> list[tuple[str, ...]]:
    """Returns the combinations to export, each in model order.

    Args:
        model: A model that `exportable` returned.
        combinations: `"all"`, or a list whose entries are sequences of task names, or strings of
            names joined with "+".

    Raises:
        TypeError: `combinations` or an entry is of another type.
        ValueError: It is empty, has an empty entry, or names a task that the model lacks.
    """
    import tfmot_pam

    if isinstance(combinations, str) and combinations == "all":
        return list(tfmot_pam.combinations(model))
    known = tuple(model.output)
    if isinstance(combinations, str) or not isinstance(combinations, Iterable):
        raise TypeError(
            f"`combinations` must be 'all' or a list of combinations. Received: {combinations!r}. "
            f"Pass a list such as {[known[0]]!r}."
        )
    chosen = [_one_combination(known, combination) for combination in combinations]
    if not chosen:
        raise ValueError("`combinations` is empty. Name at least one combination, or pass 'all'.")
    return list(dict.fromkeys(chosen))


def trial_inputs(model: keras.Model, samples: Any, seed: int) -> np.ndarray:
    """Returns the inputs that the files are run on.

    Args:
        model: A model that `exportable` returned.
        samples: Real inputs of shape `(n, ...)`, of which at most 256, evenly spaced, are taken;
            or None for 16 random ones: standard normal numbers, for integer inputs 0 and 1.
        seed: Seed of the random inputs.

    Raises:
        TypeError: `samples` has another kind of numbers than the model's input.
        ValueError: `samples` is empty, has another shape, or holds NaN or infinity.
    """
    shape, dtype = tuple(model.inputs[0].shape[1:]), np.dtype(model.inputs[0].dtype)
    if samples is None:
        random = np.random.default_rng(seed)
        size = (_RANDOM_SAMPLES, *shape)
        if np.issubdtype(dtype, np.floating):
            return random.standard_normal(size).astype(dtype)
        return random.integers(0, 2, size).astype(dtype)
    given = np.asarray(samples)
    if given.ndim == 0 or given.shape[1:] != shape or not len(given):
        raise ValueError(
            f"`samples` must be an array of shape (n, {str(shape)[1:-1].rstrip(',')}) with n >= 1. "
            f"Received: shape {given.shape}. Pass inputs as the model takes them."
        )
    if not np.can_cast(given.dtype, dtype, "same_kind"):
        raise TypeError(
            f"`samples` must be numbers that fit the model's input of type {dtype}. "
            f"Received: {given.dtype}. Convert them first."
        )
    if not np.isfinite(given).all():
        raise ValueError("`samples` must be finite. Received: NaN or infinity. Clean them first.")
    positions = np.linspace(0, len(given) - 1, min(len(given), _MOST_SAMPLES)).round().astype(int)
    return given[positions].astype(dtype)


def keras_outputs(network: keras.Model, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Runs a network with a dict of outputs in Keras.

    Args:
        network: A functional model with one input and a dict of outputs.
        inputs: Inputs of shape `(n, ...)`.

    Returns:
        Outputs by task, each of shape `(n, ...)`.

    Raises:
        ValueError: An output is NaN or infinite.
    """
    import keras

    starts = range(0, len(inputs), _KERAS_BATCH)
    batches = [network(inputs[start : start + _KERAS_BATCH], training=False) for start in starts]
    outputs = {
        task: np.concatenate([keras.ops.convert_to_numpy(batch[task]) for batch in batches])
        for task in network.output
    }
    for task, values in outputs.items():
        if not np.isfinite(values).all():
            raise ValueError(
                f"The Keras model's own output for '{task}' holds NaN or infinity, so no file can "
                "be checked against it. Try real inputs (samples), or repair the model."
            )
    return outputs


def _check_input(model: keras.Model) -> None:
    shape = tuple(model.inputs[0].shape)
    if None in shape[1:]:
        raise ValueError(
            f"The input's shape must be fixed but for the batch. Received: {shape}. Build the "
            "model with the size it will have on the device."
        )
    name = input_name(model)
    if not re.fullmatch(_SIGNATURE_NAME, name):
        raise ValueError(
            f"The input's name must be one that TensorFlow can write. Received: {name!r}. Use "
            "letters, digits, '_', '.' and '-' in keras.Input(name=...)."
        )


def _outputs_by_task(model: keras.Model) -> dict[str, Any]:
    import keras

    if isinstance(model, keras.Sequential):
        return {model.layers[-1].name: model.outputs[0]}
    if isinstance(model.output, dict):
        return model.output
    if len(model.outputs) == 1:
        return {model.output_names[0]: model.outputs[0]}
    raise ValueError(
        f"The outputs must be one tensor or a dict keyed by task. Received: {len(model.outputs)} "
        f"outputs in a {type(model.output).__name__}. Build the model as keras.Model(inputs, "
        "{'task': output, ...})."
    )


def _one_combination(known: Sequence[str], combination: Any) -> tuple[str, ...]:
    if isinstance(combination, str):
        tasks = [combination] if combination in known else combination.split("+")
    elif isinstance(combination, Iterable):
        tasks = list(combination)
    else:
        raise TypeError(
            f"A combination must be a sequence of task names or names joined with '+'. "
            f"Received: {combination!r}. The tasks are {list(known)}."
        )
    unknown = [task for task in tasks if task not in known]
    if unknown or not tasks:
        raise ValueError(
            f"A combination must name tasks of the model. Received: {combination!r}"
            f"{f', in which {unknown} are unknown' if unknown else ''}. "
            f"The tasks are {list(known)}."
        )
    return tuple(task for task in known if task in tasks)
