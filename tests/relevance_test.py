"""Tests of tfmot_pam.merging.relevance."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tfmot_pam.merging.relevance import ESTIMATORS, Observations, RelevancePath, relevance_path
from tfmot_pam.merging.targets import Targets

PATH = RelevancePath(np.array([2, 0, 3, 1]), np.array([0.1, 0.3, 0.2, 1.0]), full=1.0, null=0.2)


@pytest.fixture(name="sample")
def _sample():
    rng = np.random.default_rng(0)
    columns = 0.2 * rng.normal(size=(60, 6)).astype(np.float32)
    labels = (columns[:, 1] + columns[:, 4] > 0).astype(np.int64)
    return Observations(columns, np.arange(6)), Targets("classes", labels)


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_every_estimator_yields_a_whole_path_and_leaves_its_input_alone(estimator, sample):
    observations, targets = sample
    before = observations.columns.copy()
    path = relevance_path(observations, targets, estimator=estimator)
    assert sorted(path.order) == list(range(6))
    assert set(path.order[-2:]) == {1, 4}
    assert path.values[-1] == path.full
    np.testing.assert_array_equal(observations.columns, before)


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_the_seed_decides_the_null_level_only(estimator, sample):
    paths = [relevance_path(*sample, estimator=estimator, seed=seed) for seed in (0, 0, 1)]
    assert paths[0].to_dict() == paths[1].to_dict()
    assert paths[0].null != paths[2].null
    np.testing.assert_array_equal(paths[0].values, paths[2].values)


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_the_null_level_lies_far_below_real_relevance(estimator, sample):
    observations, targets = sample
    observations = Observations(observations.columns[:, [1, 4]], np.arange(2))
    path = relevance_path(observations, targets, estimator=estimator)
    assert 0.0 < path.null < 0.5 * path.full


def test_alpha_lies_between_the_null_and_the_full_value():
    assert PATH.alpha(0.0) == 0.2
    assert PATH.alpha(0.25) == pytest.approx(0.4)


@pytest.mark.parametrize("null", [0.95, 1.0, 1.3])
def test_alpha_where_little_beats_the_null_takes_a_share_of_the_full_value(null):
    path = RelevancePath(PATH.order, PATH.values, full=1.0, null=null)
    assert path.alpha(0.15) == pytest.approx(0.15)
    np.testing.assert_array_equal(path.irrelevant(path.alpha(0.15)), [0, 0, 1, 0])


def test_a_space_without_any_relevance_has_no_irrelevant_channel():
    path = RelevancePath(PATH.order, np.zeros(4), full=0.0, null=0.0)
    assert not path.irrelevant(path.alpha(0.1)).any()


def test_irrelevant_stops_where_the_value_would_exceed_alpha():
    np.testing.assert_array_equal(PATH.irrelevant(0.05), [0, 0, 0, 0])
    np.testing.assert_array_equal(PATH.irrelevant(0.1), [0, 0, 1, 0])
    # The third value is below 0.25 again, but the second exceeded it.
    np.testing.assert_array_equal(PATH.irrelevant(0.25), [0, 0, 1, 0])
    np.testing.assert_array_equal(PATH.irrelevant(0.3), [1, 0, 1, 1])


@pytest.mark.parametrize("alpha", [1.0, 2.0, float("nan"), float("inf")])
def test_alpha_at_or_above_the_ceiling_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha=.*less than the ceiling of 1 nats.*Lower alpha"):
        PATH.irrelevant(alpha)


@pytest.mark.parametrize("rho", [1.0, -0.1, float("nan")])
def test_rho_outside_its_range_is_refused(rho):
    with pytest.raises(ValueError, match="rho=.*expected 0 <= rho < 1"):
        PATH.alpha(rho)


def test_json_round_trip_is_exact(sample):
    path = relevance_path(*sample)
    again = RelevancePath.from_dict(json.loads(json.dumps(path.to_dict())))
    np.testing.assert_array_equal(again.order, path.order)
    np.testing.assert_array_equal(again.values, path.values)
    assert (again.full, again.null) == (path.full, path.null)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"order": [0, 0, 1, 2]}, "no permutation.*damaged"),
        ({"values": [0.0, 1.0]}, "expected one finite number each"),
        ({"full": float("nan")}, "expected one finite number each"),
        ({"null": None}, "without.*'null'"),
    ],
)
def test_damaged_paths_are_refused(change, match):
    data = {key: value for key, value in (PATH.to_dict() | change).items() if value is not None}
    with pytest.raises(ValueError, match=match):
        RelevancePath.from_dict(data)


@pytest.mark.parametrize(
    ("columns", "channel_of", "match"),
    [
        (np.zeros((1, 3)), np.arange(3), "at least 2 samples"),
        (np.zeros((4, 0)), np.arange(0), "at least 2 samples and 1 column"),
        (np.zeros(4), np.arange(4), r"expected \[samples, columns\]"),
        (np.zeros((4, 3)), np.arange(2), "one channel number per column"),
        (np.zeros((4, 3)), np.array([0, 1, 3]), "every number from 0"),
        (np.full((4, 3), np.nan), np.arange(3), "NaN or infinite"),
    ],
)
def test_bad_observations_are_refused(columns, channel_of, match):
    with pytest.raises(ValueError, match=match):
        Observations(columns, channel_of)


def test_unknown_estimators_options_and_lengths_are_refused(sample):
    observations, targets = sample
    with pytest.raises(ValueError, match=r"estimator='magic'.*\['gaussian', 'kde'\]"):
        relevance_path(observations, targets, estimator="magic")
    with pytest.raises(TypeError, match=r"options \['bandwidth'\].*'gaussian'.*\['ridge'\]"):
        relevance_path(observations, targets, bandwidth=0.1)
    with pytest.raises(ValueError, match="60 observed samples and 10 targets"):
        relevance_path(observations, targets.subset(np.arange(10)))


def test_the_table_of_estimators_is_read_only():
    with pytest.raises(TypeError):
        ESTIMATORS["mine"] = ESTIMATORS["kde"]
