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

    Attributes:
        configure: Sets the options of a `tf.lite.TFLiteConverter`.
        measure: Error of one output against Keras.
        tolerance: The largest error that is still agreement.
        calibrated: Whether the ranges of activations come from representative data.
        integers: NumPy type of the inputs and outputs where they are integers on request; None
            where they are always floating-point numbers.
        sparse: Whether kernels with many zeros may be stored without them.
        weight_bytes: Bytes that an entry of a kernel takes.
        finish: Quantises the float32 file that the converter wrote, given its content, the name
            of its signature, representative inputs by name (None if it is not calibrated) and
            whether inputs and outputs become integers. None where the converter quantises.
    """

    configure: Callable[[Any], None]
    measure: Callable[[np.ndarray, np.ndarray], float]
    tolerance: float
    calibrated: bool = False
    integers: str | None = None
    sparse: bool = False
    weight_bytes: int = 4
    finish: Callable[[bytes, str, Mapping[str, np.ndarray] | None, bool], bytes] | None = None


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
    "none": Quantization(_float32, largest_error, 1e-4, sparse=True),
    "float16": Quantization(_float16, rms_error, 0.01, sparse=True, weight_bytes=2),
    "dynamic": Quantization(_dynamic, rms_error, 0.1, weight_bytes=1),
    "int8": Quantization(_int8, rms_error, 0.2, calibrated=True, integers="int8", weight_bytes=1),
    "int16x8": Quantization(
        _int16x8, rms_error, 0.1, calibrated=True, integers="int16", weight_bytes=1
    ),
}

# After quantisation aware training the ranges are in the model, and Keras rounds as the file does.
# What is left are single steps where a sum lies between two; a layer in floating point, such as
# LayerNormalization, may enlarge them to what int8 is allowed.
QUANTIZATION_AWARE: dict[str, Quantization] = {
    "int8": Quantization(_dynamic, rms_error, 0.2, integers="int8", weight_bytes=1),
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
    name: str, quantizer: str = "converter", *, aware: bool = False
) -> Quantization:
    """Returns the quantization of that name.

    Args:
        name: A key of `QUANTIZATIONS`.
        quantizer: A key of `QUANTIZERS`.
        aware: Whether the model is one after quantisation aware training.

    Raises:
        ValueError: There is none; the quantizer does not have it or is not installed; or a model
            after quantisation aware training cannot have it.
    """
    for value, what, table in (
        (name, "quantization", QUANTIZATIONS),
        (quantizer, "quantizer", QUANTIZERS),
    ):
        if not isinstance(value, str) or value not in table:
            raise ValueError(
                f"Unknown {what}. Received: {value!r}. Expected one of: {list(table)}. Choose one."
            )
    if aware:
        return _find_aware(name, quantizer)
    if name not in QUANTIZERS[quantizer]:
        raise ValueError(
            f"{quantizer} has no recipe for quantization={name!r}. It has: "
            f"{list(QUANTIZERS[quantizer])}. Take quantizer='converter'."
        )
    if quantizer == "ai-edge-quantizer":
        ai_edge.check_installed()
    return QUANTIZERS[quantizer][name]


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
