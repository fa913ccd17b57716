"""Metrics: closed forms, directions, errors by the jackknife, and what is none."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.metric_cases import (
    AGES,
    CASES,
    CHANCES,
    CLASSES,
    GUESSES,
    HARD,
    MAP_CHANCES,
    MAPS,
    OFF,
    RNG,
    error_of_each,
    largest_error,
    measured,
)
from tfmot_pam.metrics.keras_metric import as_keras_metric
from tfmot_pam.metrics.marks import Scores, Values
from tfmot_pam.metrics.metric import find_metric, find_metrics
from tfmot_pam.metrics.task_metric import TaskMetric


@pytest.mark.parametrize("name", list(CASES))
def test_values_and_directions(name):
    metric, kind, labels, outputs, value, direction, by_sample = CASES[name]
    found = measured(metric, kind, labels, outputs)
    marks = found.marks(outputs)
    assert marks.value == pytest.approx(value, rel=1e-5)
    assert found.metric.direction == direction
    assert isinstance(marks, Scores if by_sample else Values)
    loss = marks.lost_by(marks, found.metric.sign)
    assert (loss.lost, loss.halves, loss.error) == (0.0, (0.0, 0.0), 0.0)


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_worse_has_lost(name):
    metric, kind, labels, outputs, *_ = CASES[name]
    found = measured(metric, kind, labels, outputs)
    loss = found.marks(outputs).lost_by(found.marks(np.roll(outputs, 1, axis=0)), found.metric.sign)
    assert loss.lost > 0
    assert min(loss.halves) > 0
    assert loss.error > 0


def test_halves_are_every_other_sample():
    found = measured(largest_error, "real", AGES, GUESSES)
    marks = found.marks(GUESSES)
    assert marks.halves == (OFF[0::2].max(), OFF[1::2].max())


def test_the_jackknife_of_a_mean_is_its_standard_error():
    one, other = RNG.normal(size=(2, 16))

    def values(scores):
        return Values.of(lambda rows: float(scores[rows].mean()), 16, float(scores.mean()), 0)

    by_blocks = values(one).lost_by(values(other))
    by_sample = Scores(one).lost_by(Scores(other))
    assert by_blocks.lost == pytest.approx(by_sample.lost)
    assert by_blocks.halves == pytest.approx(by_sample.halves)
    # Of blocks of one sample it has the divisor n - 1.
    assert by_blocks.error == pytest.approx(by_sample.error * np.sqrt(16 / 15))


def test_blocks_do_not_follow_the_order_of_the_samples():
    labels = np.arange(400) % 20
    scores = (labels < 10).astype(float)

    def evaluate(rows):
        return float(scores[rows].mean())

    found = Values.of(evaluate, 400, 0.5, seed=0)
    again = Values.of(evaluate, 400, 0.5, seed=0)
    np.testing.assert_array_equal(found.without, again.without)
    # Blocks of one class each would give 0.11.
    error = found.lost_by(Values.of(lambda rows: 0.0, 400, 0.0, seed=0)).error
    assert error == pytest.approx(0.5 / np.sqrt(200), rel=0.4)


def test_views_are_averaged():
    views = [Values(v, (v, v + 1), np.array([v, 2 * v])) for v in (1.0, 3.0)]
    mean = Values.mean(views)
    assert (mean.value, mean.halves, mean.without.tolist()) == (2.0, (2.0, 3.0), [2.0, 4.0])
    assert Scores.mean([Scores(np.array([1.0, 2.0])), Scores(np.array([3.0, 2.0]))]).value == 2.0


def test_a_keras_metric_is_not_changed():
    metric = keras.metrics.MeanIoU(num_classes=3)
    measured(metric, "classes", MAPS, MAP_CHANCES).marks(MAP_CHANCES)
    assert float(keras.ops.sum(metric.total_cm)) == 0.0


def test_names_do_not_count_how_many_there_are():
    keras.metrics.MeanIoU(num_classes=3)
    assert as_keras_metric(keras.metrics.MeanIoU(num_classes=3)).name == "mean_io_u"
    assert as_keras_metric(keras.metrics.AUC(name="area_2")).name == "area_2"
    assert as_keras_metric(3) is None
    assert as_keras_metric(keras.metrics.AUC) is None


def test_titles_and_values_in_words():
    metric = tfmot_pam.Metric("mae", error_of_each, "lower", unit="years")
    assert (metric.title, metric.told(3.14159)) == ("mae, years", "mae 3.142 years")
    assert find_metric("mae", "a").told(2.0) == "mae 2"
    assert tfmot_pam.Metric("error", "mean_squared_error").direction == "lower"
    assert find_metrics({"b": "accuracy"}, ["a", "b"]) == {"b": "accuracy"}


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        ("best", ValueError, "Unknown metric of the task 'a': 'best'"),
        (3, TypeError, "3 of type int. Expected a keras.metrics object"),
        (keras.metrics.AUC, TypeError, "of type type"),
    ],
)
def test_what_measures_nothing_is_refused(metric, error, message):
    with pytest.raises(error, match=message):
        find_metric(metric, "a")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("", largest_error), TypeError, "`name` must be a text"),
        (("m", largest_error, "up"), ValueError, "has the direction 'up'"),
        (("m", "nothing"), TypeError, "Expected a function"),
    ],
)
def test_wrong_metric_objects(arguments, error, message):
    with pytest.raises(error, match=message):
        tfmot_pam.Metric(*arguments)


@pytest.mark.parametrize(
    ("metric", "kind", "labels", "outputs", "message"),
    [
        (lambda y, p: 1.0, "real", AGES, GUESSES, "cannot be found out.*direction='higher'"),
        ("r2", "classes", CLASSES, CHANCES, "is 'r2', but its labels are classes"),
        ("accuracy", "real", AGES, GUESSES, "Expected 'r2'"),
        (lambda y, p: p[:3], "real", AGES, GUESSES, r"shape \(3, 1\). Expected one number"),
        (lambda y, p: "good", "real", AGES, GUESSES, "gives str"),
        (lambda y, p: np.nan, "real", AGES, GUESSES, "is not finite on 60 samples"),
        (keras.metrics.F1Score(), "classes", CLASSES, CHANCES, "average='macro'"),
        ("mae", "real", np.full((60, 1), np.nan), GUESSES, "No label of the task 'a' counts"),
    ],
)
def test_metrics_that_do_not_measure_are_explained(metric, kind, labels, outputs, message):
    with pytest.raises(ValueError, match=message):
        measured(metric, kind, labels, outputs).marks(outputs)


def test_task_metric_is_the_accuracy_by_default():
    found = TaskMetric("a", None, "classes", CLASSES, None)
    assert found.marks(CHANCES).value == (HARD == CLASSES).mean()
