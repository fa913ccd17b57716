"""Layers that are called several times: siamese branches, repeated blocks, tied weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests import exactness
from tfmot_pam.graph.following import follow_channels
from tfmot_pam.graph.reader import read

IMAGE, ROW = (6, 6, 3), (8, 3)


def conv(width, kernel=3, **options):
    return layers.Conv2D(width, kernel, padding="same", activation="relu", **options)


def behind_a_stem(h):
    return siamese(conv(4, name="stem")(h))


def siamese(h):
    """Two crops go through the same layers."""
    towers = [conv(6, name="tower"), layers.BatchNormalization(), conv(5), layers.Flatten()]
    crops = [h[:, :3], h[:, 3:]]
    for layer in towers:
        crops = [layer(crop) for crop in crops]
    return layers.Subtract()(crops)


def repeated_block(h):
    """The same residual block three times."""
    h = conv(6, name="below")(h)
    first, second = conv(4, name="first"), conv(6, name="second")
    norm = layers.BatchNormalization()
    for _ in range(3):
        h = layers.Add()([h, norm(second(first(h)))])
    return h


def head_over_levels(h):
    """A detector's head: one layer on features of several sizes."""
    head = layers.SeparableConv2D(4, 3, depth_multiplier=2, padding="same", activation="relu")
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")
    large = conv(6, name="large")(h)
    small = conv(6, name="small")(layers.MaxPooling2D()(large))
    levels = [head(depthwise(level)) for level in (large, small)]
    return layers.Concatenate()([layers.Flatten()(conv(2, 1)(level)) for level in levels])


def one_dense_for_all(h):
    dense, slope = layers.Dense(6, name="tied"), layers.PReLU(shared_axes=[1])
    h = layers.Dense(6, name="below")(h)
    return layers.Concatenate()([slope(dense(h)), slope(dense(slope(dense(h))))])


def nested_model(h):
    """A model as a layer, called twice."""
    x = keras.Input((8, 6))
    inner = keras.Model(x, layers.Conv1D(6, 3, padding="same")(layers.Conv1D(4, 1)(x)))
    return inner(inner(layers.Conv1D(6, 1, activation="relu", name="below")(h)))


def recurrent(h):
    steps = layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="sum")
    left, right = layers.Conv1D(5, 1, name="left")(h), layers.Conv1D(5, 3, name="right")(h)
    return layers.Concatenate(axis=1)([steps(left), steps(right)])


def shuffled_calls(h):
    """One layer reads both halves of another's channels."""
    halves = keras.ops.split(conv(8, name="both")(h), 2, axis=-1)
    layer = conv(4, 1, name="reader")
    return conv(3)(layers.Concatenate()([layer(half) for half in halves]))


KINDS = {
    "siamese": (IMAGE, siamese, ("tower",)),
    "behind a stem": (IMAGE, behind_a_stem, ("stem", "tower")),
    "repeated block": (IMAGE, repeated_block, ("below", "first")),
    "head over levels": (IMAGE, head_over_levels, ("large",)),
    "one dense for all": (ROW, one_dense_for_all, ("below",)),
    "nested model": (ROW, nested_model, ("below",)),
    "recurrent": (ROW, recurrent, ("left",)),
    "halves of one layer": (IMAGE, shuffled_calls, ("both", "reader")),
}


def built(name, seed=0, **options) -> keras.Model:
    shape, body, _ = KINDS[name]
    return exactness.model_of(body, shape, seed, **options)


@pytest.mark.parametrize("name", KINDS)
def test_one_set_of_channels_for_all_calls(name):
    network = read(built(name))
    graph = follow_channels(network)
    spaces = {space.name: space for space in graph.spaces}
    assert all(spaces[free].frozen is None for free in KINDS[name][2])
    for node in network.nodes:
        first = network.node(node.layer)
        if network.layer_of(node).weights:
            for mine, other in ((node.inputs, first.inputs), (node.outputs, first.outputs)):
                np.testing.assert_array_equal(graph.labels[mine[0]], graph.labels[other[0]])


@pytest.mark.parametrize("name", KINDS)
def test_pruned(name):
    model = built(name)
    small = exactness.pruned_exactly(model)
    # The one layer has become smaller once, for all of its calls.
    assert len(small.weights) == len(model.weights)
    assert small.count_params() < model.count_params()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["repeated block", "head over levels", "halves of one layer"])
def test_pruned_at_random(name, seed):
    options = {"measure": ("parameters", "channels")[seed % 2], "seed": seed}
    exactness.pruned_exactly(built(name), 0.15 * (seed + 1), "random", **options)


@pytest.mark.parametrize(
    "name", ["behind a stem", "repeated block", "one dense for all", "halves of one layer"]
)
def test_merged_separately(name):
    exactness.assert_merged_separately({"a": built(name), "b": built(name, 1, outputs=2)})


def test_merged_and_pruned():
    models = {"a": built("repeated block"), "b": built("repeated block", 1)}
    x = exactness.inputs_of(models["a"])
    merged = tfmot_pam.merge(models, x, method="separate", verbose=0)
    gated = tfmot_pam.prune_channels(merged, 0.5, "magnitude")
    small = tfmot_pam.strip_pruning(gated)
    assert small.count_params() < merged.count_params()
    expected = gated(x, training=False)
    for task, found in small(x, training=False).items():
        exactness.assert_same(found, expected[task])


def test_nothing_to_merge_is_said():
    """Where the layers on the input are called several times, there is no trunk."""
    models = {"a": built("siamese"), "b": built("siamese", 1)}
    exactness.assert_merged_separately(models)
    with pytest.raises(ValueError, match="no common trunk"):
        tfmot_pam.merge(models, exactness.inputs_of(models["a"]), verbose=0)


@pytest.mark.parametrize("name", ["siamese", "halves of one layer"])
def test_files(name, tmp_path):
    small = exactness.pruned_exactly(built(name))
    exactness.assert_saved(small, tmp_path)
    exactness.assert_exported(small, tmp_path)


def test_trained_with_random_gates():
    model = built("repeated block")
    gated = tfmot_pam.prune_channels(model, exactness.nothing_goes(), "vib")
    rng = np.random.default_rng(0)
    gated.gates.mean.assign(rng.uniform(0.5, 1.5, gated.gates.mean.shape))
    x = exactness.inputs_of(model)
    small = tfmot_pam.strip_pruning(gated)
    exactness.assert_same(small(x, training=False), gated(x, training=False))


def test_refitted_at_once():
    """Layers of several calls keep their weights; what is left computes as predicted."""
    model = built("one dense for all")
    x = exactness.inputs_of(model, 32)
    gated = tfmot_pam.prune_channels(model, 0.3, "reconstruction", data=x)
    small = tfmot_pam.strip_pruning(gated)
    exactness.assert_same(small(x, training=False), gated(x, training=False))
