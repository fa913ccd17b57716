"""Means of tries: closed forms, and which of a try and a mean a search goes on with."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.quick_compress import both, samples
from tests.search_test import round_of
from tfmot_pam.data import HeadSamples, Samples
from tfmot_pam.metrics.examination import Examination
from tfmot_pam.pipeline.averaging import mean_network, steadier
from tfmot_pam.pipeline.strategy import tries_of

TOLERANCES = {"sign": 0.01, "sum": 0.01}


@pytest.fixture(scope="module")
def models():
    return both()


def network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    h = layers.BatchNormalization()(layers.Conv2D(3, 3)(layers.Normalization()(inputs)))
    h = layers.Dropout(0.5)(layers.Flatten()(layers.ReLU()(h)))
    net = keras.Model(inputs, {t: layers.Dense(2, name=t)(h) for t in ("a", "b")})
    rng = np.random.default_rng(seed)
    # The normalisation counts what it has seen.
    drawn = [rng.uniform(0.5, 1.5, w.shape) if w.shape else np.array(7) for w in net.get_weights()]
    net.set_weights(drawn)
    return net


def moved(net: keras.Model, by: list[np.ndarray]) -> keras.Model:
    """A copy with something added to its weights."""
    copy = keras.models.clone_model(net)
    copy.set_weights([w + d for w, d in zip(net.get_weights(), by, strict=True)])
    return copy


@pytest.fixture(scope="module")
def trunk(models):
    """A merged network whose weights are its own originals'."""
    return tfmot_pam.merge(models, samples()[0], method="separate", verbose=0)


@pytest.fixture(scope="module")
def examination(models):
    x, labels = samples()
    by_task = {task: HeadSamples(x, y) for task, y in labels.items()}
    return Examination(models, [Samples(by_task, True)])


@pytest.fixture(scope="module")
def harm(trunk):
    rng = np.random.default_rng(0)
    return [rng.normal(scale=2.0, size=w.shape) for w in trunk.get_weights()]


def test_every_weight_is_the_mean_and_none_is_changed():
    nets = [network(seed) for seed in range(3)]
    before = [net.get_weights() for net in nets]
    mean = mean_network(nets)
    for found, *parts in zip(mean.get_weights(), *before, strict=True):
        np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-6)
    for net, weights in zip(nets, before, strict=True):
        assert all(map(np.array_equal, net.get_weights(), weights))
    assert list(mean.output) == ["a", "b"]
    assert mean.count_params() == nets[0].count_params()


@pytest.mark.slow
def test_a_mean_of_one_is_the_network(trunk):
    x = samples()[0]
    again = mean_network([trunk])
    for task, outputs in trunk.predict(x, verbose=0).items():
        np.testing.assert_array_equal(again.predict(x, verbose=0)[task], outputs)


def test_errors_in_opposite_directions_cancel_in_the_mean(trunk, examination, harm):
    one, other = moved(trunk, harm), moved(trunk, [-part for part in harm])
    assert min(examination.judge(net).ratio(TOLERANCES) for net in (one, other)) > 1
    found, judged, tries = steadier(other, [one], examination, TOLERANCES)
    assert tries == 2
    assert judged.ratio(TOLERANCES) == 0.0
    for mean, weight in zip(found.get_weights(), trunk.get_weights(), strict=True):
        np.testing.assert_allclose(mean, weight, atol=1e-5)


def test_a_try_that_is_better_than_the_mean_stays(trunk, examination, harm):
    bad = moved(trunk, harm)
    found, judged, tries = steadier(trunk, [bad, bad], examination, TOLERANCES)
    assert (found, tries) == (trunk, 1)
    assert judged.ratio(TOLERANCES) == 0.0


def test_the_tries_of_a_structure_are_those_that_retried_it():
    rounds = [
        round_of(0, "start", None),
        round_of(1, "tail", 0),
        round_of(2, "trim", 1),
        round_of(3, "retry", 2),
        round_of(4, "retry", 3),
        round_of(5, "trim", 1),
    ]
    numbers = [[found.number for found in tries_of(rounds, row)] for row in rounds]
    assert numbers == [[0], [1], [2], [2, 3], [2, 3, 4], [5]]
