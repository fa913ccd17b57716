"""What a budget lets go: nothing beyond the share, and nothing that there was room for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tests import random_models
from tests.small_nets import conv_net
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.surgery import remove_channels
from tfmot_pam.pruning.budget import drop_unread
from tfmot_pam.pruning.channels import find_prunable
from tfmot_pam.pruning.settings import PruningSettings

ROOM = 0.005


def budget_of(model, measure="macs"):
    prunable = find_prunable(read(model))
    return prunable, PruningSettings(measure=measure).budget(prunable)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_what_there_is_room_for_stays(seed, share):
    model = conv_net(seed) if seed == 0 else random_models.family(seed).models["t0"]
    prunable, budget = budget_of(model)
    share = max(share, budget.least())
    full = np.ones(len(prunable), bool)
    keep = budget.choose(full, np.random.default_rng(seed).random(len(prunable)), share)
    assert budget.share(keep) <= share + 1e-6
    if share - budget.share(keep) < ROOM:
        return
    for channel in np.flatnonzero(~keep)[:20]:
        more = keep.copy()
        more[channel] = True
        assert budget.share(more) > share or not drop_unread(prunable, more)[channel]


def narrow_first() -> keras.Model:
    """A first layer of four channels, each of which costs a quarter of almost everything."""
    x = keras.Input((16, 16, 1))
    h = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(x)
    h = layers.Conv2D(24, 3, padding="same", activation="relu", name="second")(h)
    return keras.Model(x, layers.Dense(2, name="out")(layers.GlobalAveragePooling2D()(h)))


def test_a_large_channel_goes_where_it_is_worth_it_and_others_come_back():
    prunable, budget = budget_of(narrow_first())
    # Per operation the first layer's channels matter least: one of them saves a quarter.
    importance = np.where(np.arange(28) < 4, 0.02, 1.0)
    keep = budget.choose(np.ones(28, bool), importance, 0.85)
    assert keep[:4].sum() == 3
    assert keep[4:].all()


def test_a_channel_far_larger_than_what_is_wanted_stays():
    prunable, budget = budget_of(narrow_first())
    importance = np.where(np.arange(28) < 4, 0.15, 0.025)
    keep = budget.choose(np.ones(28, bool), importance, 0.99)
    assert keep[:4].all()
    assert budget.share(keep) <= 0.99


def test_without_leaps_a_large_channel_counts_for_no_more_than_is_needed():
    prunable, budget = budget_of(narrow_first())
    importance = np.where(np.arange(28) < 4, 0.06, 0.02)
    full = np.ones(28, bool)
    assert budget.choose(full, importance, 0.9)[:4].sum() == 3
    assert budget.choose(full, importance, 0.9, leap=False)[:4].all()


def _two_branches():
    image, beside = keras.Input((6, 6, 1)), keras.Input((3,))
    x = layers.Conv2D(4, 3, activation="relu")(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(x))
    known = layers.Dense(4, activation="relu")(beside)
    return keras.Model([image, beside], layers.Dense(2)(layers.Concatenate()([x, known])))


@pytest.mark.parametrize("seed", range(12))
def test_what_is_given_back_has_something_to_read(seed):
    """A branch may go as a whole; no channel of it comes back without those below it."""
    prunable, budget = budget_of(_two_branches())
    rng = np.random.default_rng(seed)
    full = np.ones(len(prunable), bool)
    for share in (0.02, 0.1, 0.3):
        keep = budget.choose(full, rng.exponential(size=len(prunable)) ** 4, share)
        cut = remove_channels(prunable.graph, prunable.in_graph(keep)).network
        whole = network_cost(prunable.network).macs
        assert network_cost(cut).macs == pytest.approx(budget.share(keep) * whole)
