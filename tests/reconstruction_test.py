"""Reconstruction: what other channels can make up for goes first, and is made up for."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests import random_models
from tests.small_nets import conv_net, dense_net, images, vectors
from tests.surgery_test import assert_same_outputs
from tfmot_pam.closed_form.blocks import BlockSystem, rows_by_channel
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.runner import Stepper
from tfmot_pam.graph.surgery import remove_channels
from tfmot_pam.pruning import at_once
from tfmot_pam.pruning.at_once import cut
from tfmot_pam.pruning.channels import find_prunable
from tfmot_pam.pruning.outputs import answers, relative_errors
from tfmot_pam.pruning.reconstruction import rate
from tfmot_pam.pruning.refit import refitted
from tfmot_pam.pruning.settings import PruningSettings


def duplicated(model: keras.Model) -> keras.Model:
    """Lets units 1 and 3 of the first layer compute the same."""
    first = model.get_layer("fc0")
    kernel, bias = first.kernel.numpy(), first.bias.numpy()
    kernel[:, 3], bias[3] = kernel[:, 1], bias[1]
    first.kernel.assign(kernel)
    first.bias.assign(bias)
    return model


def assert_same_weights(found: Network, wanted: Network) -> None:
    for name, layer in wanted.layers.items():
        for weight, value in layer.weights.items():
            np.testing.assert_array_equal(found.layers[name].weights[weight], value)


class OnlyFirst:
    def allow_pruning(self, layer):
        return layer.name == "fc0"


def test_a_duplicate_goes_first_and_is_made_up_for_exactly():
    model, x = duplicated(dense_net(0, widths=(6, 5))), vectors(256)
    rated = rate(find_prunable(read(model)), x, None)
    assert np.argmin(rated[:6]) in (1, 3)
    options = {"data": x, "pruning_policy": OnlyFirst()}
    gated = tfmot_pam.prune_channels(model, 1 / 6, "reconstruction", **options)
    small = tfmot_pam.strip_pruning(gated)
    ((name, (gone,)),) = small.pruning_history.removed.items()
    assert (name, gone in (1, 3)) == ("fc0", True)
    np.testing.assert_allclose(small(x), model(x), atol=2e-3)


def test_a_dead_channel_is_worth_nothing():
    model, x = dense_net(0, widths=(6, 5)), vectors(256)
    layer = model.get_layer("fc0")
    layer.bias.assign(np.where(np.arange(6) == 2, -100.0, 0.0))
    rated = rate(find_prunable(read(model)), x, None)
    assert rated[2] == pytest.approx(0.0, abs=1e-6)
    assert np.all(np.delete(rated[:6], 2) > 1e-6)


def test_room_is_what_a_group_does_in_the_mean_shared_by_its_channels():
    prunable, x = find_prunable(read(dense_net(0, widths=(6, 5)))), vectors(256)
    plain = rate(prunable, x, None)
    widths = [group.width for group in prunable.groups]
    assert widths == [6, 5]
    mean = plain.sum() / 2
    np.testing.assert_allclose(
        rate(prunable, x, None, room=0.5) - plain, 0.5 * mean / np.repeat(widths, widths)
    )


def test_room_keeps_layers_that_cost_next_to_nothing():
    """A dense layer behind convolutions loses its channels first, unless its width counts."""
    head = [
        layers.GlobalAveragePooling2D(),
        layers.Dense(96, activation="relu", name="dense"),
        layers.Dense(3, name="out"),
    ]
    network, x = read(conv_net(0, widths=(8, 10), head=lambda: head)), images(256)
    settings = PruningSettings(importance="reconstruction", measure="macs")
    left = [
        cut(network, settings, 0.9, x, room=room).layers["dense"].config["units"]
        for room in (0.0, 1.0)
    ]
    assert left[0] < 96
    assert left[1] == 96


def test_a_rating_that_misleads_is_found_out(monkeypatch):
    """Channels are said to be worth nothing that are not: what removing them does is measured."""
    prunable, x = find_prunable(read(conv_net(0, widths=(8, 8)))), images(256)
    settings = PruningSettings(importance="reconstruction", measure="macs")
    full, useful = np.ones(len(prunable), bool), prunable.groups[1]
    misled = np.ones(len(prunable))
    misled[useful.slice] = 0.0
    budget, wanted = settings.budget(prunable), answers(prunable.network, x)

    def change(fitted, keep):
        network = remove_channels(fitted.graph, fitted.in_graph(keep)).network
        return sum(relative_errors(answers(network, x), wanted))

    plain = budget.choose(full, misled, 0.6)
    assert not plain[useful.slice].all()
    monkeypatch.setattr(at_once, "score", lambda *args: misled)
    fitted, keep = at_once.choose(prunable, settings, 0.4, x)
    assert keep[useful.slice].all()
    assert budget.share(keep) <= 0.6 + 1e-6
    network = refitted(prunable.graph, prunable.in_graph(plain), x)
    gutted = dataclasses.replace(prunable, graph=prunable.graph.of(network))
    assert change(fitted, keep) < 0.5 * change(gutted, plain)


def test_fits_that_know_what_the_network_computes_are_the_same(monkeypatch):
    models = {"p": conv_net(0), "q": conv_net(1)}
    merged = tfmot_pam.merge(models, images(128), share=0.4, verbose=0)
    prunable, x, known = find_prunable(read(merged)), images(96), {}
    rng = np.random.default_rng(0)
    choices = [rng.random(len(prunable)) < 0.8 for _ in range(3)]
    # One without a group: later layers then see other places than those that are known.
    exclusive = next(group for group in prunable.groups if len(group.tasks) == 1)
    choices.insert(1, np.ones(len(prunable), bool))
    choices[1][exclusive.slice] = False
    for keep in choices:
        chosen = (prunable.graph, prunable.in_graph(keep), x)
        wanted, found = refitted(*chosen), refitted(*chosen, known=known)
        assert_same_weights(found, wanted)
    # What is known is not computed again.
    ran = []
    gather = Stepper.gather

    def watched(self, *arguments):
        ran.append(self._network)
        return gather(self, *arguments)

    monkeypatch.setattr(Stepper, "gather", watched)
    assert_same_weights(refitted(*chosen, known=known), wanted)
    assert ran
    assert all(network is not prunable.network for network in ran)


def test_choices_of_large_networks_are_compared_on_a_part_of_the_samples(monkeypatch):
    """The fit of what is chosen looks at all samples, whatever the choice was made by."""
    network, x = read(conv_net(0, widths=(8, 8))), images(256)
    settings = PruningSettings(importance="reconstruction", measure="macs")
    looked = []

    def fit(graph, keep, inputs, *args):
        looked.append((len(inputs), keep))
        return refitted(graph, keep, inputs, *args)

    monkeypatch.setattr(at_once, "refitted", fit)
    monkeypatch.setattr(at_once, "_FEWEST_COMPARED", 64)
    monkeypatch.setattr(at_once, "_COMPARED_MACS", 1.0)
    fitted, keep = at_once.choose(find_prunable(network), settings, 0.4, x)
    *compared, (samples, chosen) = looked
    assert {count for count, _ in compared} == {64}
    assert samples == 256
    assert_same_weights(fitted.network, refitted(fitted.graph.of(network), chosen, x))


@pytest.mark.parametrize(("macs", "kept_whole"), [(1.0, 1), (1e30, 2)])
def test_fewer_choices_are_compared_of_large_networks(monkeypatch, macs, kept_whole):
    """One group stays whole and then another one as long as that helps; here it always does."""
    network, x = read(conv_net(0, widths=(8, 8, 8))), images(64)
    settings = PruningSettings(importance="reconstruction", measure="macs")
    errors = []

    def better(found, wanted):
        errors.append(1.0 / (2 + len(errors)))
        return [errors[-1]]

    monkeypatch.setattr(at_once, "relative_errors", better)
    monkeypatch.setattr(at_once, "_KEPT_WHOLE", 2)
    monkeypatch.setattr(at_once, "_FEWEST_COMPARED", 32)
    monkeypatch.setattr(at_once, "_COMPARED_MACS", macs)
    prunable, fraction = find_prunable(network), 0.2
    rated = np.arange(len(prunable), dtype=float)
    monkeypatch.setattr(at_once, "score", lambda *args: rated)
    budget, every = settings.budget(prunable), np.ones(len(prunable), bool)
    first = [budget.choose(every, rated, 1.0 - fraction, leap) for leap in (True, False)]
    at_once.choose(prunable, settings, fraction, x)
    assert len(errors) == len(np.unique(first, axis=0)) + kept_whole


def test_ratings_add_up_to_all_that_is_explained():
    """The system's gains, summed over the picks, are the explained share of the targets."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(200, 6)), rng.normal(size=(200, 3))
    rows = rows_by_channel(features, np.array([0, 0, 1, 1, 2, 2]))
    system, total = BlockSystem(rows, targets, 1e-9), 0.0
    while system.live:
        gains = system.gains().sum(axis=0)
        pick = int(np.argmax(gains))
        total += gains[pick]
        system.condition(pick)
    solution = np.linalg.lstsq(features, targets, rcond=None)[0]
    explained = np.square(features @ solution).sum(axis=1).mean()
    assert total == pytest.approx(explained, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_masked_equals_removed_with_refitted_weights(seed):
    family = random_models.family(seed)
    model = family.models["t0"]
    x = np.random.default_rng(0).normal(size=(32, *family.x.shape[1:])).astype("float32")
    gated = tfmot_pam.prune_channels(model, 0.2, "reconstruction", data=x)
    assert_same_outputs(gated, tfmot_pam.strip_pruning(gated), family.x, 1e-4)


def test_it_beats_removal_without_a_fit():
    model, x = conv_net(0, widths=(16, 16)), images(256)
    errors = {}
    for importance in ("reconstruction", "magnitude", "random"):
        options = {"data": x} if importance == "reconstruction" else {}
        gated = tfmot_pam.prune_channels(model, 0.5, importance, measure="macs", **options)
        small = tfmot_pam.strip_pruning(gated)
        errors[importance] = float(np.abs(small(x) - model(x)).max())
    assert errors["reconstruction"] < 0.5 * min(errors["magnitude"], errors["random"])


def test_merged_models_are_rated_under_their_task_sets():
    models = {"p": conv_net(0), "q": conv_net(1)}
    x = images(128)
    merged = tfmot_pam.merge(models, x, method="shared", verbose=0)
    gated = tfmot_pam.prune_channels(merged, 0.5, "reconstruction", data=x, measure="macs")
    small = tfmot_pam.strip_pruning(gated)
    assert tfmot_pam.report(small).expected_macs <= 0.5 * tfmot_pam.report(merged).expected_macs
    for task, model in models.items():
        error = float(np.sqrt(np.mean(np.square(small(x)[task] - model(x)))))
        assert error < 0.1


def test_layers_without_a_bias_get_one():
    x = keras.Input((6,))
    h = layers.Dense(8, "relu", use_bias=False, name="hidden")(x)
    model = keras.Model(x, layers.Dense(2, use_bias=False, name="out")(h))
    data = vectors(128)
    small = tfmot_pam.strip_pruning(
        tfmot_pam.prune_channels(model, 0.5, "reconstruction", data=data)
    )
    assert small.get_layer("out").use_bias
    assert np.mean(small(data) - model(data)) == pytest.approx(0.0, abs=1e-4)
