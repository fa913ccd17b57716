"""Channels that are picked or moved by their places: splits, slices, shuffles, transpositions."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfmot_pam
from tests import exactness
from tests.tiers import regular
from tfmot_pam.graph.channels import build_channel_graph
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.following import follow_channels
from tfmot_pam.graph.reader import read
from tfmot_pam.lowering.parts import fusable_levels
from tfmot_pam.lowering.rewriting import fuse

IMAGE, ROW = (6, 6, 3), (8, 3)


def conv(h, width=4, kernel=1, **options):
    make = layers.Conv2D if len(h.shape) == 4 else layers.Conv1D
    return make(width, kernel, padding="same", activation="elu", **options)(h)


def first(h, width=8):
    return conv(h, width, 3, name="first")


def after(rearrange):
    """A convolution, what rearranges its channels, and one that reads all results."""

    def body(h):
        found = rearrange(first(h))
        found = found if isinstance(found, (list, tuple)) else [found]
        return layers.Concatenate()([layers.Flatten()(conv(one, 3)) for one in found])

    return body


def shuffled(h, groups=2):
    """Channel shuffle as ShuffleNet has it, in layers."""
    *places, width = h.shape[1:]
    h = layers.Reshape((*places, groups, width // groups))(h)
    rank = len(places)
    h = layers.Permute((*range(1, rank + 1), rank + 2, rank + 1))(h)
    return layers.Reshape((*places, width))(h)


def shuffled_by_operations(h, groups=4):
    *places, width = h.shape[1:]
    h = ops.reshape(h, (-1, *places, groups, width // groups))
    h = ops.transpose(h, (*range(len(places) + 1), len(places) + 2, len(places) + 1))
    return ops.reshape(h, (-1, *places, width))


def shuffle_unit(h):
    """ShuffleNet V2: half of the channels go on, half through a branch, all are shuffled."""
    left, right = ops.split(first(h), 2, axis=-1)
    right = layers.BatchNormalization()(conv(right, 4))
    right = layers.DepthwiseConv2D(3, padding="same")(right)
    h = shuffled(layers.Concatenate()([left, right]))
    left, right = ops.split(h, 2, axis=-1)
    return conv(shuffled(layers.Concatenate()([left, conv(right, 4)])), 4)


def c2f(h):
    """YOLO's C2f: halves, a bottleneck with a shortcut, everything side by side."""
    left, right = ops.split(first(h), 2, axis=-1)
    inner = layers.Add()([right, conv(conv(right, 3), 4)])
    return conv(layers.Concatenate()([left, right, inner]))


def csp(h):
    h = first(h)
    return conv(layers.Concatenate()([h[..., :3], conv(h[..., 3:], 4)]))


def pixels_shuffled(h):
    """Depth to space by transpositions."""
    h = conv(first(h), 12)
    height, width = h.shape[1:3]
    h = layers.Reshape((height, width, 2, 2, 3))(h)
    h = layers.Permute((1, 3, 2, 4, 5))(h)
    return conv(layers.Reshape((2 * height, 2 * width, 3))(h))


def columns_as_steps(h):
    """CRNN: the columns of an image become steps, their channels features."""
    h = layers.Permute((2, 1, 3))(first(h, 4))
    h = layers.Reshape((6, -1))(h)
    return layers.Bidirectional(layers.GRU(3))(h)


def gated_halves(h):
    """A gated linear unit: one half times the sigmoid of the other."""
    value, gate = ops.split(first(h), 2, axis=-1)
    return conv(value * ops.sigmoid(gate))


def grouped_to_last(h):
    """Two groups of four channels, the groups on the last axis."""
    return layers.Permute((1, 2, 4, 3))(layers.Reshape((6, 6, 2, 4))(h))


def grouped_statistics(h):
    """Groups on an axis of their own, which a layer reads: each keeps all its channels."""
    return layers.Dense(3)(grouped_to_last(first(h)))


