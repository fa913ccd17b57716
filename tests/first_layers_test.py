"""First layers whose channels stay together: each network keeps its own, the trunk begins after."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import randomise
from tests.tiers import regular

layers = keras.layers

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 20, (48, 10)).astype("int32")
SERIES = RNG.normal(size=(48, 10, 6)).astype("float32")
FILMS = RNG.normal(size=(24, 5, 6, 6, 2)).astype("float32")

# By kind: the first layers of one network at some width, and data for them.
FIRST = {
    "embedding": (lambda w: [layers.Embedding(20, w, name="first")], WORDS),
    "embedding and dropout": (
        lambda w: [layers.Embedding(20, w, name="first"), layers.SpatialDropout1D(0.1)],
        WORDS,
    ),
    "SimpleRNN": (lambda w: [layers.SimpleRNN(w, return_sequences=True, name="first")], SERIES),
    "LSTM": (lambda w: [layers.LSTM(w, return_sequences=True, name="first")], SERIES),
    "two GRUs": (
        lambda w: [
            layers.GRU(w, return_sequences=True, name="first"),
            layers.GRU(w + 1, return_sequences=True, name="second"),
        ],
        SERIES,
    ),
    "embedding and LSTM": (
        lambda w: [
            layers.Embedding(20, w, name="first"),
            layers.LSTM(w, return_sequences=True, name="second"),
        ],
        WORDS,
    ),
    "Bidirectional": (
        lambda w: [layers.Bidirectional(layers.GRU(w, return_sequences=True), name="first")],
        SERIES,
    ),
    "TimeDistributed": (
        lambda w: [layers.TimeDistributed(layers.Dense(w, "softmax"), name="first")],
        SERIES,
    ),
    "SpectralNormalization": (
        lambda w: [layers.SpectralNormalization(layers.Conv1D(w, 3), name="first")],
        SERIES,
    ),
    "ConvLSTM": (
        lambda w: [layers.ConvLSTM2D(w, 3, name="first"), layers.Reshape((16, w))],
        FILMS,
    ),
}


def model(kind: str, width: int, classes: int, seed: int) -> keras.Model:
    make, data = FIRST[kind]
    keras.utils.set_random_seed(seed)
    x = h = keras.Input(data.shape[1:], dtype=data.dtype.name, name="x")
    for layer in make(width):
        h = layer(h)
    h = layers.Conv1D(7 + seed, 3, activation="relu", name="conv")(h)
    h = layers.Dense(9, activation="relu", name="fc")(layers.GlobalMaxPooling1D(name="pool")(h))
    return randomise(keras.Model(x, layers.Dense(classes, name="out")(h)), seed)


@pytest.fixture(params=regular(FIRST, 3))
def pair(request):
    """Two networks of one kind, whose first layers differ in width."""
    models = {"a": model(request.param, 5, 3, 0), "b": model(request.param, 8, 4, 1)}
    return models, FIRST[request.param][1]


def test_separate_reproduces_the_models(pair):
    models, x = pair
    merged = tfmot_pam.merge(models, x, method="separate", verbose=0)
    for task, single in models.items():
        np.testing.assert_allclose(
            np.array(merged(x)[task]), np.array(single(x, training=False)), atol=1e-5
        )


def test_what_follows_is_shared(pair):
    models, x = pair
    merged = tfmot_pam.merge(models, x, method="shared", width="union", verbose=0)
    names = [layer.name for layer in merged.layers if layer.weights]
    assert {"conv_shared", "fc_shared"} <= set(names)
    for task in models:
        # All channels of both networks are there, so each can still do what it did.
        np.testing.assert_allclose(
            np.array(merged(x)[task]), np.array(models[task](x, training=False)), atol=1e-4
        )


def test_layers_that_are_alike_but_for_their_weights_are_a_part_of_the_trunk():
    models = {"a": model("LSTM", 5, 3, 0), "b": model("LSTM", 5, 4, 1)}
    merged = tfmot_pam.merge(models, SERIES, method="separate", verbose=0)
    assert [space.name for space in merged.merge_plan.spaces] == ["first", "conv", "fc"]


def test_networks_with_nothing_in_common_stay_separate_exactly():
    def other(seed):
        keras.utils.set_random_seed(seed)
        x = keras.Input((10, 6), name="x")
        h = layers.LSTM(4, name="state")(x)
        return keras.Model(x, layers.Dense(2, name="out")(h))

    models = {"a": model("TimeDistributed", 5, 3, 0), "b": other(1)}
    merged = tfmot_pam.merge(models, SERIES, method="separate", verbose=0)
    for task, single in models.items():
        np.testing.assert_allclose(
            np.array(merged(SERIES)[task]), np.array(single(SERIES, training=False)), atol=1e-6
        )
    assert merged.merge_plan.spaces == ()
    again = tfmot_pam.merge(models, SERIES, plan=merged.merge_plan, verbose=0)
    np.testing.assert_array_equal(np.array(merged(SERIES)["b"]), np.array(again(SERIES)["b"]))
    with pytest.raises(ValueError, match=r"no common trunk.*'a': TimeDistributed 'first'"):
        tfmot_pam.merge(models, SERIES, verbose=0)
