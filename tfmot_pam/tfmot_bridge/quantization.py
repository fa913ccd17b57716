"""TFMOT's quantisation aware training, alone or preserving sparsity and clusters."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tfmot_pam.graph.tf_keras.reader import references
from tfmot_pam.tfmot_bridge.crossing import check_names, enter, finish, has_kernel, import_tfmot
from tfmot_pam.tfmot_bridge.hoisting import hoist_concatenations
from tfmot_pam.tfmot_bridge.operations import operations_as_layers

# What a model was treated with before, and the scheme of TFMOT that keeps it.
SCHEMES: Mapping[str | None, Callable[[Any], Any]] = MappingProxyType(
    {
        None: lambda tfmot: tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme(),
        "sparsity": lambda tfmot: (
            tfmot.quantization.keras.collab_opts.Default8BitPrunePreserveQuantizeScheme()
        ),
        "clusters": lambda tfmot: (
            tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(
                preserve_sparsity=False
            )
        ),
        "sparsity+clusters": lambda tfmot: (
            tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(
                preserve_sparsity=True
            )
        ),
    }
)
# TFMOT's registry does not list these, its transformations quantise them.
_TRANSFORMED = ("SeparableConv1D", "SeparableConv2D")
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")


def quantize_model(model: Any, *, preserve: str | None = None, skip: Iterable[str] = ()) -> Any:
    """Prepares a model for TFMOT's quantisation aware training; head names stay.

    Use it as TFMOT's function of the same name: compile and fit the result, then
    `tflite_export.export(..., quantization="int8")`. It takes Keras 3 models too. Layers that
    TFMOT cannot quantise compute in floating point and have their outputs quantised, so that one
    of them does not stop the rest.

    Source: Jacob et al. (CVPR 2018); `tfmot.quantization.keras` does the work.

    Args:
        model: A functional or sequential model of either Keras, stripped of other wrappers. It is
            not changed.
        preserve: What earlier training put into the kernels and must stay: None, `"sparsity"`
            (PQAT), `"clusters"` (CQAT) or `"sparsity+clusters"` (PCQAT).
        skip: Names of layers whose kernels stay in floating point.

    Returns:
        A new tf_keras model with TFMOT's wrappers, not compiled.

    Raises:
        TypeError: `model` is no functional or sequential model.
        ValueError: `preserve` is unknown, `skip` names an unknown layer, `model` is wrapped
            already, or tf_keras lacks a layer.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((8,), name="x")
    >>> model = keras.Model(x, {"age": keras.layers.Dense(4, name="age")(x)})
    >>> list(tfmot_pam.quantize_model(model).output)
    ['age']
    """
    import tf_keras

    tfmot = import_tfmot()

    if preserve not in SCHEMES:
        raise ValueError(
            f"Unknown `preserve`: {preserve!r}. Expected one of {list(SCHEMES)}. Choose what the "
            "model was trained for before."
        )
    copied = enter(model, lambda network: hoist_concatenations(operations_as_layers(network)))
    names = check_names(skip, copied)
    scheme = SCHEMES[preserve](tfmot)
    registry = tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry()
    output_only = _output_config(tfmot)
    convolved = _after_convolutions(copied)
    left_out: dict[str, str] = {}

    def annotate(layer: Any) -> Any:
        keras_quantization = tfmot.quantization.keras
        if isinstance(layer, tf_keras.layers.InputLayer) or layer.name in names:
            return layer
        kind = type(layer).__name__
        if registry.supports(layer) or kind in _TRANSFORMED or layer.name in convolved:
            return keras_quantization.quantize_annotate_layer(layer)
        if has_kernel(layer):
            left_out[layer.name] = f"TFMOT cannot quantise {kind}"
        return keras_quantization.quantize_annotate_layer(layer, output_only())

    if preserve == "sparsity+clusters":
        _check_zeros(copied)
    annotated = tf_keras.models.clone_model(copied, clone_function=annotate)
    with quantize_scope():
        quantized = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    return finish(quantized, model, left_out, "quantize_model()")


def quantize_scope() -> Any:
    """The context in which tf_keras can load what `quantize_model` made.

    Use it as TFMOT's function of the same name, which does not know the configuration that
    `quantize_model` gives to layers that TFMOT cannot quantise. Save models as `.h5`: TFMOT's
    layers do not load from `.keras` files, and those that preserve clusters from none.

    Returns:
        A context manager of tf_keras's custom objects.

    Example:
    >>> import keras, tempfile, tf_keras, tfmot_pam
    >>> x = keras.Input((8,), name="x")
    >>> model = keras.Model(x, {"age": keras.layers.Dense(4, name="age")(x)})
    >>> path = f"{tempfile.mkdtemp()}/aware.h5"
    >>> tfmot_pam.quantize_model(model).save(path)
    >>> with tfmot_pam.quantize_scope():
    ...     list(tf_keras.models.load_model(path, compile=False).output)
    ['age']
    """
    tfmot = import_tfmot()
    output_only = _output_config(tfmot)
    return tfmot.quantization.keras.quantize_scope({output_only.__name__: output_only})


def _check_zeros(model: Any) -> None:
    """Warns where TFMOT, which decides once for all convolutions, may keep none of their zeros."""
    convolutions = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
    dense = [layer.name for layer in convolutions if np.all(layer.get_weights()[0])]
    if dense:
        warnings.warn(
            f"The kernels of {dense} have no zeros, so that TFMOT may keep none of those in other "
            "convolutions.",
            stacklevel=3,
        )


def _after_convolutions(model: Any) -> set[str]:
    """Batch normalisations that TFMOT folds into the convolution before them.

    It folds them where they alone read what a convolution without an activation writes.
    """
    config = model.get_config()
    entries = {entry["name"]: entry for entry in config["layers"]}
    calls = [entry["inbound_nodes"] for entry in config["layers"]]
    readers = collections.Counter(
        name for name, *_ in references([calls, config["output_layers"]], entries)
    )
    found = set()
    for entry in config["layers"]:
        reads = references(entry["inbound_nodes"], entries)
        if entry["class_name"] != "BatchNormalization" or len(reads) != 1:
            continue
        before = entries[reads[0][0]]
        linear = before["config"].get("activation") in (None, "linear")
        if before["class_name"] in _CONVOLUTIONS and linear and readers[before["name"]] == 1:
            found.add(entry["name"])
    return found


def _output_config(tfmot: Any) -> type:
    """The configuration of a layer that computes in floats and writes quantised values."""

    class QuantizeOutput(tfmot.quantization.keras.QuantizeConfig):
        def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
            return []

        def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
            return []

        def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
            pass

        def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
            pass

        def get_output_quantizers(self, layer: Any) -> list[Any]:
            quantizers = tfmot.quantization.keras.quantizers
            return [
                quantizers.MovingAverageQuantizer(
                    num_bits=8, per_axis=False, symmetric=False, narrow_range=False
                )
            ]

        def get_config(self) -> dict[str, Any]:
            return {}

    return QuantizeOutput
