"""Dense layers that are written as sums over axes."""

from __future__ import annotations

import re

import keras

from tfmot_pam.graph.network import Layer

# Of one letter each: the axis that is read, that which is written; what is before stays in place.
_DENSE = re.compile(r"(\.\.\.|[a-zA-Z]+)([a-zA-Z]),\2([a-zA-Z])->\1\3")
_OF_EINSUM_ALONE = frozenset({"equation", "output_shape", "bias_axes"})


def as_dense(layer: Layer) -> Layer:
    """The Dense layer that computes what an EinsumDense does; any other layer as it is.

    One that reads the last axis alone and writes it anew is a dense layer, whose channels are
    merged and pruned one by one.
    """
    if layer.cls is not keras.layers.EinsumDense or layer.weights.keys() - {"kernel", "bias"}:
        return layer
    found = _DENSE.fullmatch(layer.config["equation"].replace(" ", ""))
    if found is None or layer.config["bias_axes"] not in (None, "", found[3]):
        return layer
    config = {key: value for key, value in layer.config.items() if key not in _OF_EINSUM_ALONE}
    config["units"] = layer.weights["kernel"].shape[1]
    config["use_bias"] = "bias" in layer.weights
    return Layer(layer.name, keras.layers.Dense, config, layer.weights, layer.tasks)