# By name the input's shape and what is built on it.
KINDS = {
    "split": (IMAGE, after(lambda h: ops.split(h, 2, axis=-1))),
    "split in parts": (ROW, after(lambda h: ops.split(h, [2, 3], axis=2))),
    "one part": (IMAGE, after(lambda h: ops.split(h, 2, axis=-1)[1])),
    "split in space": (IMAGE, after(lambda h: ops.split(h, 3, axis=1))),
    "slices": (IMAGE, after(lambda h: [h[..., :3], h[:, :, :, 3:]])),
    "every other": (ROW, after(lambda h: [h[:, :, ::2], h[:, 1:, 1::2]])),
    "backwards": (ROW, after(lambda h: h[:, :, ::-1])),
    "slices in space": (IMAGE, after(lambda h: [h[:, ::2, 1:], h[:, :3, 2:5]])),
    "one row": (IMAGE, after(lambda h: h[:, 2])),
    "taken": (IMAGE, after(lambda h: ops.take(h, [7, 0, 2, 2], axis=-1))),
    "taken in space": (IMAGE, after(lambda h: ops.take(h, np.array([4, 0]), axis=1))),
    "flipped": (IMAGE, after(lambda h: [ops.flip(h, axis=-1), ops.flip(h, axis=1)])),
    "rolled": (ROW, after(lambda h: [ops.roll(h, 3, axis=-1), ops.roll(h, 1, axis=1)])),
    "repeated": (ROW, after(lambda h: [ops.repeat(h, 2, axis=-1), ops.repeat(h, 2, axis=1)])),
    "tiled": (ROW, after(lambda h: [ops.tile(h, (1, 1, 2)), ops.tile(h, (1, 2, 1))])),
    "stacked": (ROW, after(lambda h: ops.stack([h, conv(h, 8)], axis=1))),
    "padded": (IMAGE, after(lambda h: ops.pad(h, ((0, 0), (1, 0), (0, 2), (0, 0))))),
    "axes": (ROW, after(lambda h: ops.squeeze(ops.expand_dims(h, 2), 2))),
    "transposed": (IMAGE, after(lambda h: ops.transpose(h, (0, 2, 1, 3)))),
    "swapped": (IMAGE, after(lambda h: ops.swapaxes(h, 1, 2))),
    "moved": (IMAGE, after(lambda h: ops.moveaxis(h, 1, 2))),
    "there and back": (IMAGE, after(lambda h: ops.moveaxis(ops.moveaxis(h, -1, 1), 1, -1))),
    "repeat vector": (
        ROW,
        after(lambda h: layers.RepeatVector(3)(layers.GlobalMaxPooling1D()(h))),
    ),
    "shuffled": (IMAGE, after(shuffled)),
    "shuffled by operations": (ROW, after(shuffled_by_operations)),
    "shuffled twice": (IMAGE, after(lambda h: shuffled(layers.ReLU()(shuffled(h)), 4))),
    "shuffle unit": (IMAGE, shuffle_unit),
    "c2f": (IMAGE, c2f),
    "csp": (IMAGE, csp),
    "pixels shuffled": (IMAGE, pixels_shuffled),
    "columns as steps": (IMAGE, columns_as_steps),
    "gated halves": (IMAGE, gated_halves),
    "grouped statistics": (IMAGE, grouped_statistics),
}
if hasattr(ops, "depth_to_space"):
    KINDS["depth to space"] = (IMAGE, after(lambda h: ops.depth_to_space(h, 2)))
    KINDS["space to depth"] = (IMAGE, after(lambda h: ops.space_to_depth(h, 2)))


# Of these no layer is kept whole where networks are merged.
MERGED = [
    *("slices in space", "taken in space", "stacked", "axes", "transposed", "repeat vector"),
    "columns as steps",
    *(name for name in ("depth to space", "space to depth") if name in KINDS),
]


def built(name, seed=0, **options) -> keras.Model:
    shape, body = KINDS[name]
    return exactness.model_of(body, shape, seed, **options)


def first_space(model):
    graph = follow_channels(read(model))
    return graph, next(space for space in graph.spaces if space.name == "first")


@pytest.mark.parametrize("name", regular(KINDS, 12))
def test_pruned(name):
    model = built(name)
    graph, space = first_space(model)
    assert space.frozen is None
    assert "copied" not in graph.roles.values()
    exactness.pruned_exactly(model)


@pytest.mark.parametrize("seed", regular(range(1, 6, 2)))
@pytest.mark.parametrize("name", ["shuffle unit", "slices", "split in parts", "c2f"])
def test_pruned_at_random(name, seed):
    exactness.pruned_exactly(built(name), 0.1 * (seed + 1), "random", seed=seed)


