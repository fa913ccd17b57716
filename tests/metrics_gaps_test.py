"""Metrics and accuracies where some labels do not count."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.metric_cases import (
    AGES,
    BIT_CHANCES,
    BITS,
    CASES,
    CHANCES,
    CLASSES,
    GUESSES,
    MAP_CHANCES,
    MAPS,
    mean_iou,
    measured,
)
from tfmot_pam.data import counted
from tfmot_pam.metrics.accuracy import accuracy_scores, constant_accuracy


@pytest.mark.parametrize("name", list(CASES))
def test_metrics_of_what_counts_only(name):
    metric, kind, labels, outputs, *_ = CASES[name]
    holes = np.arange(len(labels)) % 5 == 0
    given = labels.astype("float64")
    given[holes] = np.nan
    found = measured(metric, kind, given, outputs).marks(outputs)
    kept = measured(metric, kind, labels[~holes], outputs[~holes]).marks(outputs[~holes])
    assert found.value == pytest.approx(kept.value)
    assert found.lost_by(found).error == 0.0


@pytest.mark.parametrize(
    ("kind", "labels", "outputs"),
    [
        ("classes", CLASSES, CHANCES),
        ("classes", MAPS, MAP_CHANCES),
        ("distribution", np.eye(3)[CLASSES], CHANCES),
        ("binary", BITS, BIT_CHANCES),
        ("binary", 2 * BITS - 1, BIT_CHANCES),
        ("real", AGES, GUESSES),
    ],
)
def test_accuracies_of_what_counts_only(kind, labels, outputs):
    holes = np.arange(len(labels)) % 5 == 0
    given = labels.astype("float64")
    given[holes] = np.nan
    counts = counted(given, kind, outputs.shape[-1])
    found = accuracy_scores(kind, outputs, given, counts)
    kept = accuracy_scores(kind, outputs[~holes], labels[~holes])
    assert found.weights is None
    np.testing.assert_allclose(found.samples, kept.samples)
    assert constant_accuracy(kind, given, counts) == pytest.approx(
        constant_accuracy(kind, labels[~holes])
    )


def test_entries_count_alike_wherever_they_are():
    labels = MAPS.copy()
    labels[0, :3] = 255
    labels[1, 0, 0] = -1
    counts = counted(labels, "classes", 3)
    assert counts.sum() == MAPS.size - 13
    right = (MAP_CHANCES.argmax(-1) == MAPS)[counts]
    assert accuracy_scores("classes", MAP_CHANCES, labels, counts).value == right.mean()
    found = measured(keras.metrics.MeanIoU(num_classes=3), "classes", labels, MAP_CHANCES)
    hard = MAP_CHANCES.argmax(-1)[counts]
    assert found.marks(MAP_CHANCES).value == pytest.approx(mean_iou(MAPS[counts], hard), rel=1e-5)
    # The error is that of a weighted mean of the maps.
    worse = np.roll(MAP_CHANCES, 1, axis=0)
    one, other = (accuracy_scores("classes", o, labels, counts) for o in (MAP_CHANCES, worse))
    drops, weights = one.samples - other.samples, counts.reshape(12, -1).sum(1)
    loss = one.lost_by(other)
    assert loss.lost == pytest.approx(np.average(drops, weights=weights))
    spread = np.sqrt(np.sum((weights * (drops - loss.lost)) ** 2)) / weights.sum()
    assert loss.error == pytest.approx(spread * np.sqrt(2))


def test_explained_variance_with_gaps():
    y = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 7.0]])
    outputs = np.array([[1.0, 6.0], [1.0, 0.0], [0.0, 6.0]])
    counts = counted(y, "real", 2)
    # Squared errors 0, 1, 4, 1 around means of 2 and 6, of which all entries are 1 away.
    found = accuracy_scores("real", outputs, y, counts)
    assert found.value == pytest.approx(1.0 - 6.0 / 4.0)
    assert found.weights.tolist() == [1.5, 0.75, 0.75]


@pytest.mark.parametrize(
    ("labels", "kind", "width", "expected"),
    [
        (np.array([0, -1, 255, 2]), "classes", 3, [1, 0, 0, 1]),
        (np.array([0, 255]), "classes", 300, None),
        (np.array([0, 256]), "classes", 3, None),
        (np.array([-1, 1, 255]), "binary", 1, [1, 1, 0]),
        (np.array([-1.0, np.nan, 255.0]), "real", 1, [1, 0, 1]),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), "distribution", 2, [1, 0]),
        (np.array([0.0, 1.0]), "real", 1, None),
    ],
)
def test_which_labels_count(labels, kind, width, expected):
    found = counted(labels, kind, width)
    assert found is None if expected is None else found.tolist() == [bool(e) for e in expected]
