"""What layers that are taken whole cost, counted by hand and against what is traced."""

from __future__ import annotations

import keras
import pytest

import tfmot_pam

layers = keras.layers


def cost(shapes, layer, called=None):
    inputs = [keras.Input(shape) for shape in shapes]
    called = called or (lambda layer, *tensors: layer(*tensors))
    return tfmot_pam.cost(keras.Model(inputs, called(layer, *inputs)))


def test_attention_by_heads():
    """3 heads of 4 numbers, values of 5; 6 places read 7 others."""
    layer = layers.MultiHeadAttention(3, 4, value_dim=5, name="attention")
    found = cost([(6, 8), (7, 9)], layer)
    projections = 6 * 8 * 12 + 7 * 9 * 12 + 7 * 9 * 15 + 6 * 15 * 8
    assert found.macs == projections + 6 * 7 * 3 * (4 + 5)
    assert found.unsupported == {}
    with_keys = cost([(6, 8), (7, 9), (7, 10)], layers.MultiHeadAttention(3, 4, value_dim=5))
    assert with_keys.macs == found.macs + 7 * (10 - 9) * 12


def test_attention_along_one_axis_of_a_map():
    layer = layers.MultiHeadAttention(2, 4, attention_axes=2)
    found = cost([(5, 6, 8)], layer, lambda layer, x: layer(x, x))
    assert found.macs == 4 * 30 * 8 * 8 + 30 * 6 * 2 * 8


def test_heads_that_share_keys_and_values():
    layer = layers.GroupQueryAttention(4, 6, 2)
    found = cost([(7, 9)], layer, lambda layer, x: layer(x, x))
    projections = 2 * (7 * 9 * 24) + 2 * (7 * 9 * 8)
    assert found.macs == projections + 7 * 7 * 6 * 8
    layer = layers.GroupQueryAttention(4, 6, 2, use_gate=True, sliding_window=3)
    gated = cost([(7, 9)], layer, lambda layer, x: layer(x, x))
    assert gated.macs == projections + 7 * 9 * 24 + 7 * 3 * 6 * 8


def test_attention_without_projections():
    assert cost([(6, 8), (7, 8)], layers.Attention(), lambda a, q, v: a([q, v])).macs == 6 * 7 * 16


@pytest.mark.parametrize(
    ("equation", "output", "macs"),
    [
        ("ab,bc->ac", 5, 6 * 5),
        ("abc,cd->abd", (4, 5), 4 * 6 * 5),
        ("abc,cde->abde", (4, 3, 2), 4 * 6 * 6),
        ("abc,bcd->ad", 5, 4 * 6 * 5),
        ("...c,cd->...d", 5, 4 * 6 * 5),
    ],
)
def test_dense_layers_by_equation(equation, output, macs):
    shape = (6,) if equation.startswith("ab,") else (4, 6)
    assert cost([shape], layers.EinsumDense(equation, output)).macs == macs


@pytest.mark.parametrize(
    "layer",
    [
        layers.LayerNormalization,
        layers.RMSNormalization,
        layers.UnitNormalization,
        lambda: layers.GroupNormalization(2),
        lambda: layers.Embedding(9, 4),
    ],
)
def test_what_counts_no_operations_is_not_left_out(layer):
    found = cost([(6,)], layer())
    assert found.macs == 0
    assert found.unsupported == {}
