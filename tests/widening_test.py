"""Widening: the same function with more channels, on random graphs and on real architectures."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from tests import random_models
from tests.identities_test import runnable
from tests.small_nets import conv_net, images
from tests.surgery_test import assert_combinations_are_parts, assert_same_outputs
from tests.tiers import regular
from tfmot_pam.graph.channels import build_channel_graph
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.surgery import repeat_channels, repeatable_channels
from tfmot_pam.graph.widening import widen
from tfmot_pam.pipeline.price import combination_costs, expected_cost
from tfmot_pam.pipeline.room import with_room

SEEDS = st.integers(0, 1_000_000)


def widened(model, seed, most=3):
    """The model with every channel that may be repeated there up to so many times."""
    graph = build_channel_graph(read(model))
    times = np.random.default_rng(seed).integers(1, most + 1, len(graph.space_of))
    times[~repeatable_channels(graph)] = 1
    return emit(widen(graph, times, seed))


def weights_of(model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.weights}


@settings(max_examples=6)
@given(SEEDS)
def test_wider_random_graphs_compute_the_same(seed):
    family = random_models.family(seed)
    model = family.models["t0"]
    before = weights_of(model)
    assert_same_outputs(widened(model, seed), model, family.x)
    for path, weight in weights_of(model).items():
        np.testing.assert_array_equal(weight, before[path])


@settings(max_examples=2)
@given(SEEDS)
def test_wider_random_merged_graphs_compute_the_same(seed):
    family = random_models.family(seed, tasks=2 + seed % 2)
    method = ("pam", "random", "shared", "separate")[seed % 4]
    merged = runnable(family.models, family.x, method=method, compensation=False)
    wide = widened(merged, seed)
    assert_same_outputs(wide, merged, family.x)
    assert_combinations_are_parts(wide, family.x)


def test_once_each_changes_nothing():
    model = conv_net(0)
    graph = build_channel_graph(read(model))
    same = emit(widen(graph, np.ones(len(graph.space_of), int)))
    for one, other in zip(same.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_new_channels_read_at_random_and_are_read_by_zeros():
    inputs = keras.Input((5,))
    hidden = layers.Dense(3, activation="relu", name="hidden")
    model = keras.Model(inputs, layers.Dense(2, name="out")(hidden(inputs)))
    graph = build_channel_graph(read(model))
    times = np.ones(len(graph.space_of), int)
    (space,) = [space for space in graph.spaces if space.name == "hidden"]
    times[space.channels] = [2, 1, 3]
    wide = emit(widen(graph, times, seed=1))
    kernel, bias = wide.get_layer("hidden").get_weights()
    of_out, _ = wide.get_layer("out").get_weights()
    old, new = [0, 2, 3], [1, 4, 5]
    np.testing.assert_array_equal(kernel[:, old], hidden.get_weights()[0])
    np.testing.assert_array_equal(of_out[old], model.get_layer("out").get_weights()[0])
    assert not of_out[new].any()
    assert not bias[new].any()
    assert kernel[:, new].std() == pytest.approx(hidden.get_weights()[0].std(), rel=0.7)
    assert len(np.unique(kernel[0])) == 6  # no two channels see the same
    # They learn: the gradient of what reads them is not 0.
    x = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
    wide.compile("sgd", "mse", jit_compile=False)
    wide.fit(x, x[:, :2], epochs=1, verbose=0)
    assert wide.get_layer("out").get_weights()[0][new].any()


@pytest.mark.parametrize(
    "build", regular([keras.applications.MobileNetV2, keras.applications.DenseNet121])
)
def test_wider_applications_compute_the_same(build):
    model = build(input_shape=(32, 32, 3), weights=None, classes=4)
    wide = widened(model, 0, most=2)
    assert wide.count_params() > 1.3 * model.count_params()
    assert_same_outputs(wide, model, images(2, shape=(32, 32, 3)), 1e-4)


@pytest.mark.parametrize(("space", "count"), [("out", 2), ("hidden", 0), ("input", 2)])
def test_what_cannot_be_repeated_is_refused(space, count):
    inputs = keras.Input((5,), name="input")
    hidden = layers.Dense(3, activation="relu", name="hidden")(inputs)
    graph = build_channel_graph(read(keras.Model(inputs, layers.Dense(2, name="out")(hidden))))
    times = np.ones(len(graph.space_of), int)
    (found,) = [own for own in graph.spaces if own.name == space]
    times[found.channels[0]] = count
    with pytest.raises(ValueError, match=rf"'{space}'.* cannot be there \[{count}\] times"):
        repeat_channels(graph, times)


def test_channels_that_layers_pair_by_place_are_not_repeated():
    inputs = keras.Input((8, 8, 3))
    h = layers.Conv2D(4, 3, name="before")(inputs)
    h = layers.DepthwiseConv2D(3, depth_multiplier=2)(h)
    h = layers.Conv2D(6, 3, name="grouped", groups=2)(h)
    h = layers.DepthwiseConv2D(2, name="plain")(layers.Conv2D(5, 1, name="free")(h))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(h)))
    graph = build_channel_graph(read(model))
    may = repeatable_channels(graph)
    assert [space.name for space in graph.spaces if may[space.channels].any()] == ["free"]


# --- room for several tasks ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def trunk():
    """Two tasks behind one trunk whose dense layer costs next to nothing."""
    inputs = keras.Input((16, 16, 3))
    h = layers.Conv2D(12, 3, activation="relu", name="conv")(inputs)
    h = layers.Conv2D(8, 3, activation="relu", name="conv2")(h)
    h = layers.Dense(6, activation="relu", name="dense")(layers.GlobalAveragePooling2D()(h))
    own = layers.Dense(4, activation="relu", name="own")(h)
    heads = {"a": layers.Dense(3, name="a")(h), "b": layers.Dense(3, name="b")(own)}
    return keras.Model(inputs, heads)


@pytest.mark.parametrize("measure", ["macs", "latency"])
def test_cheap_layers_that_tasks_share_get_wider(trunk, measure):
    network = read(trunk)
    wide = with_room(network, measure, None)
    costs = [expected_cost(combination_costs(n, measure), None) for n in (network, wide)]
    assert costs[0] < costs[1] <= 1.05 * costs[0]
    widths = {name: layer.config.get("units") for name, layer in wide.layers.items()}
    # As wide as the tasks would need side by side; what one task needs stays as it is.
    assert (widths["dense"], widths["own"]) == (12, 4)
    assert wide.layers["conv"].config["filters"] == 12
    assert_same_outputs(emit(wide), trunk, images(3, shape=(16, 16, 3)))


def test_a_single_task_needs_no_room():
    network = read(conv_net(0))
    same = with_room(network, "macs", None)
    assert combination_costs(same, "macs") == combination_costs(network, "macs")


def test_what_the_measure_does_not_count_gets_wider(trunk):
    network = read(trunk)
    found = with_room(network, lambda kind, inputs, shape, macs: float(kind == "Dense"), None)
    # By this measure only the number of dense layers counts: everything may be twice as wide.
    assert found.layers["conv"].config["filters"] == 24
