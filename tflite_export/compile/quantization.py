"""How a file stores its numbers: the table of quantisations, with their tolerances."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflite_export.compile import ai_edge
from tflite_export.verify import largest_error, rms_error


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How a file stores its numbers, and how far its outputs may then be from Keras.

    `export(quantization=)` takes one, or knows some by name.

    Attributes:
        name: What it is called in the manifest and the model card.
        configure: Sets the options of a `tf.lite.TFLiteConverter`.
        measure: Error of one output against Keras: `measure(actual, expected) -> float`.
        tolerance: The largest error that is still agreement.
        calibrated: Whether the ranges of activations come from representative data.
        integers: NumPy type of the inputs and outputs where they are integers on request; None
            where they are always floating-point numbers.
        sparse: Whether kernels with many zeros may be stored without them.
        weight_bytes: Bytes that an entry of a kernel takes.
        finish: Quantises the float32 file that the converter wrote, given its content, the name
            of its signature, representative inputs by name (None if it is not calibrated) and
            whether inputs and outputs become integers. None where the converter quantises.

    Raises:
        TypeError: `name` is no text, or a function is none.

    Example:
    >>> import tensorflow as tf, tflite_export
    >>> def half(converter):
    ...     converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ...     converter.target_spec.supported_types = [tf.float16]
    >>> mine = tflite_export.Quantization("half", half, tolerance=0.02, weight_bytes=2)
    >>> tflite_export.export(model, "out", quantization=mine)  # doctest: +SKIP
    """

    name: str
    configure: Callable[[Any], None]
    measure: Callable[[np.ndarray, np.ndarray], float] = rms_error
    tolerance: float = 0.1
    calibrated: bool = False
    integers: str | None = None
    sparse: bool = False
    weight_bytes: int = 4
    finish: Callable[[bytes, str, Mapping[str, np.ndarray] | None, bool], bytes] | None = None

    def __post_init__(self) -> None:
        called = [self.configure, self.measure, *([] if self.finish is None else [self.finish])]
        if not isinstance(self.name, str) or not self.name or not all(map(callable, called)):
            raise TypeError(
                f"Received name={self.name!r}, configure={self.configure!r}, "
                f"measure={self.measure!r} and finish={self.finish!r}. Expected a name and "
                "functions. Pass the functions themselves."
            )


def _float32(converter: Any) -> None:
    converter.optimizations = []


def _float16(converter: Any) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def _dynamic(converter: Any) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def _int8(converter: Any) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def _int16x8(converter: Any) -> None:
    import tensorflow as tf

    operations = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [operations]


# Rounding weights and activations to 8 bits costs about 1.2 % of a layer's output (root mean
# square: a step of range / 255 has the standard deviation range / 883, and a range is six to ten
# standard deviations). Independent errors add in squares: 0.1 is what 70 layers add up to. With
# ranges fixed beforehand, values beyond them are cut off besides, and what is computed between
# the layers is rounded too: 0.2. Outputs that are swapped or scrambled are off by 1 or more.
# Half precision rounds weights by at most 2^-11 of their size, 0.02 % (root mean square); 16-bit
# activations leave the error of 8-bit weights, which are the finer half of the 1.2 %.
QUANTIZATIONS: dict[str, Quantization] = {
    one.name: one
    for one in (
        Quantization("none", _float32, largest_error, 1e-4, sparse=True),
        Quantization("float16", _float16, tolerance=0.01, sparse=True, weight_bytes=2),
        Quantization("dynamic", _dynamic, weight_bytes=1),
        Quantization(
            "int8", _int8, tolerance=0.2, calibrated=True, integers="int8", weight_bytes=1
        ),
        Quantization("int16x8", _int16x8, calibrated=True, integers="int16", weight_bytes=1),
    )
}

# After quantisation aware training the ranges are in the model, and Keras rounds as the file does.
# What is left are single steps where a sum lies between two; a layer in floating point, such as
# LayerNormalization, may enlarge them to what int8 is allowed.
QUANTIZATION_AWARE: dict[str, Quantization] = {
    "int8": Quantization("int8", _dynamic, tolerance=0.2, integers="int8", weight_bytes=1),
}


def _by_ai_edge(name: str) -> Quantization:
    """The entry of `QUANTIZATIONS` with the work done by ai-edge-quantizer."""
    finish = functools.partial(ai_edge.quantize, name)
    return dataclasses.replace(QUANTIZATIONS[name], configure=_float32, sparse=False, finish=finish)


# By name of what quantises.
QUANTIZERS: dict[str, dict[str, Quantization]] = {
    "converter": QUANTIZATIONS,
    "ai-edge-quantizer": {name: _by_ai_edge(name) for name in ai_edge.RECIPES},
}


def find_quantization(
    quantization: str | Quantization, quantizer: str = "converter", *, aware: bool = False
) -> Quantization:
    """The quantization of a name, or one itself.

    Args:
        quantization: A key of `QUANTIZATIONS`, or one of the user's own.
        quantizer: A key of `QUANTIZERS`.
        aware: Whether the model is one after quantisation aware training.

    Raises:
        ValueError: There is none; the quantizer does not have it or is not installed; or a model
            after quantisation aware training cannot have it.
    """
    if isinstance(quantization, Quantization):
        return _check_own(quantization, quantizer, aware)
    for value, what, table in (
        (quantization, "quantization", QUANTIZATIONS),
        (quantizer, "quantizer", QUANTIZERS),
    ):
        if not isinstance(value, str) or value not in table:
            raise ValueError(
                f"Unknown {what}. Received: {value!r}. Expected one of: {list(table)}. Choose one."
            )
    if aware:
        return _find_aware(quantization, quantizer)
    if quantization not in QUANTIZERS[quantizer]:
        raise ValueError(
            f"{quantizer} has no recipe for quantization={quantization!r}. It has: "
            f"{list(QUANTIZERS[quantizer])}. Take quantizer='converter'."
        )
    if quantizer == "ai-edge-quantizer":
        ai_edge.check_installed()
    return QUANTIZERS[quantizer][quantization]


def _check_own(quantization: Quantization, quantizer: str, aware: bool) -> Quantization:
    """A user's own, which must be told apart from ours and needs nothing beside itself."""
    name = quantization.name
    if name in QUANTIZATIONS and quantization != QUANTIZATIONS[name]:
        raise ValueError(
            f"The manifest names quantizations. Received: one of your own called {name!r}. "
            f"Expected another name than {list(QUANTIZATIONS)}. Give it its own."
        )
    if quantizer != "converter":
        raise ValueError(
            f"A Quantization says itself what quantises. Received: quantizer={quantizer!r} beside "
            f"{name!r}. Expected 'converter'. Leave `quantizer` out, or pass a name."
        )
    return _find_aware(name, quantizer) if aware else quantization


def _find_aware(name: str, quantizer: str) -> Quantization:
    if name not in QUANTIZATION_AWARE:
        raise ValueError(
            f"A model after quantisation aware training has learned to compute in 8 bits. "
            f"Received: quantization={name!r}. Expected one of: {list(QUANTIZATION_AWARE)}. For "
            "others export the model that was passed to quantize_model()."
        )
    if quantizer != "converter":
        raise ValueError(
            "The ranges of a model after quantisation aware training are read by the converter. "
            f"Received: quantizer={quantizer!r}. Expected 'converter'. Leave `quantizer` out."
        )
    return QUANTIZATION_AWARE[name]
