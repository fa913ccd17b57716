"""Tests of lowering: folded normalisations, sums for concatenations, padded widths."""

import keras
import numpy as np
import pytest
from keras import layers

from tests import small_nets
from tests.grouped_nets import BLOCKS, grouped, lowered_outputs, residual
from tfmot_pam import lowering
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.reader import read

BEFORE_NORM = {
    "convolution": lambda: layers.Conv2D(5, 3, strides=2, use_bias=False),
    "with bias": lambda: layers.Conv2D(5, 3, bias_initializer="random_normal"),
    "transposed": lambda: layers.Conv2DTranspose(5, 3, use_bias=False),
    "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    "separable": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, use_bias=False),
    "grouped": lambda: layers.Conv2D(6, 3, groups=3, use_bias=False),
    "dense": lambda: layers.Dense(4),
}


def _checked(lowered, model, x):
    """The kinds of layers of a lowered network, which computes what the model computes."""
    expected = small_nets.all_outputs(model, x)
    for task, values in lowered_outputs(lowered, x).items():
        np.testing.assert_allclose(values, expected[task], rtol=1e-5, atol=1e-5)
    return [lowered.layer_of(node).kind for node in lowered.nodes]


@pytest.mark.parametrize("kind", BEFORE_NORM)
@pytest.mark.parametrize("options", [{}, {"scale": False, "center": False}])
def test_normalisation_is_folded_into_every_kind_of_layer(kind, options):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3), name="image")
    normalised = layers.BatchNormalization(**options)(BEFORE_NORM[kind]()(image))
    model = small_nets.randomise(keras.Model(image, {"a": layers.ReLU()(normalised)}), 1)
    x = small_nets.images(3, shape=(6, 6, 3))
    kinds = _checked(lowering.fold_batch_norm(read(model)), model, x)
    assert len(kinds) == 3
    assert "BatchNormalization" not in kinds


def _normalised_twice(x):
    x = layers.Conv2D(4, 3)(x)
    return layers.Add()([x, layers.BatchNormalization()(x)])


UNFOLDED = {
    "read by others": _normalised_twice,
    "after an activation": lambda x: layers.BatchNormalization()(
        layers.Conv2D(4, 3, activation="relu")(x)
    ),
    "other axis": lambda x: layers.BatchNormalization(axis=1)(layers.Conv2D(4, 3)(x)),
    "no kernel": lambda x: layers.BatchNormalization()(layers.MaxPooling2D()(x)),
}


@pytest.mark.parametrize("kind", UNFOLDED)
def test_normalisation_that_cannot_be_folded_stays(kind):
    image = keras.Input((6, 6, 3), name="image")
    model = small_nets.randomise(keras.Model(image, {"a": UNFOLDED[kind](image)}), 1)
    kinds = _checked(
        lowering.fold_batch_norm(read(model)), model, small_nets.images(2, shape=(6, 6, 3))
    )
    assert "BatchNormalization" in kinds


READERS = {
    "convolution": lambda: layers.Conv2D(5, 3, activation="relu", bias_initializer="ones"),
    "without bias": lambda: layers.Conv2D(5, 3, padding="same", use_bias=False),
    "transposed": lambda: layers.Conv2DTranspose(5, 3, activation="tanh"),
    "separable": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu"),
    "softmax": lambda: layers.Dense(5, activation="softmax", bias_initializer="ones"),
}


@pytest.mark.parametrize("kind", READERS)
def test_layer_over_a_concatenation_becomes_a_sum(kind):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3), name="image")
    parts = [layers.Conv2D(width, 1, activation="relu")(image) for width in (2, 5, 3)]
    model = keras.Model(image, {"a": READERS[kind]()(layers.Concatenate()(parts))})
    network = read(model)
    (node,) = lowering.splittable_nodes(network)
    lowered = lowering.split_sums(network, [node])
    kinds = _checked(lowered, model, small_nets.images(3, shape=(6, 6, 3)))
    assert kinds.count("Add") == 1
    assert "Concatenate" not in kinds
    assert network_cost(lowered).macs == network_cost(network).macs


def test_concatenations_that_other_layers_read_stay():
    model = grouped("plain")
    network = read(model)
    nodes = lowering.splittable_nodes(network)
    assert len(nodes) == 2 * 2 + 2  # two layers of two tasks' groups, and two heads
    kinds = _checked(lowering.split_sums(network, nodes[:1]), model, small_nets.images(3))
    assert kinds.count("Concatenate") == len(nodes) - 1


@pytest.mark.parametrize("kind", [*BLOCKS, "residual"])
def test_every_layer_but_the_heads_can_be_padded(kind):
    model = residual() if kind == "residual" else grouped(kind)
    network = read(model)
    found = lowering.paddable_layers(network)
    widths = [layer.width for layer in found]
    assert widths == ([4, 4] if kind == "residual" else [6, 3, 4, 5, 4, 3, 7, 2, 5])
    x = small_nets.images(3)
    _checked(lowering.pad_channels(network, {found[1].writers: 8}), model, x)
    padded = lowering.pad_channels(network, {layer.writers: 8 for layer in found})
    _checked(padded, model, x)
    assert [layer.width for layer in lowering.paddable_layers(padded)] == [8] * len(found)
    nodes = lowering.splittable_nodes(padded)
    _checked(lowering.split_sums(padded, nodes), model, x)


def test_blocks_of_grouped_convolutions_stay_as_they_are():
    image = keras.Input((6, 6, 2), name="image")
    parts = [layers.Conv2D(width, 1, name=f"part{width}")(image) for width in (4, 2)]
    blocks = layers.Conv2D(6, 3, groups=3)(layers.Concatenate()(parts))
    network = read(keras.Model(image, {"a": layers.Conv2D(2, 1)(blocks)}))
    assert lowering.paddable_layers(network) == []
    (level,) = lowering.fusable_levels(network)
    fused = lowering.fuse(network, [level])
    assert [fused.layer_of(node).kind for node in fused.nodes] == ["InputLayer", *["Conv2D"] * 3]
    with pytest.raises(lowering.CannotLowerError, match="computes channels from several"):
        lowering.pad_channels(network, {("part4",): 8})


def test_half_of_a_skip_connection_cannot_be_padded():
    with pytest.raises(lowering.CannotLowerError, match="combines different numbers"):
        lowering.pad_channels(read(residual()), {("stem_a",): 8})
