"""Channel graphs of small networks, and what they say of a tensor."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from tfmot_pam.graph.channels import build_channel_graph
from tfmot_pam.graph.network import iterate_tensors
from tfmot_pam.graph.reader import read

IMAGE, SEQUENCE, VOLUME, VECTOR, STEPS = (8, 8, 3), (8, 3), (4, 4, 4, 3), (6,), (5, 6)


def graph_of(shape, build):
    x = keras.Input(shape, name="image")
    return build_channel_graph(read(keras.Model(x, build(x))))


def output(graph):
    return next(iterate_tensors(graph.network.outputs))


def after_conv(build, filters=4, shape=IMAGE):
    """The graph of a convolution `conv` followed by what `build` adds."""
    rank = len(shape) - 1
    conv = (
        layers.Dense(filters, name="conv")
        if rank == 0
        else getattr(layers, f"Conv{rank}D")(filters, 3, padding="same", name="conv")
    )
    return graph_of(shape, lambda x: build(conv(x)))


def space(graph, name):
    (found,) = [space for space in graph.spaces if space.name == name]
    return found


def positions(graph):
    """For each position of the output, which channel of its space it carries."""
    labels = graph.labels[output(graph)]
    (index,) = graph.spaces_of(output(graph))
    return np.searchsorted(graph.spaces[index].channels, labels).tolist()
