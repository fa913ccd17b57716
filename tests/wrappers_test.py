"""Layers that call another one at each step or both ways, and layers with a state."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests import exactness
from tests.identities_test import aligned
from tests.tiers import regular
from tfmot_pam.graph.channels import build_channel_graph
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read

STEPS, FRAMES, CLIP = (4, 5), (3, 6, 5), (3, 6, 6, 2)


def steps(layer):
    """Between a layer that it reads and one that reads it."""
    return (
        STEPS,
        lambda width: (
            lambda x: layers.Conv1D(4, 1, activation="relu")(
                layer()(layers.Conv1D(width, 3, padding="same", activation="relu", name="below")(x))
            )
        ),
    )


def at_each_step(*inner):
    """Inner layers on every frame of a clip, then a convolution over time."""

    def body(width):
        def build(x):
            h = layers.TimeDistributed(layers.Conv2D(width, 3, padding="same", name="c"))(x)
            for layer in inner:
                h = layers.TimeDistributed(layer())(h)
            return h

        return build

    return CLIP, body


def network_of_frames(width):
    """A small network that is called on every frame, with a shortcut in it."""
    frame = keras.Input((6, 6, 2))
    h = layers.Conv2D(width, 3, padding="same", activation="relu", name="c")(frame)
    h = layers.Add()([h, layers.Conv2D(width, 1)(layers.BatchNormalization()(h))])
    h = layers.Concatenate()([h, layers.Conv2D(3, 1, activation="relu")(h)])
    return keras.Model(frame, layers.GlobalAveragePooling2D()(h))


def frames_and_steps(network):
    return CLIP, lambda width: lambda x: layers.LSTM(3)(layers.TimeDistributed(network(width))(x))


def over_clip(rank, layer):
    shape = (3, *(6, 6, 4)[:rank], 2)
    return (
        shape,
        lambda width: (
            lambda x: layers.Dense(4, activation="relu")(
                layer()(layers.Dense(width, activation="relu", name="below")(x))
            )
        ),
    )


# By name the input's shape, and what is built on it for a width.
KINDS = {
    "lstm": steps(lambda: layers.LSTM(3, return_sequences=True)),
    "cells": steps(
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], return_sequences=True)
    ),
    "both ways": steps(lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True))),
    "each way its own": steps(
        lambda: layers.Bidirectional(
            layers.LSTM(3, return_sequences=True),
            backward_layer=layers.SimpleRNN(3, return_sequences=True, go_backwards=True),
        )
    ),
    "conv lstm 1d": over_clip(
        1, lambda: layers.ConvLSTM1D(3, 3, padding="same", return_sequences=True)
    ),
    "conv lstm 2d": over_clip(2, lambda: layers.ConvLSTM2D(3, 3, strides=2)),
    "conv lstm 3d": over_clip(3, lambda: layers.ConvLSTM3D(2, 2)),
    "dense at each step": steps(lambda: layers.TimeDistributed(layers.Dense(6, activation="relu"))),
    "convolutions at each step": at_each_step(
        layers.BatchNormalization,
        layers.ReLU,
        layers.MaxPooling2D,
        lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2, padding="same"),
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"),
        lambda: layers.Conv2D(3, 1),
        layers.GlobalAveragePooling2D,
    ),
    "flattened at each step": at_each_step(layers.Flatten, lambda: layers.Dropout(0.1)),
    "recurrent at each step": at_each_step(
        lambda: layers.MaxPooling2D(3),
        lambda: layers.Reshape((4, -1)),
        lambda: layers.SimpleRNN(2),
    ),
    "network at each step": frames_and_steps(network_of_frames),
    "sequence of layers at each step": frames_and_steps(
        lambda width: keras.Sequential(
            [layers.Conv2D(width, 3), layers.MaxPooling2D(), layers.Conv2D(3, 1), layers.Flatten()]
        )
    ),
    "spectral": (
        (6, 6, 2),
        lambda width: (
            lambda x: layers.Conv2D(4, 3)(
                layers.SpectralNormalization(layers.Conv2D(3, 3, activation="relu"))(
                    layers.Conv2D(width, 1, activation="relu", name="below")(x)
                )
            )
        ),
    ),
}


def built(kind, width=6, seed=0, **options) -> keras.Model:
    shape, body = kind
    return exactness.model_of(body(width), shape, seed, **options)


@pytest.mark.parametrize(
    "name", regular(sorted(KINDS.keys() - {"conv lstm 3d", "recurrent at each step"}), 6)
)
def test_merged_separately(name):
    kind = KINDS[name]
    exactness.assert_merged_separately({"a": built(kind, 6, 0), "b": built(kind, 5, 1, outputs=2)})


@pytest.mark.parametrize("name", regular(KINDS, 8))
def test_pruned(name):
    model = built(KINDS[name])
    small = exactness.pruned_exactly(model)
    assert not any("no rule" in text for text in build_channel_graph(read(model)).reasons.values())
    assert tfmot_pam.cost(small).unsupported == {}


@pytest.mark.parametrize(
    "name",
    ["lstm", "cells", "each way its own", "spectral", "dense at each step"]
    + ["convolutions at each step", "flattened at each step"],
)
def test_merged_in_groups(name):
    """What feeds the layers has task sets, and what works at each step, of any widths."""
    models = {"a": built(KINDS[name], 6, 0), "b": built(KINDS[name], 5, 1, outputs=2)}
    network = exactness.merged_in_groups(models)
    assert any(layer.tasks == ("a", "b") and layer.weights for layer in network.layers.values())
    alignment = aligned(models)
    assert [alignment.head(k) for k in range(2)] == [("head",)] * 2


@pytest.mark.parametrize(
    "name", regular(["both ways", "convolutions at each step", "conv lstm 2d", "spectral"], 2)
)
def test_files(name, tmp_path):
    small = exactness.pruned_exactly(built(KINDS[name]))
    exactness.assert_saved(small, tmp_path)
    exactness.assert_exported(small, tmp_path)


def test_random_gates_go_into_both_ways():
    model = built(KINDS["each way its own"])
    gated = tfmot_pam.prune_channels(model, exactness.nothing_goes(), "vib")
    for weight in gated.gates.weights:
        if weight.path.endswith("/mean"):
            weight.assign(np.random.default_rng(0).uniform(0.5, 1.5, weight.shape))
    x = exactness.inputs_of(model)
    expected = gated(x, training=False)
    exactness.assert_same(tfmot_pam.strip_pruning(gated)(x, training=False), expected)


def squared(x):
    """A user's own activation, which a configuration does not tell."""
    return x * x


