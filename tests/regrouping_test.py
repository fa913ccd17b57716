"""`regroup`: smaller task sets for the channels of merged models, exact where nothing changes."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmot_pam
from tests import random_models
from tests.identities_test import runnable
from tests.merged_originals_test import KINDS, X, conv_net, outputs
from tests.surgery_test import assert_combinations_are_parts
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read


def merged_pair(**kind):
    models = {"digit": conv_net(0, **kind), "speaker": conv_net(1, classes=4, **kind)}
    return models, tfmot_pam.merge(models, X, rho=0.1, verbose=0)


@pytest.fixture(scope="module")
def plain():
    return merged_pair()[1]


def assert_the_same(one, other, x=X):
    """The same outputs bit by bit, and the same cost of every combination."""
    found, expected = outputs(one, x), outputs(other, x)
    assert found.keys() == expected.keys()
    for task, value in expected.items():
        np.testing.assert_array_equal(found[task], value)
    for tasks in tfmot_pam.combinations(other):
        assert tfmot_pam.cost(one, tasks).macs == tfmot_pam.cost(other, tasks).macs


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_sets_are_the_same_network(kind):
    _, merged = merged_pair(**KINDS[kind])
    sets = tfmot_pam.channel_task_sets(merged)
    assert "conv0_shared" in sets
    assert "head" not in " ".join(sets)
    same = tfmot_pam.regroup(merged, sets, X)
    assert_the_same(same, merged)
    assert tfmot_pam.channel_task_sets(same) == sets
    assert [layer.name for layer in same.layers] == [layer.name for layer in merged.layers]
    assert tfmot_pam.report(same).groups == tfmot_pam.report(merged).groups


@settings(max_examples=2)
@given(st.integers(0, 1_000_000))
def test_random_networks_with_smaller_sets(seed):
    family = random_models.family(seed, tasks=2 + seed % 2)
    method = ("pam", "random", "shared", "pam")[seed % 4]
    merged = runnable(family.models, family.x, method=method, compensation=False)
    assert_the_same(tfmot_pam.regroup(merged, {}), merged, family.x)
    rng = np.random.default_rng(seed)
    fewer = {
        layer: [
            tasks if place == 0 or rng.random() < 0.6 else tasks[: rng.integers(len(tasks) + 1)]
            for place, tasks in enumerate(own)
        ]
        for layer, own in tfmot_pam.channel_task_sets(merged).items()
    }
    small = tfmot_pam.regroup(merged, fewer)
    assert_combinations_are_parts(small, family.x)
    for tasks in tfmot_pam.combinations(merged):
        assert tfmot_pam.cost(small, tasks).macs <= tfmot_pam.cost(merged, tasks).macs


def test_what_no_task_needs_is_gone_as_if_it_had_been_pruned(plain):
    sets = tfmot_pam.channel_task_sets(plain)
    removed = {layer: tuple(range(1, len(own), 3)) for layer, own in sets.items()}
    for layer, places in removed.items():
        sets[layer] = [() if j in places else own for j, own in enumerate(sets[layer])]
    small = tfmot_pam.regroup(plain, sets)
    widths = {layer: len(own) for layer, own in sets.items()}
    assert_the_same(small, tfmot_pam.PruningHistory(widths, removed).apply(plain))


def test_a_channel_of_one_task_is_not_run_for_the_other(plain):
    sets = tfmot_pam.channel_task_sets(plain)
    sets["conv1_shared"][0] = ["speaker"]
    small = tfmot_pam.regroup(plain, sets)
    after = tfmot_pam.channel_task_sets(small)
    assert len(after["conv1_shared"]) == len(sets["conv1_shared"]) - 1
    assert after["conv1_speaker_1"] == [("speaker",)]
    before, now = tfmot_pam.report(plain).groups["conv1"], tfmot_pam.report(small).groups["conv1"]
    assert now["speaker",] == before["speaker",] + 1
    # The channel's own 9 places of each input channel at 100 points, and what reads it.
    fewer = tfmot_pam.cost(plain, "digit").macs - tfmot_pam.cost(small, "digit").macs
    inputs = len(sets["conv0_shared"])
    readers = sum(
        len(own) for layer, own in sets.items() if layer in ("dense_shared", "dense_digit")
    )
    assert fewer == 100 * 9 * inputs + 25 * readers
    # Nothing that the speaker's channels read has changed.
    shared = [layer for layer in sets if layer.startswith("dense") and "digit" not in layer]
    if shared == ["dense_speaker"]:
        np.testing.assert_allclose(outputs(small)["speaker"], outputs(plain)["speaker"], atol=1e-5)


def test_what_goes_is_fitted_back(plain):
    sets = {
        layer: [tasks if place % 3 else () for place, tasks in enumerate(own)]
        for layer, own in tfmot_pam.channel_task_sets(plain).items()
    }
    before, lost = outputs(plain), {}
    for compensation in (True, False):
        small = tfmot_pam.regroup(plain, sets, X, compensation=compensation)
        lost[compensation] = sum(np.square(outputs(small)[t] - before[t]).sum() for t in before)
    assert lost[True] < 0.7 * lost[False]


def test_channels_become_one(plain):
    """Twins lose nothing, with the weights as they are; of others the mean is what is fitted."""
    network = read(plain)
    layer = network.layers["conv0_shared"]
    twins = {name: weight.copy() for name, weight in layer.weights.items()}
    for weight in twins.values():
        weight[..., 1] = weight[..., 0]
    layers = {**network.layers, layer.name: dataclasses.replace(layer, weights=twins)}
    model = emit(network.replace(layers=layers))
    small = tfmot_pam.regroup(model, {}, fuse={"conv0_shared": [(0, 1)]})
    assert len(tfmot_pam.channel_task_sets(small)["conv0_shared"]) == twins["bias"].size - 1
    for task, value in outputs(model).items():
        np.testing.assert_allclose(outputs(small)[task], value, atol=1e-4)
    sets = tfmot_pam.channel_task_sets(plain)
    sets["conv0_shared"][2] = ("digit",)
    fitted = tfmot_pam.regroup(plain, sets, X, fuse={"conv0_shared": [[0, 1]]})
    kernel = layer.weights["kernel"]
    found = read(fitted).layers["conv0_shared"].weights["kernel"]
    np.testing.assert_allclose(found[..., 0], kernel[..., :2].mean(-1), atol=1e-4)
    assert_combinations_are_parts(fitted, X)


@pytest.mark.parametrize(
    ("fuse", "error", "message"),
    [
        ([(0, 1)], TypeError, "`fuse` must be a dict"),
        ({"conv9": [(0, 1)]}, ValueError, "`fuse` has an entry for 'conv9'"),
        ({"conv0_shared": 3}, TypeError, "Expected a list of sets"),
        ({"conv0_shared": [0, 1]}, ValueError, "Expected two channels or more"),
        ({"conv0_shared": [(0, 0)]}, ValueError, "Expected two channels or more"),
        ({"conv0_shared": [(0, 99)]}, ValueError, "out of 0 to"),
        ({"conv0_shared": [(1, 2), (2, 1)]}, ValueError, "each in one set only"),
        ({"conv0_shared": [(0, 1)]}, ValueError, "Expected the same one for channels"),
    ],
)
def test_what_cannot_become_one_is_explained(plain, fuse, error, message):
    sets = {"conv0_shared": tfmot_pam.channel_task_sets(plain)["conv0_shared"]}
    sets["conv0_shared"][0] = ("digit",)
    with pytest.raises(error, match=message):
        tfmot_pam.regroup(plain, sets, fuse=fuse)


def test_a_trained_and_pruned_model_that_was_loaded_is_regrouped(plain, tmp_path):
    labels = {"digit": np.arange(len(X)) % 3, "speaker": np.arange(len(X)) % 4}
    tuned = tfmot_pam.fine_tune(plain, (X, labels), epochs=1, verbose=0)
    pruned = tfmot_pam.strip_pruning(tfmot_pam.prune_channels(tuned, 0.2, "magnitude"))
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    weights = [weight.copy() for weight in loaded.get_weights()]
    sets = tfmot_pam.channel_task_sets(loaded)
    sets["conv1_shared"][0] = ("digit",)
    small = tfmot_pam.regroup(loaded, sets, X)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert_the_same(tfmot_pam.regroup(again, {}), small)
    for before, after in zip(weights, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_tf_keras_models_come_back_as_tf_keras_models(plain):
    twin = tfmot_pam.to_tf_keras(plain)
    sets = tfmot_pam.channel_task_sets(twin)
    assert sets == tfmot_pam.channel_task_sets(plain)
    sets["conv0_shared"][0] = ()
    small = tfmot_pam.regroup(twin, sets)
    expected = tfmot_pam.regroup(plain, sets)
    assert type(small).__module__.startswith("tf_keras")
    for task, value in outputs(expected).items():
        np.testing.assert_allclose(outputs(small)[task], value, atol=1e-5)


def test_layers_whose_channels_stay_together_are_no_choice():
    def net(classes):
        inputs = keras.Input((6,))
        h = keras.layers.LayerNormalization(name="norm")(keras.layers.Dense(8, name="low")(inputs))
        h = keras.layers.Dense(5, activation="relu", name="high")(h)
        return keras.Model(inputs, keras.layers.Dense(classes)(h))

    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    merged = tfmot_pam.merge({"a": net(2), "b": net(3)}, x, verbose=0)
    assert all(layer.startswith("high") for layer in tfmot_pam.channel_task_sets(merged))
    with pytest.raises(ValueError, match="'low_a' stay together.*Expected layers among"):
        tfmot_pam.regroup(merged, {"low_a": [("a",)] * 8})


def test_layers_that_are_added_get_the_same_sets():
    _, merged = merged_pair(residual=True)
    sets = tfmot_pam.channel_task_sets(merged)
    assert {"conv1_shared", "outer_shared"} & set(sets) == {"conv1_shared"}
    sets["conv1_shared"][0] = ("digit",)
    small = tfmot_pam.regroup(merged, sets)
    assert_combinations_are_parts(small, X)
    both = {"conv1_shared": sets["conv1_shared"], "outer_shared": sets["conv1_shared"]}
    with pytest.raises(ValueError, match="'outer_shared' write the same channels"):
        tfmot_pam.regroup(merged, both)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda sets: list(sets), TypeError, "must be a dict of lists"),
        (lambda sets: {"conv9": []}, ValueError, "has an entry for 'conv9'. Expected layers"),
        (lambda sets: {"conv0_shared": "digit"}, TypeError, "must be a list of one a channel"),
        (
            lambda sets: {"conv0_shared": sets["conv0_shared"][1:]},
            ValueError,
            "one for each, the empty set",
        ),
        (
            lambda sets: {"conv0_shared": [*sets["conv0_shared"][:-1], ("digit", "face")]},
            ValueError,
            "sets can shrink, not grow",
        ),
        (
            lambda sets: {"conv0_shared": ["digit"] * len(sets["conv0_shared"])},
            ValueError,
            "needed by",
        ),
        (
            lambda sets: {layer: [()] * len(own) for layer, own in sets.items()},
            ValueError,
            "has no input",
        ),
    ],
)
def test_wrong_task_sets_are_explained(plain, change, error, message):
    with pytest.raises(error, match=message):
        tfmot_pam.regroup(plain, change(tfmot_pam.channel_task_sets(plain)))


def test_a_model_of_one_task_is_refused():
    with pytest.raises(ValueError, match="Expected two or more.*prune_channels"):
        tfmot_pam.channel_task_sets(conv_net(0))
