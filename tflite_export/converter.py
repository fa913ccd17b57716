"""From a Keras model to the bytes of a TFLite file."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.quiet import quiet_stderr
from tflite_export.verify import SIGNATURE, largest_error, rms_error

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How a file stores its numbers, and how far its outputs may then be from Keras.

    Attributes:
        configure: Sets the options of a `tf.lite.TFLiteConverter`.
        measure: Error of one output against Keras.
        tolerance: The largest error that is still agreement.
    """

    configure: Callable[[Any], None]
    measure: Callable[[np.ndarray, np.ndarray], float]
    tolerance: float


def _float32(converter: Any) -> None:
    converter.optimizations = []


def _dynamic(converter: Any) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]


# Dynamic: rounding weights and activations to 8 bits costs about 1.2 % of a layer's output (root
# mean square: a step of range / 255 has the standard deviation range / 883, and a range is six to
# ten standard deviations). Independent errors add in squares: 0.1 is what 70 layers add up to,
# while outputs that are swapped or scrambled are off by 1 or more.
QUANTIZATIONS: dict[str, Quantization] = {
    "none": Quantization(_float32, largest_error, 1e-4),
    "dynamic": Quantization(_dynamic, rms_error, 0.1),
}


def find_quantization(name: str) -> Quantization:
    """Returns the quantization of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in QUANTIZATIONS:
        raise ValueError(
            f"Unknown quantization. Received: {name!r}. Expected one of: {sorted(QUANTIZATIONS)}."
        )
    return QUANTIZATIONS[name]


def convert(network: keras.Model, quantization: Quantization) -> bytes:
    """Converts a model with one input and a dict of outputs, for one sample at a time.

    The file has one signature, `serving_default`, whose input has the name of the model's
    InputLayer and whose outputs have the keys of the model's output dict. It uses TFLite's
    built-in operations only.

    Args:
        network: A functional model with one input tensor and a dict of outputs.
        quantization: An entry of `QUANTIZATIONS`.

    Returns:
        The contents of the `.tflite` file.

    Raises:
        ValueError: TFLite lacks an operation that the model uses.
    """
    import tensorflow as tf

    with quiet_stderr(), tempfile.TemporaryDirectory() as saved_model:
        module = _traced_module(network)
        tf.saved_model.save(module, saved_model, signatures={SIGNATURE: module.forward})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            saved_model, signature_keys=[SIGNATURE]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        quantization.configure(converter)
        try:
            return converter.convert()
        except Exception as error:
            raise ValueError(_conversion_failure(str(error))) from error


def input_name(network: keras.Model) -> str:
    """Returns the name of a one-input functional model's InputLayer."""
    import keras

    layers = network.layers
    return next(layer.name for layer in layers if isinstance(layer, keras.layers.InputLayer))


def _traced_module(network: keras.Model) -> Any:
    """Wraps the forward pass in a plain `tf.Module`.

    Saving the Keras model itself loses its weights without a word, and Keras's own archive, which
    gives the same file, traces a model three times and takes twice as long on a large one.
    """
    import tensorflow as tf

    tensor = network.inputs[0]
    spec = tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=input_name(network))

    def forward(samples: Any) -> dict[str, Any]:
        return dict(network(samples, training=False))

    module = tf.Module()
    module.forward = tf.function(forward, input_signature=[spec], autograph=False)
    module.captured = list(module.forward.get_concrete_function().variables)
    return module


def _conversion_failure(message: str) -> str:
    """Says which operation failed, from the converter's many lines."""
    places = re.findall(r'fused\["([^":]+):", "([^"@]+)@', message)
    found = next((place for place in places if "/" in place[1]), None)
    if found:
        return f"TFLite has no operation for {found[0]}, used at '{found[1]}'. Replace that layer."
    return f"The TFLite converter failed: {message.strip().splitlines()[0][:300]}"
