"""Identity (iii): a network whose channels are masked computes what the one without them does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmot_pam
from tests import random_models
from tests.applications_test import APPLICATIONS, images, two_models
from tests.identities_test import runnable
from tests.small_nets import conv_net, dense_net
from tfmot_pam.closed_form.batch_norm import reestimated
from tfmot_pam.graph.channels import build_channel_graph
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.surgery import fixed_channels, remove_channels

SEEDS = st.integers(0, 1_000_000)
# With random batch-norm statistics the signal dies on the way through these.
DIES = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0")
MEASURES = ("channels", "macs", "parameters")


def values(outputs) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(outputs)]


def assert_same_outputs(found, expected, x, tolerance=1e-5):
    pairs = zip(values(found(x, training=False)), values(expected(x, training=False)), strict=True)
    for a, b in pairs:
        assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


def assert_combinations_are_parts(model, x):
    """The network of every combination computes what the whole one does."""
    whole = model(x, training=False)
    for combination in tfmot_pam.combinations(model):
        alone = tfmot_pam.select_tasks(model, combination)(x, training=False)
        for task in combination:
            np.testing.assert_allclose(whole[task], alone[task], atol=1e-5, rtol=1e-5)


def pruned(model, seed, fraction=0.4):
    """A gated and a stripped model with random channels off, or None where floors forbid it."""
    options = {"measure": MEASURES[seed % 3], "scope": ("global", "per-layer")[seed // 3 % 2]}
    try:
        gated = tfmot_pam.prune_channels(model, fraction, "random", seed=seed, **options)
    except ValueError as error:
        if "can be pruned" in str(error) or "at most" in str(error):
            return None
        raise
    return gated, tfmot_pam.strip_pruning(gated)


@settings(max_examples=4)
@given(SEEDS)
def test_masked_equals_removed_on_random_graphs(seed):
    family = random_models.family(seed)
    model = family.models["t0"]
    found = pruned(model, seed)
    if found is None:
        return
    gated, small = found
    assert_same_outputs(gated, small, family.x)
    assert tfmot_pam.cost(small).macs < tfmot_pam.cost(model).macs
    again = tfmot_pam.PruningHistory.from_json(small.pruning_history.to_json()).apply(model)
    assert_same_outputs(again, small, family.x, 1e-6)


@settings(max_examples=2)
@given(SEEDS)
def test_masked_equals_removed_on_random_merged_graphs(seed):
    family = random_models.family(seed, tasks=2 + seed % 2)
    method = ("pam", "random", "shared", "separate")[seed % 4]
    merged = runnable(family.models, family.x, method=method, compensation=False)
    found = pruned(merged, seed)
    if found is None:
        return
    gated, small = found
    assert_same_outputs(gated, small, family.x)
    assert_combinations_are_parts(small, family.x)


def test_removing_nothing_changes_nothing():
    family = random_models.family(5)
    model = family.models["t0"]
    graph = build_channel_graph(read(model))
    same = emit(remove_channels(graph, np.ones(len(graph.space_of), bool)).network)
    assert_same_outputs(same, model, family.x, 1e-6)
    assert [w.shape for w in same.weights] == [w.shape for w in model.weights]


def test_removed_channels_are_the_named_ones():
    model = dense_net(0, widths=(5, 4))
    smaller = tfmot_pam.PruningHistory({"fc0": 5}, {"fc0": (1, 4)}).apply(model)
    kernel = model.get_layer("fc0").kernel.numpy()
    np.testing.assert_array_equal(smaller.get_layer("fc0").kernel, kernel[:, [0, 2, 3]])
    rows = model.get_layer("fc1").kernel.numpy()[[0, 2, 3]]
    np.testing.assert_array_equal(smaller.get_layer("fc1").kernel, rows)


def test_batch_norm_statistics_are_estimated_anew():
    x = keras.Input((5,))
    h = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(6, name="hidden")(x))
    model = random_models.randomise(keras.Model(x, keras.layers.Dense(2)(h)), 0)
    data = np.random.default_rng(0).normal(2.0, 3.0, (200, 5)).astype("float32")
    gated = tfmot_pam.prune_channels(model, 0.5, "random")
    small, kept = tfmot_pam.strip_pruning(gated, data), tfmot_pam.strip_pruning(gated)
    hidden = keras.Model(small.input, small.get_layer("hidden").output)(data)
    np.testing.assert_allclose(small.get_layer("norm").moving_mean, np.mean(hidden, 0), rtol=1e-3)
    np.testing.assert_allclose(
        small.get_layer("norm").moving_variance, np.var(hidden, 0), rtol=1e-3
    )
    assert not np.allclose(kept.get_layer("norm").moving_mean, np.mean(hidden, 0), atol=0.1)


def test_the_input_is_not_changed():
    model = conv_net(0)
    before = [w.numpy() for w in model.weights]
    tfmot_pam.strip_pruning(tfmot_pam.prune_channels(model, 0.5, "random"))
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_group_that_becomes_empty_disappears():
    x = keras.Input((6,))
    shared = tfmot_pam.TaskGroup(keras.layers.Dense(4, "relu", name="s"), ("a", "b"))(x)
    own = tfmot_pam.TaskGroup(keras.layers.Dense(3, "relu", name="own"), ("a",))(x)
    more = tfmot_pam.TaskGroup(keras.layers.Dense(2, "relu", name="more"), ("a",))(own)
    both = keras.layers.Concatenate()([shared, more])
    heads = {"a": keras.layers.Dense(2, name="a")(both), "b": keras.layers.Dense(2)(shared)}
    model = keras.Model(x, heads)
    smaller = tfmot_pam.PruningHistory({"more": 2}, {"more": (0, 1)}).apply(model)
    names = [layer.name for layer in smaller.layers]
    assert "more" not in names
    assert "own" not in names  # Nobody reads it any more.
    assert not any(isinstance(layer, keras.layers.Concatenate) for layer in smaller.layers)
    np.testing.assert_allclose(
        smaller(np.ones((1, 6)))["b"], model(np.ones((1, 6)))["b"], atol=1e-6
    )


def test_outputs_and_inputs_stay():
    graph = build_channel_graph(read(conv_net(0)))
    fixed = fixed_channels(graph)
    keep = np.ones(len(fixed), bool)
    keep[np.flatnonzero(fixed)[-1]] = False
    with pytest.raises(ValueError, match=r"\['head'\] cannot be removed.*Keep all"):
        remove_channels(graph, keep)


def test_a_layer_without_inputs_is_refused():
    graph = build_channel_graph(read(conv_net(0)))
    (space,) = [space for space in graph.spaces if space.name == "conv0"]
    keep = np.ones(len(graph.space_of), bool)
    keep[space.channels] = False
    with pytest.raises(ValueError, match="'conv1' would lose all channels that it reads"):
        remove_channels(graph, keep)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications_pruned_by_half(name, tmp_path):
    import tflite_export

    model, x = two_models(name)["a"], images(8)
    gated = tfmot_pam.prune_channels(model, 0.5, "random")
    small = tfmot_pam.strip_pruning(gated)
    assert_same_outputs(gated, small, x, 1e-4)
    expected = _predicted_macs(gated)
    assert tfmot_pam.cost(small).macs == pytest.approx(expected, rel=1e-9)
    sizes = {}
    for key, network in {"whole": model, "small": small}.items():
        if name in DIES:
            network = emit(reestimated(read(network), images(64)))
        (file,) = tflite_export.export(network, tmp_path / key, samples=x, verbose=0)
        sizes[key] = file.bytes
    assert sizes["small"] < 0.7 * sizes["whole"]


def _predicted_macs(gated) -> float:
    from tfmot_pam.pruning.costs import WidthCosts
    from tfmot_pam.pruning.gates import remove_gates

    ungated = remove_gates(read(gated))
    return WidthCosts(ungated.prunable()).macs(ungated.mask)
