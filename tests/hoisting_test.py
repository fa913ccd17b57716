"""Networks with concatenations in front of their poolings compute the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests import small_nets
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.tfmot_bridge.hoisting import hoist_concatenations

POOLINGS = {
    "max": lambda: layers.MaxPooling2D(),
    "global": lambda: layers.GlobalMaxPooling2D(),
    "pad": lambda: layers.ZeroPadding2D(1),
    "crop": lambda: layers.Cropping2D(1),
}


def two_branches(*stages):
    x = keras.Input((8, 8, 2), name="image")
    branches = [layers.Conv2D(width, 3, name=f"conv{width}")(x) for width in (3, 4)]
    for stage in stages:
        branches = [stage()(branch) for branch in branches]
    joined = layers.Concatenate(name="join")(branches)
    return keras.Model(x, {"joined": joined, "first": branches[0]})


def kinds_before(network, name):
    return {network.layer_of(network.node(t.node)).kind for t in network.node(name).inputs}


@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS.keys())
def test_one_pooling(pooling):
    model = two_branches(pooling)
    network = hoist_concatenations(read(model))
    assert kinds_before(network, "join") == {"Conv2D"}
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    found, expected = emit(network)(x), model(x)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


def test_several_poolings():
    network = hoist_concatenations(read(two_branches(POOLINGS["max"], POOLINGS["pad"])))
    assert kinds_before(network, "join") == {"Conv2D"}


def test_shapes_are_those_of_keras():
    network = hoist_concatenations(read(two_branches(POOLINGS["max"])))
    again = read(emit(network))
    assert {n.name: n.shapes for n in network.nodes} == {n.name: n.shapes for n in again.nodes}


def test_unlike_poolings_stay():
    x = keras.Input((8, 8, 2))
    parts = [layers.MaxPooling2D(2)(x), layers.MaxPooling2D(2, padding="same")(x)]
    network = read(keras.Model(x, layers.Concatenate(name="join")(parts)))
    assert hoist_concatenations(network) is network


def test_other_layers_stay():
    network = read(two_branches(layers.ReLU))
    assert hoist_concatenations(network) is network


def test_merged_models():
    block = [layers.ReLU, layers.MaxPooling2D]
    models = {
        task: small_nets.conv_net(
            seed,
            block=lambda width, position: [
                layers.Conv2D(width, 3, padding="same", name=f"conv{position}"),
                *(kind(name=f"{kind.__name__.lower()}{position}") for kind in block),
            ],
        )
        for seed, task in enumerate(("a", "b"))
    }
    x = small_nets.images(64)
    merged = tfmot_pam.merge(models, x, share=0.5, verbose=0)
    network = hoist_concatenations(read(merged))
    for node in network.nodes:
        if network.layer_of(node).kind == "Concatenate":
            assert "MaxPooling2D" not in kinds_before(network, node.name)
    found, expected = small_nets.all_outputs(emit(network), x), small_nets.all_outputs(merged, x)
    for task, value in expected.items():
        np.testing.assert_allclose(found[task], value, atol=1e-6)
