"""Recurrent layers as readers of channels: split, rated, fitted, exactly where it can be exact."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.exactness import assert_same
from tests.small_nets import randomise
from tests.tiers import regular
from tfmot_pam.closed_form import linear
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.pruning.channels import find_prunable
from tfmot_pam.pruning.reconstruction import rate
from tfmot_pam.pruning.sensitivity import pre_activations_apart

layers = keras.layers
STEPS, BANDS, MADE = 7, 5, 8


def _lstm(**options):
    return layers.LSTM(3, **options)


KINDS = {
    "LSTM": _lstm,
    "GRU": lambda: layers.GRU(3),
    "GRU with one bias": lambda: layers.GRU(3, reset_after=False, return_sequences=True),
    "SimpleRNN": lambda: layers.SimpleRNN(3, go_backwards=True),
    "Bidirectional": lambda: layers.Bidirectional(_lstm(return_sequences=True)),
    "two kinds": lambda: layers.Bidirectional(
        layers.GRU(3), backward_layer=_lstm(go_backwards=True)
    ),
    "summed": lambda: layers.Bidirectional(layers.GRU(3), merge_mode="sum"),
}
REFUSED = {
    "no bias": lambda: layers.GRU(3, use_bias=False),
    "convolutional": lambda: layers.Bidirectional(layers.ConvLSTM1D(2, 3)),
}


def sounds(count: int = 96) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, STEPS, BANDS)).astype("float32")


def model_of(make, seed: int = 0, mask: bool = False) -> keras.Model:
    """Eight channels of which four say what the others do, a recurrent layer, and a head."""
    keras.utils.set_random_seed(seed)
    sound = h = keras.Input((STEPS, BANDS), name="sound")
    if mask:
        h = layers.Masking()(h)
    made = layers.Dense(MADE, name="made")
    h = make()(made(h))
    h = layers.Flatten()(h) if len(h.shape) == 3 else h
    model = randomise(keras.Model(sound, layers.Dense(2, name="head")(h)), seed)
    kernel, bias = made.get_weights()
    mix = np.random.default_rng(seed).normal(size=(4, 4))
    kernel[:, 4:], bias[4:] = kernel[:, :4] @ mix, bias[:4] @ mix + 0.3
    made.set_weights([kernel, bias])
    return model


def recurrent_node(network):
    return next(
        n
        for n in network.nodes
        if linear.LINEAR_FORMS.get(network.layer_of(n).kind)
        and linear.LINEAR_FORMS[network.layer_of(n).kind].whole
    )


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_in_two_they_compute_the_same(kind, mask):
    model, x = model_of(KINDS[kind], mask=mask), sounds(8)
    if mask:
        x[:, -2:] = 0.0
    network = read(model)
    node = recurrent_node(network)
    split = pre_activations_apart(network, [node.name])
    assert split.layer_of(split.node(node.name)).kind == "Dense"
    assert_same(emit(split)(x), model(x), 1e-5)


def test_states_that_are_given_and_told():
    x, state = keras.Input((STEPS, BANDS)), keras.Input((3,))
    h, last = layers.GRU(3, return_sequences=True, return_state=True)(x, initial_state=state)
    model = randomise(keras.Model([x, state], [layers.GlobalMaxPooling1D()(h), last]), 0)
    network = read(model)
    split = emit(pre_activations_apart(network, [recurrent_node(network).name]))
    data = [sounds(8), sounds(8)[:, 0, :3]]
    for found, expected in zip(split(data), model(data), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", regular(KINDS, 2))
def test_what_others_say_goes_without_loss(kind):
    """Half of the channels are sums of the others: the recurrent kernel takes them over."""
    model, x = model_of(KINDS[kind]), sounds(256)
    options = {"data": x, "scope": "per-layer"}
    small = tfmot_pam.strip_pruning(
        tfmot_pam.prune_channels(model, 0.5, "reconstruction", **options), data=x
    )
    assert small.get_layer("made").units == MADE // 2
    expected = np.asarray(model(x))
    error = np.abs(np.asarray(small(x)) - expected).max() / np.abs(expected).max()
    assert error < 5e-2
    unfitted = tfmot_pam.strip_pruning(tfmot_pam.prune_channels(model, 0.5, "magnitude", **options))
    worse = np.abs(np.asarray(unfitted(x)) - expected).max() / np.abs(expected).max()
    assert worse > 5 * error


@pytest.mark.parametrize("kind", [*KINDS, *REFUSED])
def test_which_readers_rate_channels(kind):
    """Those that can be fitted; where nothing can, channels count as needed."""
    if kind == "convolutional":
        x = keras.Input((STEPS, BANDS, 2))
        h = layers.GlobalAveragePooling2D()(
            layers.Reshape((1, 3, 4))(
                layers.Flatten()(REFUSED[kind]()(layers.Dense(MADE, name="made")(x)))[:, :12]
            )
        )
        model = keras.Model(x, layers.Dense(2, name="head")(h))
        data = np.random.default_rng(0).normal(size=(16, STEPS, BANDS, 2)).astype("float32")
    else:
        model, data = model_of({**KINDS, **REFUSED}[kind]), sounds(32)
    found = rate(find_prunable(read(model)), data, None)
    assert np.isfinite(found[:MADE]).all() == (kind in KINDS)


def test_a_trunk_with_a_recurrent_layer_is_fitted():
    """Compensation reaches recurrent layers of merged networks, too."""
    models = {task: model_of(KINDS["GRU"], seed) for seed, task in enumerate(("a", "b"))}
    x, lost = sounds(256), {}
    expected = {task: np.asarray(model(x)) for task, model in models.items()}
    for fitted in (True, False):
        merged = tfmot_pam.merge(models, x, share=0.5, compensation=fitted, min_group=1, verbose=0)
        lost[fitted] = sum(
            np.mean(np.square(np.asarray(merged(x)[task]) - expected[task])) for task in models
        )
    assert lost[True] < 0.5 * lost[False]
    separate = tfmot_pam.merge(models, x, method="separate", verbose=0)
    assert network_cost(read(separate)).macs == sum(
        network_cost(read(model)).macs for model in models.values()
    )
    for task in models:
        np.testing.assert_array_equal(separate(x)[task], expected[task])
