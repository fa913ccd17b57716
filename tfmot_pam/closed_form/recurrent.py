"""Recurrent layers in two: what they make of their input at each step, and the rest."""

from __future__ import annotations

import keras
import numpy as np

from tfmot_pam.closed_form import linear
from tfmot_pam.closed_form.linear import LinearForm
from tfmot_pam.graph.network import Layer
from tfmot_pam.graph.rules import without_built_shapes


def projection_apart(form: LinearForm, layer: Layer, name: str) -> tuple[Layer, Layer]:
    """A layer whose form is `whole`, as a dense layer and the same layer behind it.

    One after the other they compute what it computes: the second reads the gates' inputs, each
    gate its own, and adds nothing to them.

    Args:
        form: The layer's form.
        layer: A recurrent layer, or two of them in `Bidirectional`.
        name: The name of the second.

    Returns:
        The dense layer, which has the layer's name, and the rest.
    """
    matrix, bias = linear.matrix(form, layer), linear.bias(form, layer)
    config = {"name": layer.name, "units": matrix.shape[1], "dtype": layer.config["dtype"]}
    dense = Layer(layer.name, keras.layers.Dense, config, {"kernel": matrix, "bias": bias})
    narrow = linear.changed(form, layer, -matrix, -bias).weights  # with nothing but the state's
    start, weights = 0, dict(narrow)
    for kernel in form.matrices:
        units = narrow[kernel].shape[1]
        weights[kernel] = np.eye(matrix.shape[1], units, -start, dtype=matrix.dtype)
        start += units
    config = {**without_built_shapes(layer.config), "name": name}
    return dense, Layer(name, layer.cls, config, weights)