def _kept_whole(body, shape=STEPS):
    model = exactness.model_of(body, shape)
    return {space.name: space.frozen for space in build_channel_graph(read(model)).spaces}


@keras.saving.register_keras_serializable(package="tests")
class OwnCell(layers.SimpleRNNCell):
    """A cell that no rule can know."""


@keras.saving.register_keras_serializable(package="tests")
class OwnDense(layers.Dense):
    """A layer that no rule can know."""


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.RNN(OwnCell(3)), r"its cells \['OwnCell'\]"),
        (layers.Bidirectional(layers.RNN(OwnCell(3))), "no rule"),
        (layers.TimeDistributed(OwnDense(3)), "no rule"),
        (layers.TimeDistributed(layers.LayerNormalization()), "its statistics are of all channels"),
        (layers.TimeDistributed(layers.Activation("softmax")), "may read other channels"),
        (layers.SpectralNormalization(OwnDense(3)), "no rule"),
    ],
)
def test_what_no_rule_knows_is_kept_whole(layer, reason):
    found = _kept_whole(lambda x: layer(layers.Conv1D(6, 1, name="below")(x)))
    assert re.search(reason, found["below"])


def test_a_users_rule_counts_at_each_step():
    """A layer of one's own is known inside wrappers, too."""
    rule = tfmot_pam.LayerRule("mixing", {"kernel": tfmot_pam.Axes(0, 1)}, width="units")

    def body(x):
        return layers.TimeDistributed(Ruled(3))(layers.Conv1D(6, 1, name="below")(x))

    assert "no rule" in _kept_whole(body)["below"]
    tfmot_pam.register_layer_rule(Ruled, rule)
    assert _kept_whole(body)["below"] is None


