"""The channel graph: per kind of layer, which channels are tied, passed on or mixed."""

from __future__ import annotations

import re

import pytest
from keras import layers, ops
from keras.src.applications.convnext import LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from tests.channel_graphs import (
    IMAGE,
    SEQUENCE,
    STEPS,
    VECTOR,
    VOLUME,
    after_conv,
    graph_of,
    positions,
    space,
)

# --- layers that mix --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        (SEQUENCE, layers.Conv1D(5, 3, strides=2)),
        (SEQUENCE, layers.Conv1D(5, 3, padding="causal", dilation_rate=2)),
        (IMAGE, layers.Conv2D(5, (3, 1), dilation_rate=(2, 1), activation="relu")),
        (IMAGE, layers.Conv2D(5, 3, strides=(2, 1))),
        (VOLUME, layers.Conv3D(5, 2)),
        (SEQUENCE, layers.Conv1DTranspose(5, 2, strides=2)),
        (IMAGE, layers.Conv2DTranspose(5, 3, strides=2)),
        (SEQUENCE, layers.SeparableConv1D(5, 3, depth_multiplier=2)),
        (IMAGE, layers.SeparableConv2D(5, 3)),
        (VECTOR, layers.Dense(5, activation="gelu")),
        (STEPS, layers.Dense(5)),
        (IMAGE, layers.Dense(5)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_mixing_layers_read_one_space_and_write_another(shape, layer):
    graph = graph_of(shape, lambda x: layers.ReLU(name="relu")(layer(x)))
    first, second = graph.spaces
    assert (first.name, first.width, first.given) == ("image", shape[-1], True)
    assert first.readers == (layer.name,)
    assert (second.name, second.width, second.frozen) == (layer.name, 5, None)
    assert (second.writers, second.members) == ((layer.name,), ("relu",))
    assert graph.roles[layer.name] == "mixing"


@pytest.mark.parametrize("activation", ["softmax", "log_softmax", layers.PReLU(), "glu"])
def test_mixing_layers_whose_activation_reads_all_channels(activation):
    graph = graph_of(IMAGE, lambda x: layers.Conv2D(4, 3, activation=activation, name="conv")(x))
    written = graph.spaces[1]
    assert re.search("Conv2D 'conv': its activation .* may read other channels", written.frozen)


def test_activation_functions_of_the_user_are_not_trusted():
    def relu(x):
        return ops.softmax(x)

    graph = graph_of(VECTOR, lambda x: layers.Dense(4, activation=relu)(x))
    assert "activation function relu may read other channels" in graph.spaces[1].frozen


def test_recurrent_layers_are_frozen():
    graph = graph_of(STEPS, lambda x: layers.GRU(4, name="gru")(layers.Dense(3, name="below")(x)))
    assert "its state reads all channels" in space(graph, "gru").frozen
    assert space(graph, "below").frozen is None


# --- layers that keep channels ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        *[(IMAGE, layers.Activation(name)) for name in ("relu", "gelu", "tanh", "hard_silu")],
        (IMAGE, layers.BatchNormalization()),
        (IMAGE, layers.Normalization()),
        (VECTOR, layers.BatchNormalization()),
        (IMAGE, layers.ReLU(6.0)),
        (IMAGE, layers.LeakyReLU()),
        (IMAGE, layers.ELU()),
        (IMAGE, layers.PReLU()),
        (IMAGE, layers.PReLU(shared_axes=[1, 2])),
        (IMAGE, LayerScale(0.5, 4)),
        (IMAGE, layers.MaxPooling2D()),
        (SEQUENCE, layers.AveragePooling1D(2)),
        (VOLUME, layers.MaxPooling3D()),
        (IMAGE, layers.GlobalAveragePooling2D()),
        (IMAGE, layers.GlobalMaxPooling2D(keepdims=True)),
        (SEQUENCE, layers.GlobalMaxPooling1D()),
        (VOLUME, layers.GlobalAveragePooling3D(keepdims=True)),
        (IMAGE, layers.ZeroPadding2D(1)),
        (SEQUENCE, layers.ZeroPadding1D(1)),
        (IMAGE, layers.Cropping2D(1)),
        (IMAGE, layers.UpSampling2D()),
        (SEQUENCE, layers.UpSampling1D()),
        (IMAGE, layers.Dropout(0.2)),
        (IMAGE, layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))),
        (IMAGE, layers.SpatialDropout2D(0.2)),
        (VECTOR, layers.AlphaDropout(0.2)),
        (IMAGE, layers.GaussianDropout(0.2)),
        (IMAGE, layers.GaussianNoise(0.2)),
        (IMAGE, layers.Rescaling(0.5, offset=1.0)),
        (IMAGE, layers.Reshape((64, 4))),
        (IMAGE, layers.DepthwiseConv2D(3)),
        (SEQUENCE, layers.DepthwiseConv1D(3, activation="relu")),
        (IMAGE, layers.Softmax(axis=1)),
        (IMAGE, layers.Identity()),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_channelwise_layers_keep_the_space(shape, layer):
    graph = after_conv(layer, shape=shape)
    written = space(graph, "conv")
    assert (written.width, written.frozen, written.members) == (4, None, (layer.name,))
    assert graph.roles[layer.name] == "channelwise"
    assert positions(graph) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: 2.0 * x,
        lambda x: 1.0 - x,
        lambda x: ops.relu6(x + 3.0) / 6.0,
        lambda x: x**2,
        lambda x: ops.mean(x, axis=[1, 2]),
        lambda x: ops.max(x, axis=(1, 2), keepdims=True),
        lambda x: ops.silu(x),
        lambda x: ops.clip(x, 0.0, 1.0),
        lambda x: ops.reshape(x, (-1, 64, 4)),
        lambda x: ops.maximum(x, 0.1),
    ],
)
def test_free_operations_keep_the_space(operation):
    graph = after_conv(operation)
    assert len(graph.spaces) == 2
    assert space(graph, "conv").frozen is None
    assert positions(graph) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (layers.DepthwiseConv2D(3, depth_multiplier=2), [0, 0, 1, 1, 2, 2, 3, 3]),
        (lambda h: layers.Flatten()(layers.MaxPooling2D(4)(h)), [0, 1, 2, 3] * 4),
        (lambda h: layers.Reshape((-1,))(layers.MaxPooling2D(4)(h)), [0, 1, 2, 3] * 4),
        (lambda h: layers.Concatenate()([h, layers.ReLU()(h)]), [0, 1, 2, 3] * 2),
        (lambda h: layers.Reshape((8, 8, 4))(layers.Flatten()(h)), [0, 1, 2, 3]),
    ],
)
def test_positions_that_carry_a_channel_several_times(build, expected):
    graph = after_conv(build)
    assert positions(graph) == expected
    assert space(graph, "conv").width == 4


