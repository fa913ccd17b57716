"""Estimated time as a function of the channels that stay, against the network that is left."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.random_models import family
from tests.small_nets import conv_net
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.surgery import remove_channels
from tfmot_pam.graph.time_model import call_time, estimated_time, narrower
from tfmot_pam.pruning.budget import drop_unread
from tfmot_pam.pruning.channels import find_prunable
from tfmot_pam.pruning.costs import WidthCosts, node_weights
from tfmot_pam.pruning.settings import PruningSettings
from tfmot_pam.pruning.time_costs import TimeCosts


def everywhere(prunable):
    return dict.fromkeys(prunable.node_tasks, 1.0)


def test_the_next_width_that_takes_less_time():
    """16 channels or fewer cost one kernel of 16, up to 32 two, then whole tiles of 32."""
    assert [narrower(n) for n in (1, 16, 17, 31, 32, 33, 64, 65)] == [0, 0, 16, 16, 16, 32, 32, 64]


@pytest.mark.parametrize("seed", range(16))
def test_time_at_other_widths_is_the_time_of_the_smaller_network(seed):
    rng = np.random.default_rng(seed)
    prunable = find_prunable(read(family(seed, tasks=2).models["t0"]))
    costs = TimeCosts(prunable)
    full = np.ones(len(prunable), bool)
    assert costs.time(full, everywhere(prunable)) == pytest.approx(estimated_time(prunable.network))
    keep = np.concatenate(
        [np.arange(group.width) < rng.integers(1, group.width + 1) for group in prunable.groups]
    )
    smaller = remove_channels(prunable.graph, prunable.in_graph(keep)).network
    assert costs.time(keep, everywhere(prunable)) == pytest.approx(estimated_time(smaller))


def merged(width=40):
    models = {"a": conv_net(0, (width, width)), "b": conv_net(1, (width, width))}
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    return tfmot_pam.merge(models, x, rho=0.3, width="union", min_group=1, verbose=0)


def test_whole_groups_may_go_with_their_concatenations():
    prunable = find_prunable(read(merged()))
    keep = np.ones(len(prunable), bool)
    for group in prunable.groups:
        if len(group.tasks) == 2:
            keep[group.slice] = False
    keep = drop_unread(prunable, keep)
    smaller = remove_channels(prunable.graph, prunable.in_graph(keep)).network
    found = TimeCosts(prunable).time(keep, everywhere(prunable))
    assert found == pytest.approx(estimated_time(smaller))
    assert any(node.layer.startswith("concatenate") for node in prunable.network.nodes)
    assert not any(node.layer.startswith("concatenate") for node in smaller.nodes)


def test_a_channel_saves_its_share_of_the_next_narrower_width():
    x = keras.Input((8, 8, 2))
    h = layers.Conv2D(40, 3, padding="same", name="first")(x)
    model = keras.Model(x, {"a": layers.Conv2D(4, 1, name="head")(h)})
    prunable = find_prunable(read(model))
    usage = {("a",): 1.0}
    saved = TimeCosts(prunable).marginal_time(np.ones(40, bool), node_weights(prunable, usage))
    # 40 output channels take the time of 64, 32 that of 32; the head reads 64 positions.
    first = 64 * 9 * 2 * (64 - 32) / (40 - 32)
    head = 64 * 16
    assert saved == pytest.approx(np.full(40, first + head))


def test_pruning_by_time_takes_less_time_than_pruning_by_macs():
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(64, 3, padding="same", activation="relu", name="first")(x)
    h = layers.Conv2D(64, 3, padding="same", activation="relu", name="second")(h)
    model = keras.Model(x, {"a": layers.Dense(3, name="head")(layers.Flatten()(h))})
    times = {}
    for measure in ("latency", "macs"):
        gated = tfmot_pam.prune_channels(model, 0.4, "magnitude", measure=measure)
        times[measure] = estimated_time(read(tfmot_pam.strip_pruning(gated)))
    assert times["latency"] <= 0.6 * estimated_time(read(model))
    assert times["latency"] < times["macs"]


def macs_of(kind, inputs, shape, macs):
    return macs


@pytest.mark.parametrize("seed", range(4))
def test_a_function_of_multiply_accumulates_is_the_measure_macs(seed):
    rng = np.random.default_rng(seed)
    prunable = find_prunable(read(family(seed, tasks=2).models["t0"]))
    weights = {name: float(rng.integers(1, 4)) for name in prunable.node_tasks}
    ours, theirs = TimeCosts(prunable, macs_of), WidthCosts(prunable)
    keep = rng.random(len(prunable)) < 0.8
    keep[[group.slice.start for group in prunable.groups]] = True
    assert ours.time(keep, weights) == pytest.approx(theirs.macs(keep, weights))
    np.testing.assert_allclose(
        ours.marginal_time(keep, weights)[keep], theirs.marginal_macs(keep, weights)[keep]
    )


def test_a_function_of_steps_saves_as_the_time_model_does():
    """A width that saves nothing is passed over for the next that does."""
    prunable = find_prunable(read(merged()))
    weights, keep = everywhere(prunable), np.ones(len(prunable), bool)
    same = TimeCosts(prunable, lambda *call: call_time(*call))
    np.testing.assert_allclose(
        same.marginal_time(keep, weights), TimeCosts(prunable).marginal_time(keep, weights)
    )


def test_pruning_by_a_function():
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(24, 3, padding="same", activation="relu", name="first")(x)
    h = layers.Conv2D(24, 3, padding="same", activation="relu", name="second")(h)
    model = keras.Model(x, {"a": layers.Dense(3, name="head")(layers.Flatten()(h))})
    for function, name in ((macs_of, "macs"), (call_time, "latency")):
        kept = []
        for measure in (function, name):
            gated = tfmot_pam.prune_channels(model, 0.4, "magnitude", measure=measure)
            kept.append(gated.gates.mask.numpy())
            with keras.saving.custom_object_scope({f.__name__: f for f in (macs_of, call_time)}):
                again = type(gated).from_config(gated.get_config())
            assert again.gates.settings.measure == measure
        np.testing.assert_array_equal(*kept)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), None, "much"])
def test_what_a_function_may_not_give(wrong):
    prunable = find_prunable(read(conv_net(0, (4, 4))))
    with pytest.raises(ValueError, match="`measure` gives .* Expected a number of at least 0"):
        PruningSettings(measure=lambda *call: wrong).budget(prunable)
