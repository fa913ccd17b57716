"""Tests of tfmot_pam.merging.gaussian."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import published_loop
from tfmot_pam.closed_form.blocks import rows_by_channel
from tfmot_pam.merging import gaussian, greedy
from tfmot_pam.merging.relevance import Observations, relevance_path
from tfmot_pam.merging.targets import Targets

LAYOUTS = {
    "single": np.arange(14),
    "pairs": np.arange(14) // 2,
    "ragged": np.array([3, 0, 1, 1, 2, 3, 3, 4, 0, 5, 5, 3, 6, 7]),
}


def _sample(samples, columns=14, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(samples, 5))
    observed = factors @ rng.normal(size=(5, columns)) + 0.5 * rng.normal(size=(samples, columns))
    labels = factors[:, :3] + 0.5 * rng.normal(size=(samples, 3))
    return np.maximum(observed, 0.0).astype(np.float32), Targets("real", labels)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ridge", [0.01, 0.5])
@pytest.mark.parametrize("samples", [60, 14, 9], ids=["N>n", "N=n", "N<n"])
def test_path_equals_the_direct_transcription(layout, ridge, samples):
    columns, targets = _sample(samples)
    channel_of = LAYOUTS[layout]
    path = relevance_path(Observations(columns, channel_of), targets, ridge=ridge)
    standard, labels = greedy.standardised(columns), greedy.standardised(targets.matrix())
    order, values = published_loop.greedy_path(
        standard,
        channel_of,
        lambda chosen: published_loop.gaussian_relevance(chosen, labels, ridge),
    )
    np.testing.assert_array_equal(path.order, order)
    np.testing.assert_allclose(path.values, values, atol=1e-10)


@pytest.mark.parametrize("samples", [60, 9])
def test_the_step_by_step_value_of_all_channels_equals_the_closed_form(samples):
    columns, targets = _sample(samples)
    standard, labels = greedy.standardised(columns), greedy.standardised(targets.matrix())
    rows = rows_by_channel(standard, LAYOUTS["ragged"])
    _, values = gaussian._greedy(rows, labels, 0.1)
    full = gaussian._nats(gaussian._joint(standard, labels, 0.1))
    np.testing.assert_allclose(values[-1], full, rtol=1e-12)


@pytest.mark.parametrize("samples", [40, 16], ids=["N>n", "N<n"])
def test_single_precision_stays_close(samples):
    columns, targets = _sample(samples, columns=24)
    labels = greedy.standardised(targets.matrix())
    standard = greedy.standardised(columns)
    results = [
        gaussian._greedy(rows_by_channel(standard.astype(dtype), np.arange(24)), labels, 0.5)
        for dtype in (np.float64, np.float32)
    ]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 9])
@pytest.mark.parametrize("samples", [400, 60], ids=["N>n", "N<n"])
def test_a_whole_gram_matrix_gives_the_same_path(monkeypatch, width, samples):
    """With many more channels than are taken out of it at a time, of several columns each."""
    columns, targets = _sample(samples, columns=180)
    standard, labels = greedy.standardised(columns), greedy.standardised(targets.matrix())
    channel_of = np.arange(180) // width
    apart = gaussian._greedy(rows_by_channel(standard, channel_of), labels, 0.5)
    monkeypatch.setattr(gaussian, "_SINGLE_PRECISION_FROM", 0)
    whole = gaussian._greedy(rows_by_channel(standard, channel_of), labels, 0.5)
    np.testing.assert_array_equal(whole[0], apart[0])
    np.testing.assert_allclose(whole[1], apart[1], atol=1e-10)


def test_values_grow_along_the_path():
    columns, targets = _sample(50)
    path = relevance_path(Observations(columns, np.arange(14)), targets)
    assert (np.diff(path.values) >= -1e-12).all()
    assert path.values[0] >= 0.0


def test_a_duplicate_of_a_chosen_channel_gains_nothing():
    columns, targets = _sample(200, columns=3)
    columns = np.concatenate([columns, columns], axis=1)
    path = relevance_path(Observations(columns, np.arange(6)), targets, ridge=1e-6)
    gains = np.diff(path.values, prepend=0.0)
    # Every channel's duplicate follows it at once, because it says nothing new.
    np.testing.assert_array_equal(path.order[1::2] - path.order[::2], 3)
    np.testing.assert_allclose(gains[1::2], 0.0, atol=1e-5)
    assert (gains[::2] > 1e-3).all()


def test_a_dead_channel_says_nothing_and_goes_first():
    columns, targets = _sample(100)
    columns[:, [5, 9]] = 0.1
    path = relevance_path(Observations(columns, np.arange(14)), targets)
    np.testing.assert_array_equal(path.order[:2], [5, 9])
    np.testing.assert_array_equal(path.values[:2], 0.0)


def test_ties_go_to_the_first_index():
    columns, targets = _sample(100, columns=4)
    columns = np.concatenate([columns[:, :1]] * 3 + [columns[:, 1:]], axis=1)
    path = relevance_path(Observations(columns, np.arange(6)), targets)
    place = np.argsort(path.order)
    assert place[0] < place[1] < place[2]


def test_a_perfectly_explained_target_stays_finite():
    columns, _ = _sample(100)
    path = relevance_path(
        Observations(columns, np.arange(14)), Targets("real", columns[:, :1]), ridge=1e-9
    )
    assert path.full == pytest.approx(-0.5 * np.log(0.001))


def test_scale_and_offset_of_channels_do_not_matter():
    columns, targets = _sample(100)
    scaled = 50.0 * columns - 3.0
    paths = [relevance_path(Observations(c, np.arange(14)), targets) for c in (columns, scaled)]
    np.testing.assert_array_equal(paths[0].order, paths[1].order)
    np.testing.assert_allclose(paths[0].values, paths[1].values, atol=1e-5)


def _known_relevance(channels, samples, target, seed):
    """Channels of which three in ten carry signal of the labels beside the nuisance in all."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(samples, 8))
    if target == "classes":
        classes = rng.integers(0, 10, samples)
        signal = 0.5 * signal + rng.normal(size=(10, 8))[classes]
        targets = Targets("classes", classes)
    elif target == "binary":
        noisy = signal @ rng.normal(size=(8, 20)) + rng.normal(size=(samples, 20))
        targets = Targets("binary", (noisy > 0).astype(float))
    else:
        noisy = signal @ rng.normal(size=(8, 4)) + rng.normal(size=(samples, 4))
        targets = Targets("real", noisy)
    nuisance = rng.normal(size=(samples, 24)) @ rng.normal(size=(24, channels)) / np.sqrt(24)
    relevant = rng.permutation(channels) < 0.3 * channels
    strength = relevant * rng.uniform(0.3, 1.5, channels)
    said = strength * (signal @ rng.normal(size=(8, channels))) / np.sqrt(8)
    columns = said + 2.0 * nuisance + 0.5 * rng.normal(size=(samples, channels))
    return np.maximum(columns, 0.0).astype(np.float32), targets, relevant


@pytest.mark.parametrize("target", ["classes", "binary", "real"])
@pytest.mark.parametrize(("channels", "samples"), [(32, 512), (128, 512), (512, 512), (512, 1024)])
def test_relevant_channels_are_removed_last(channels, samples, target):
    columns, targets, relevant = _known_relevance(channels, samples, target, seed=0)
    path = relevance_path(Observations(columns, np.arange(channels)), targets)
    place = np.argsort(path.order)
    auc = np.mean(place[relevant][:, None] > place[~relevant])
    assert auc >= 0.85
    # With as many columns as samples the default ridge still tells labels from shuffled ones.
    assert path.null < 0.65 * path.full


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_a_ridge_that_is_not_positive_is_refused(ridge):
    columns, targets = _sample(20)
    with pytest.raises(ValueError, match="ridge=.*positive.*default"):
        relevance_path(Observations(columns, np.arange(14)), targets, ridge=ridge)
