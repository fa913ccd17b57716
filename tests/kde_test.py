"""Tests of tfmot_pam.merging.kde."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import published_loop
from tfmot_pam.merging import greedy, kde
from tfmot_pam.merging.relevance import Observations, relevance_path
from tfmot_pam.merging.targets import Targets

LAYOUTS = {"single": np.arange(12), "ragged": np.array([3, 0, 1, 1, 2, 3, 3, 4, 0, 5, 5, 6])}


def _sample(kind, samples=40, columns=12, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(samples, 4))
    observed = factors @ rng.normal(size=(4, columns)) + rng.normal(size=(samples, columns))
    observed = np.maximum(0.15 * observed, 0.0).astype(np.float32)
    if kind == "classes":
        return observed, Targets("classes", factors[:, :3].argmax(axis=1))
    return observed, Targets("binary", (factors > 0).astype(np.float64))


def _codes(targets):
    return targets.values.reshape(len(targets), -1)


def _path(columns, targets, channel_of=None, **options):
    channel_of = np.arange(columns.shape[1]) if channel_of is None else channel_of
    return relevance_path(Observations(columns, channel_of), targets, estimator="kde", **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["classes", "binary"])
def test_path_equals_the_published_loop(layout, kind):
    columns, targets = _sample(kind)
    path = _path(columns, targets, LAYOUTS[layout])
    order, values = published_loop.greedy_path(
        columns.astype(np.float64),
        LAYOUTS[layout],
        lambda chosen: published_loop.kde_relevance(chosen, _codes(targets)),
    )
    np.testing.assert_array_equal(path.order, order)
    np.testing.assert_allclose(path.values, values, atol=1e-9)
    assert path.full == pytest.approx(values[-1], abs=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_scaled_path_equals_the_direct_transcription(layout, leave_one_out):
    columns, targets = _sample("binary")
    options = {"standardize": True, "bandwidth": "scaled", "leave_one_out": leave_one_out}
    path = _path(columns, targets, LAYOUTS[layout], **options)
    order, values = published_loop.greedy_path(
        greedy.standardised(columns),
        LAYOUTS[layout],
        lambda chosen: published_loop.kde_closed_form(
            chosen, _codes(targets), 0.3 * chosen.shape[1], 1e-3 * leave_one_out
        ),
    )
    np.testing.assert_array_equal(path.order, order)
    np.testing.assert_allclose(path.values, values, atol=1e-9)
    assert path.full == pytest.approx(values[-1], abs=1e-9)


@pytest.mark.parametrize("kind", ["classes", "binary"])
def test_closed_form_equals_the_difference_of_entropy_bounds(kind):
    columns, targets = _sample(kind)
    columns = columns.astype(np.float64)
    bounds = published_loop.kde_relevance(columns, _codes(targets))
    assert published_loop.kde_closed_form(columns, _codes(targets)) == pytest.approx(bounds)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_relevance_lies_between_zero_and_the_label_entropy(scale):
    columns, targets = _sample("classes")
    path = _path(scale * columns, targets)
    share = np.bincount(targets.values) / len(targets)
    entropy = -np.sum(share * np.log(share))
    assert (path.values >= -1e-12).all()
    assert (path.values <= entropy + 1e-12).all()


def test_a_constant_channel_says_nothing_and_goes_first():
    columns, targets = _sample("binary")
    columns[:, 7] = 3.0
    path = _path(columns, targets)
    assert path.order[0] == 7
    assert path.values[0] == pytest.approx(0.0, abs=1e-12)


def test_the_kernel_of_a_set_is_the_product_of_its_channels_kernels():
    columns, targets = _sample("classes")
    columns = columns.astype(np.float64)
    product = np.ones((40, 40))
    for column in columns.T:
        product *= np.exp(-published_loop.squared_distances(column[:, None]) / 0.2)
    same = targets.values[:, None] == targets.values
    shares = np.log((product * same).sum(axis=1) / product.sum(axis=1) / same.mean(axis=1))
    assert _path(columns, targets).full == pytest.approx(shares.mean(), abs=1e-9)


def test_the_order_of_channels_does_not_depend_on_what_is_kept_in_memory(monkeypatch):
    columns, targets = _sample("binary", samples=50)
    kept = _path(columns, targets).to_dict()
    monkeypatch.setattr(kde, "_BLOCK_BYTES", 8 * 12 * 50 * 7)
    monkeypatch.setattr(kde, "_STORED_BYTES", 3 * 8 * 12 * 50 * 7)
    partly = _path(columns, targets)
    assert partly.order.tolist() == kept["order"]
    np.testing.assert_allclose(partly.values, kept["values"], atol=1e-12)


def test_channels_that_single_precision_cannot_tell_apart():
    columns, targets = _sample("binary", columns=5)
    noise = 1e-7 * np.random.default_rng(1).normal(size=(40, 15)).astype(np.float32)
    columns = np.concatenate([columns] * 3, axis=1) + noise
    path = _path(columns, targets)
    order, values = published_loop.greedy_path(
        columns.astype(np.float64),
        np.arange(15),
        lambda chosen: published_loop.kde_relevance(chosen, targets.values),
    )
    np.testing.assert_array_equal(path.order, order)
    np.testing.assert_allclose(path.values, values, atol=1e-9)


def test_saturated_channels_tie_and_go_in_their_order():
    columns, targets = _sample("binary")
    path = _path(columns + 100.0 * np.arange(40)[:, None], targets)
    np.testing.assert_array_equal(path.order, np.arange(12))


def test_options_lift_the_saturation():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 3))
    columns = rng.normal(size=(200, 40)) * 2.0
    relevant = np.arange(40) % 4 == 0
    columns[:, relevant] += 2.0 * (labels @ rng.normal(size=(3, 10)))
    targets = Targets("binary", labels.astype(np.float64))
    columns = columns.astype(np.float32)

    def auc(**options):
        place = np.argsort(_path(columns, targets, **options).order)
        return np.mean(place[relevant][:, None] > place[~relevant])

    assert auc() < 0.8
    assert auc(standardize=True, bandwidth="scaled", leave_one_out=True) > 0.83


def test_real_targets_are_refused():
    columns, _ = _sample("binary")
    with pytest.raises(ValueError, match="real-valued targets.*'kde'"):
        _path(columns, Targets("real", columns))


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan"), "wide"])
def test_bad_bandwidths_are_refused(bandwidth):
    columns, targets = _sample("binary")
    with pytest.raises(ValueError, match="bandwidth=.*positive noise variance or 'scaled'"):
        _path(columns, targets, bandwidth=bandwidth)
