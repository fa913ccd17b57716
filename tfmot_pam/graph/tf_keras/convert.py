"""From one Keras to the other and back: exact conversion, checked on random input."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfmot_pam.graph import reader as keras_reader
from tfmot_pam.graph.emitter import emit as emit_keras
from tfmot_pam.graph.tf_keras import emitter, reader

# Both Kerases call the same TensorFlow kernels; only the order of a few additions differs.
TOLERANCE = 1e-5
_HALF_TOLERANCE = 1e-2
_UNKNOWN_SIZE = 32


def to_tf_keras(model: keras.Model) -> Any:
    """Converts a Keras 3 model to tf_keras exactly: graph, names, weights.

    Use it to hand a model to tools that know tf_keras only, TFMOT above all. Merged models become
    ordinary layers, one a channel group; their task sets follow from their outputs, so that
    `combinations`, `select_tasks`, `cost` and `report` go on working. An activation that tf_keras
    computes otherwise becomes an equivalent of built-in layers; a layer that tf_keras lacks and
    that acts in training only, such as most augmentation, becomes a linear activation, with a
    warning. The optimizer is left behind, and models used as layers are taken apart into their
    layers.

    Args:
        model: A functional or sequential Keras 3 model. It is not changed.

    Returns:
        A new functional `tf_keras.Model`. It was run once against `model` on random input: the
        outputs agree to a relative error of 1e-5.

    Raises:
        TypeError: `model` is not a functional or sequential Keras 3 model.
        ValueError: tf_keras lacks a layer (see `register_layer_conversion`), or the outputs
            disagree.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, {"age": keras.layers.Dense(2, activation="hard_sigmoid")(x)})
    >>> type(tfmot_pam.to_tf_keras(model)).__module__.split(".")[0]
    'tf_keras'
    """
    keras_reader.check_model(model, "`model`")
    converted = emitter.emit(keras_reader.read(model))
    check_crossing(model, converted)
    return with_plan(converted, model)


def from_tf_keras(model: Any) -> keras.Model:
    """Converts a tf_keras model to Keras 3 exactly: graph, names, weights.

    Use it after TFMOT, or to bring an older model up to date. A model that was merged gets its
    `TaskGroup` wrappers back. Strip TFMOT's wrappers first.

    Args:
        model: A functional or sequential tf_keras model. It is not changed.

    Returns:
        A new functional Keras 3 model. It was run once against `model` on random input: the
        outputs agree to a relative error of 1e-5.

    Raises:
        TypeError: `model` is not a functional or sequential tf_keras model.
        ValueError: it is wrapped by TFMOT, Keras 3 lacks a layer (see
            `register_layer_conversion`), a layer is called with `training=True`, or the outputs
            disagree.

    Example:
    >>> import tf_keras, tfmot_pam
    >>> x = tf_keras.Input((4,), name="x")
    >>> model = tf_keras.Model(x, {"age": tf_keras.layers.Dense(2, name="age")(x)})
    >>> tfmot_pam.from_tf_keras(model).output_names
    ['age']
    """
    return convert_to_keras(model, "`model`")


def convert_to_keras(model: Any, what: str) -> keras.Model:
    """`from_tf_keras` with the name that errors give to the model."""
    converted = emit_keras(reader.read_for_inference(model, what))
    check_crossing(model, converted)
    return with_plan(converted, model)


def with_plan(converted: Any, source: Any) -> Any:
    """`converted` with the merge plan that `source` carries, if any."""
    plan = getattr(source, "merge_plan", None)
    if plan is not None:
        converted.merge_plan = plan
    return converted


def check_crossing(source: Any, converted: Any) -> None:
    """Runs two models on the same random input.

    Raises:
        ValueError: their outputs differ by more than 1e-5 of the largest output.
    """
    # A sequential model that was never called has no input, but a list of one.
    inputs = getattr(source, "input", source.inputs[0])
    given = keras.tree.map_structure(_random_input, inputs)
    expected, found = (_outputs(model, given) for model in (source, converted))
    for position, (value, other) in enumerate(zip(expected, found, strict=True)):
        error = relative_error(value, other)
        half = value.dtype.itemsize < 4 or _computes_in_half(source)
        if not error <= (_HALF_TOLERANCE if half else TOLERANCE):
            raise ValueError(
                f"Model '{source.name}' cannot be converted exactly: output {position} differs by "
                f"{error:.3g} of its largest value. Expected at most {TOLERANCE:g}. Find the "
                "layer that both Kerases compute differently by converting parts of the model, "
                "keras.Model(model.input, layer.output), and register an equal one with "
                "tfmot_pam.register_layer_conversion."
            )


def relative_error(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, relative to the largest value; NaN and infinity must agree."""
    expected, found = expected.astype("float64"), found.astype("float64")
    finite = np.isfinite(expected)
    if expected.shape != found.shape or not np.array_equal(
        expected[~finite], found[~finite], equal_nan=True
    ):
        return float("inf")
    if not finite.any():
        return 0.0
    difference = np.abs(expected[finite] - found[finite]).max()
    return float(difference / max(np.abs(expected[finite]).max(), 1e-30))


def _computes_in_half(model: Any) -> bool:
    return any("16" in str(getattr(layer, "compute_dtype", "float32")) for layer in model.layers)


def _random_input(tensor: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    batch, *sizes = tensor.shape
    shape = (2 if batch is None else batch, *(size or _UNKNOWN_SIZE for size in sizes))
    dtype = np.dtype(keras.backend.standardize_dtype(tensor.dtype))
    if dtype.kind in "iub":
        # Small enough for any vocabulary.
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


def _outputs(model: Any, given: Any) -> list[np.ndarray]:
    # Keras flattens dicts in the order of their keys, whichever Keras made them.
    values = keras.tree.flatten(model(given, training=False))
    return [keras.ops.convert_to_numpy(value) for value in values]