@keras.saving.register_keras_serializable(package="tests")
class Ruled(layers.Dense):
    """A layer that gets a rule."""


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "sums"),
    [
        (layers.Bidirectional(layers.LSTM(4)), (6, 3), 2 * 6 * 16 * (3 + 4), 2 * 6 * 16),
        (layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(2)]), (6, 3), 6 * (84 + 12), 6 * 14),
        (layers.ConvLSTM1D(4, 3), (6, 5, 2), 6 * 3 * 16 * 3 * (2 + 4), 6 * 3 * 16),
        (layers.ConvLSTM2D(4, 3, strides=2), (6, 5, 5, 2), 6 * 4 * 16 * 9 * 6, 6 * 4 * 16),
        (layers.ConvLSTM3D(2, 2), (6, 3, 3, 3, 2), 6 * 8 * 8 * 8 * 4, 6 * 8 * 8),
        (layers.TimeDistributed(layers.Conv2D(4, 3)), (6, 5, 5, 2), 6 * 9 * 9 * 8, 6 * 9 * 4),
        (layers.TimeDistributed(layers.Dense(4)), (6, 3), 6 * 12, 6 * 4),
        (layers.TimeDistributed(layers.LSTM(4)), (5, 6, 3), 5 * 6 * 16 * 7, 5 * 6 * 16),
        (layers.TimeDistributed(layers.ReLU()), (6, 3), 0, 0),
        (layers.SpectralNormalization(layers.Conv2D(4, 3)), (5, 5, 2), 9 * 9 * 8, 9 * 4),
    ],
)
def test_operations_by_formula(layer, shape, macs, sums):
    x = keras.Input(shape)
    found = tfmot_pam.cost(keras.Model(x, layer(x)))
    assert (found.macs, found.flops, found.unsupported) == (macs, 2 * macs - sums, {})


def test_networks_at_each_step_are_read_layer_by_layer():
    model = built(KINDS["network at each step"])
    network = read(model)
    kinds = [network.layer_of(node).kind for node in network.nodes]
    assert kinds.count("TimeDistributed") == 5
    again, x = emit(network), exactness.inputs_of(model)
    exactness.assert_same(again(x, training=False), model(x, training=False))
    assert again.count_params() == model.count_params()


def test_a_network_at_each_step_that_is_called_twice_has_one_set_of_weights():
    keras.utils.set_random_seed(0)
    inner = layers.TimeDistributed(network_of_frames(4))
    x = keras.Input(CLIP)
    model = keras.Model(x, layers.Subtract()([inner(x), inner(layers.Rescaling(0.5)(x))]))
    again, value = emit(read(model)), exactness.inputs_of(model)
    exactness.assert_same(again(value, training=False), model(value, training=False))
    assert again.count_params() == model.count_params()


@pytest.mark.parametrize(
    "body",
    [
        lambda x: layers.Lambda(lambda h: 2.0 * h)(x),
        lambda x: keras.ops.abs(x),
        lambda x: layers.Concatenate(axis=1)([x, x]),
        lambda x: layers.Conv2D(3, 1, activation=squared)(x),
        lambda x: layers.Normalization(mean=1.0, variance=2.0)(x),
    ],
)
def test_networks_without_equal_layers_stay_one(body):
    frame = keras.Input((6, 6, 2))
    step = keras.Model(frame, body(layers.Conv2D(3, 1)(frame)))
    x = keras.Input(CLIP)
    model = keras.Model(x, layers.TimeDistributed(step, name="steps")(x))
    network = read(model)
    assert list(network.layers)[1:] == ["steps"]
