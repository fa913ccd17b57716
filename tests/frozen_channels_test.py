"""The channel graph: which channels are frozen, and the reason that is given."""

from __future__ import annotations

import re

import numpy as np
import pytest
from keras import layers, ops

from tests.channel_graphs import IMAGE, STEPS, after_conv, graph_of, space


class Unknown(layers.Layer):
    def call(self, inputs, other=None):
        return inputs if other is None else inputs + other


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Unknown(), "Unknown '.*': there is no rule for this kind of layer"),
        (layers.LayerNormalization(), "its statistics are of all channels"),
        (layers.Permute((3, 1, 2)), "it moves the channels to another axis"),
        (layers.Softmax(), "it normalises over the channels"),
        (layers.Activation("softmax"), "its activation softmax may read other channels"),
        (layers.Reshape((8, 16, 2)), r"it reshapes the channel axis from \(8, 8, 4\)"),
        (layers.BatchNormalization(axis=1), "it normalises along axis 1"),
        (layers.PReLU(shared_axes=[1, 2, 3]), "its slope is shared by the channels"),
        (layers.Rescaling([1.0, 2.0, 3.0, 4.0]), "by a value of its own"),
        (layers.Normalization(mean=[0.0] * 4, variance=[1.0] * 4), "constants"),
        (layers.Dropout(0.1, noise_shape=(None, 1, 1, 4)), "noise shape"),
        (lambda h: ops.mean(h, axis=-1), "it reduces over the channels"),
        (lambda h: ops.sum(h), "it reduces over the channels"),
        (lambda h: h * np.ones(4, "float32"), "an array of constants"),
        (lambda h: h + ops.mean(h, axis=(1, 2)), "different ranks"),
        (lambda h: h * layers.Conv2D(1, 1)(h), r"tensors of \[1, 4\] channels"),
        (lambda h: h[..., :2], "picks, repeats or reorders channels"),
        (lambda h: layers.LSTM(3)(layers.Reshape((64, 4))(h), initial_state=None), None),
        (lambda h: Unknown()(h, other=h), "no rule"),
    ],
)
def test_frozen_with_a_reason(build, reason):
    graph = after_conv(build)
    found = space(graph, "conv")
    if reason is None:
        assert found.frozen is None
        return
    assert re.search(reason, found.frozen), found.frozen
    assert any(re.search(reason, text) for text in graph.reasons.values())
    assert "copied" in graph.roles.values()


def test_layers_with_several_tensor_arguments():
    def build(h):
        steps = layers.Reshape((64, 4))(h)
        state = layers.Dense(3, name="state")(layers.GlobalAveragePooling2D()(h))
        return layers.GRU(3, name="gru")(steps, initial_state=state)

    graph = after_conv(build)
    assert "it has several inputs" in space(graph, "conv").frozen
    assert "it has several inputs" in space(graph, "state").frozen


def test_layers_with_several_outputs():
    graph = graph_of(STEPS, lambda x: layers.LSTM(4, return_state=True, name="lstm")(x)[1])
    assert "it has several outputs" in graph.reasons["lstm"]


def test_channels_first_is_frozen():
    graph = after_conv(layers.GlobalAveragePooling2D(data_format="channels_first"))
    assert "channels_first" in space(graph, "conv").frozen


@pytest.mark.parametrize(
    ("layer", "frozen"),
    [
        (layers.Conv2D(4, 1, name="shared"), True),
        (layers.BatchNormalization(name="shared"), True),
        (layers.DepthwiseConv2D(3, padding="same", name="shared"), True),
        (layers.ReLU(name="shared"), False),
        (layers.Activation("relu", name="shared"), False),
    ],
)
def test_layers_called_twice(layer, frozen):
    graph = after_conv(lambda h: layer(layers.Conv2D(4, 1)(layer(h))))
    reason = space(graph, "conv").frozen
    assert ("the layer is called 2 times" in reason) if frozen else reason is None


def test_a_frozen_layer_leaves_other_spaces_alone():
    def build(h):
        frozen = layers.LayerNormalization()(layers.Conv2D(3, 1, name="below")(h))
        return layers.Conv2D(5, 1, name="above")(frozen)

    graph = after_conv(build)
    assert space(graph, "conv").frozen is None
    assert space(graph, "below").frozen is not None
    assert space(graph, "above").frozen is None


def test_preprocessing_of_the_input_is_given_whatever_it_is():
    graph = graph_of(IMAGE, lambda x: layers.Conv2D(2, 1, name="conv")(Unknown(name="odd")(x)))
    assert [(found.name, found.given) for found in graph.spaces] == [
        ("image", True),
        ("odd", True),
        ("conv", False),
    ]
    assert space(graph, "conv").frozen is None


def test_what_is_added_to_the_input_is_frozen():
    graph = graph_of(IMAGE, lambda x: layers.Add()([x, layers.Conv2D(3, 1, name="conv")(x)]))
    assert "combined with what is given, such as the network's input" in graph.spaces[0].frozen