@pytest.mark.parametrize("name", ["shuffle unit", "c2f", "pixels shuffled"])
def test_merged_separately(name):
    exactness.assert_merged_separately({"a": built(name), "b": built(name, 1, outputs=2)})


@pytest.mark.parametrize("name", MERGED)
def test_merged_in_groups(name):
    """What leaves channels in order is taken apart where networks are merged, too."""
    assert build_channel_graph(read(built(name))).reasons == {}
    network = exactness.merged_in_groups({"a": built(name), "b": built(name, 1, outputs=2)})
    assert {("a",), ("b",)} <= {layer.tasks for layer in network.layers.values()}


@pytest.mark.parametrize("name", ["slices in space"])
def test_files_of_groups(name, tmp_path):
    network = exactness.merged_in_groups({"a": built(name), "b": built(name, 1)})
    exactness.assert_exported(emit(network), tmp_path)


def test_two_slices_of_one_tensor_stay_two():
    """Where the groups of a layer are computed in one piece, each slice takes its own rows."""
    models = {"a": built("slices in space"), "b": built("slices in space", 1)}
    network, x = exactness.merged_in_groups(models), exactness.inputs_of(models["a"])
    levels = [level for level in fusable_levels(network) if any("first" in n for n in level)]
    assert levels
    found = emit(fuse(network, levels))(x, training=False)
    for task, model in models.items():
        exactness.assert_same(found[task], model(x, training=False))


def test_tf_keras_models_cross_and_come_back():
    import tf_keras

    x = tf_keras.Input(IMAGE)
    h = tf_keras.layers.Conv2D(8, 3, activation="relu", name="first")(x)
    left = tf_keras.layers.Conv2D(4, 1, name="left")(h[..., :3])
    right = tf_keras.layers.Conv2D(4, 1, name="right")(h[..., 3:])
    h = tf_keras.layers.Concatenate()([left, right])
    h = tf_keras.layers.Reshape((4, 4, 2, 4))(h)
    h = tf_keras.layers.Reshape((4, 4, 8))(tf_keras.layers.Permute((1, 2, 4, 3))(h))
    h = tf_keras.layers.Flatten()(tf_keras.layers.Conv2D(3, 1)(h))
    model = tf_keras.Model(x, tf_keras.layers.Dense(2)(h))
    history = tfmot_pam.PruningHistory({"first": 8, "left": 4}, {"first": (0, 4), "left": (1,)})
    small = history.apply(tfmot_pam.from_tf_keras(model))
    value = exactness.inputs_of(small)
    there = tfmot_pam.to_tf_keras(small)
    exactness.assert_same(there(value, training=False), small(value, training=False))


@pytest.mark.parametrize(
    ("rearrange", "reason"),
    [
        # The columns of what is read are neither rows nor columns of the groups before.
        (lambda h: layers.Reshape((6, 6, 2, 4))(grouped_to_last(h)), "spreads"),
        (lambda h: layers.Permute((3, 1, 2))(h), "spreads"),
        (lambda h: ops.squeeze(h[:, :1, :1]), "it may drop"),
        (lambda h: h[..., 2], "picks"),
        (lambda h: ops.flip(h, axis=(1, 3)), "picks"),
        (lambda h: ops.flip(h), "picks"),
        (lambda h: ops.take(h, [[0, 1], [2, 3]], axis=-1), "picks"),
        (lambda h: ops.tile(h, (1, 2, 1, 2)), "picks"),
        (lambda h: ops.expand_dims(h, -1), "spreads"),
        (lambda h: ops.stack([h, h], axis=-1), "moves the channels"),
        (lambda h: h[..., None], "picks"),
    ],
)
def test_what_cannot_be_followed_is_kept_whole(rearrange, reason):
    def body(h):
        return layers.Dense(2)(rearrange(first(h)))

    model = exactness.model_of(body, IMAGE)
    _, space = first_space(model)
    assert re.search(reason, space.frozen or ""), space.frozen


@pytest.mark.parametrize("name", ["shuffle unit", "c2f", "taken"])
def test_files(name, tmp_path):
    small = exactness.pruned_exactly(built(name))
    exactness.assert_saved(small, tmp_path)
    exactness.assert_exported(small, tmp_path)
