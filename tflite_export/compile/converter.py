"""From a Keras model to the bytes of a TFLite file."""

from __future__ import annotations

import contextlib
import gc
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.compile.model_inputs import called, inputs_of
from tflite_export.compile.quantization import Quantization
from tflite_export.silence import quiet_stderr

if TYPE_CHECKING:
    import keras


def convert(
    network: keras.Model,
    signature: str,
    quantization: Quantization,
    *,
    calibration: Mapping[str, np.ndarray] | None = None,
    integer_io: bool = False,
    sparse: bool = False,
) -> bytes:
    """Converts a model with a dict of outputs, for one sample at a time.

    The file has one signature, whose inputs have the names of the model's InputLayers and whose
    outputs have those of its heads. It uses TFLite's built-in operations only.
    One signature at a time, because the converter gives several of them wrong biases in 16 bits;
    `packing.pack` joins files afterwards.

    Args:
        network: A functional model of either Keras with a dict of outputs.
        signature: Name of the signature.
        quantization: What `find_quantization` returned.
        calibration: Representative inputs by name, each of shape `(n, ...)`, where the
            quantization is calibrated.
        integer_io: Whether inputs and outputs are integers, where the quantization allows it.
        sparse: Whether kernels that are mostly zeros are stored without the zeros.

    Returns:
        The contents of the `.tflite` file.

    Raises:
        ValueError: TFLite lacks an operation that the model uses, or it cannot be quantised.
    """
    import tensorflow as tf

    with quiet_stderr(), tempfile.TemporaryDirectory() as saved_model:
        module = traced_module(network)
        tf.saved_model.save(module, saved_model, signatures={signature: module.forward})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            saved_model, signature_keys=[signature]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        quantization.configure(converter)
        if sparse:
            converter.optimizations = [
                *converter.optimizations,
                tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
            ]
        if quantization.finish is None:
            _quantize_while_converting(converter, network, quantization, calibration, integer_io)
        try:
            with _little_garbage():
                content = converter.convert()
        except Exception as error:
            raise ValueError(_conversion_failure(str(error))) from error
    if quantization.finish is None:
        return content
    used = calibration if quantization.calibrated else None
    samples = None if used is None else _own(network, used)
    return quantization.finish(content, signature, samples, integer_io)


@contextlib.contextmanager
def _little_garbage() -> Iterator[None]:
    """Leaves what there is already out of the collections of garbage that come.

    TensorFlow's converter collects once a file, and looks through the objects of all modules: that
    takes as long as the rest of a small file.
    """
    if gc.get_freeze_count():  # the user's, whose objects would be let go below
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _quantize_while_converting(
    converter: Any,
    network: keras.Model,
    quantization: Quantization,
    calibration: Mapping[str, np.ndarray] | None,
    integer_io: bool,
) -> None:
    import tensorflow as tf

    if quantization.calibrated and calibration is not None:
        samples = _own(network, calibration)
        converter.representative_dataset = lambda: _one_by_one(samples)
    if integer_io and quantization.integers:
        converter.inference_input_type = tf.as_dtype(quantization.integers)
        converter.inference_output_type = tf.as_dtype(quantization.integers)


def _own(network: keras.Model, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The samples of the inputs that a network has."""
    return {name: samples[name] for name in inputs_of(network)}


def _one_by_one(samples: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for index in range(len(next(iter(samples.values())))):
        yield {name: array[index : index + 1] for name, array in samples.items()}


def traced_module(network: keras.Model) -> Any:
    """Wraps the forward pass in a plain `tf.Module`, as its function `forward`.

    Saving the Keras model itself loses its weights without a word, and Keras's own archive, which
    gives the same file, traces a model three times and takes twice as long on a large one.
    """
    import tensorflow as tf

    specs = {
        name: tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=name)
        for name, tensor in inputs_of(network).items()
    }

    def forward(*samples: Any) -> dict[str, Any]:
        return called(network, dict(zip(specs, samples, strict=True)))

    module = tf.Module()
    module.forward = tf.function(forward, input_signature=list(specs.values()), autograph=False)
    module.captured = list(module.forward.get_concrete_function().variables)
    return module


def _conversion_failure(message: str) -> str:
    """Says which operation failed, from the converter's many lines."""
    places = re.findall(r'fused\["([^":]+):", "([^"@]+)@', message)
    found = next((place for place in places if "/" in place[1]), None)
    if found:
        return f"TFLite has no operation for {found[0]}, used at '{found[1]}'. Replace that layer."
    return f"The TFLite converter failed: {message.strip().splitlines()[0][:300]}"