def test_grouped_convolutions_keep_blocks_together():
    conv = layers.Conv2D(9, 3, groups=3, name="grouped")
    graph = after_conv(lambda h: conv(h), filters=6)
    assert graph.roles["grouped"] == "channelwise"
    written = space(graph, "conv")
    assert written.width == 3
    assert graph.labels[graph.network.node("grouped").inputs[0]].tolist() == [
        written.channels[block] for block in (0, 0, 1, 1, 2, 2)
    ]
    assert positions(graph) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_unflattening_ties_the_positions_of_a_channel():
    graph = after_conv(layers.Reshape((2, 2, 3)), filters=12, shape=VECTOR)
    assert space(graph, "conv").width == 3
    assert positions(graph) == [0, 1, 2]


# --- layers that combine ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "join",
    [
        layers.Add(),
        layers.Subtract(),
        layers.Maximum(),
        layers.Minimum(),
        layers.Average(),
        layers.Multiply(),
        lambda pair: pair[0] + pair[1],
        lambda pair: ops.maximum(*pair),
        lambda pair: pair[0] / pair[1],
        layers.Concatenate(axis=1),
        CustomScaleLayer(0.2),
    ],
)
def test_layers_that_combine_tie_their_inputs(join):
    def build(h):
        return join([h, layers.Conv2D(4, 1, name="other")(h)])

    graph = after_conv(build)
    tied = space(graph, "conv")
    assert (tied.width, tied.writers, tied.readers) == (4, ("conv", "other"), ("other",))
    assert tied.frozen is None
    assert len(graph.spaces) == 2


def test_gates_are_tied_to_what_they_multiply():
    def build(h):
        gate = layers.GlobalAveragePooling2D()(h)
        gate = layers.Dense(2, activation="relu", name="squeeze")(gate)
        gate = layers.Dense(4, activation="sigmoid", name="excite")(gate)
        return layers.Multiply()([h, layers.Reshape((1, 1, 4))(gate)])

    graph = after_conv(build)
    assert space(graph, "conv").writers == ("conv", "excite")
    assert space(graph, "squeeze").width == 2
    assert [found.frozen for found in graph.spaces] == [None] * 3


def test_concatenated_channels_keep_their_spaces():
    def build(h):
        other = layers.Conv2D(2, 1, name="other")(h)
        return layers.Conv2D(5, 1, name="last")(layers.Concatenate(name="both")([h, other]))

    graph = after_conv(build)
    assert [found.width for found in graph.spaces] == [3, 4, 2, 5]
    assert space(graph, "conv").members == ("both",)
    assert space(graph, "conv").readers == ("other", "last")
    assert space(graph, "other").readers == ("last",)


def test_a_concatenation_that_is_added_to_has_parts():
    def build(h):
        both = layers.Concatenate()([h, layers.Conv2D(2, 1, name="other")(h)])
        return layers.Add()([both, layers.Conv2D(6, 1, name="whole")(h)])

    graph = after_conv(build)
    tied = space(graph, "conv")
    assert tied.writers == ("conv", "other", "whole")
    assert tied.segments.tolist() == [0, 0, 0, 0, 1, 1]


def test_residual_streams_are_one_space():
    def build(h):
        for index in range(3):
            inner = layers.Conv2D(6, 1, name=f"inner_{index}", activation="relu")(h)
            h = layers.Add()([h, layers.Conv2D(4, 1, name=f"outer_{index}")(inner)])
        return h

    graph = after_conv(build)
    assert space(graph, "conv").writers == ("conv", "outer_0", "outer_1", "outer_2")
    assert [found.width for found in graph.spaces] == [3, 4, 6, 6, 6]


# --- printing ---------------------------------------------------------------------------------


def test_the_graph_prints_itself():
    def build(h):
        h = layers.Add(name="add")([h, layers.Conv2D(4, 1, name="second")(h)])
        return layers.Dense(2, name="last")(layers.LayerNormalization(name="norm")(h))

    assert str(after_conv(build)).splitlines() == [
        "image: 3 channels (input)",
        "  written by image",
        "  read by conv",
        "conv: 4 channels (frozen: LayerNormalization 'norm': its statistics are of all channels)",
        "  written by conv, second",
        "  kept by add",
        "  read by second, norm",
        "norm: 4 channels (frozen: LayerNormalization 'norm': its statistics are of all channels)",
        "  written by norm",
        "  read by last",
        "last: 2 channels",
        "  written by last",
    ]
