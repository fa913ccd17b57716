"""Models examined on validation samples: accuracies, losses by halves, views."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from tests.quick_compress import both, samples
from tfmot_pam.data import HeadSamples, Samples
from tfmot_pam.metrics.examination import Examination, Judgement, constant_accuracy, sample_scores


@pytest.fixture(scope="module")
def models():
    return both()


def test_constant_answers_in_closed_form():
    assert constant_accuracy("classes", np.array([0, 2, 2, 1])) == 0.5
    assert constant_accuracy("distribution", np.eye(3)[[0, 2, 2, 1]]) == 0.5
    assert constant_accuracy("binary", np.array([[1, 0], [1, 1], [1, 0], [0, 0]])) == 0.75
    assert constant_accuracy("binary", np.array([[1], [-1], [-1], [-1]])) == 0.75
    assert constant_accuracy("real", np.array([1.0, 2.0])) == 0.0


def test_accuracies_in_closed_form():
    outputs = np.array([[0.2, 0.8], [0.6, 0.4]])

    def accuracy(kind, outputs, labels):
        return sample_scores(kind, outputs, labels).mean()

    assert accuracy("classes", outputs, np.array([1, 1])) == 0.5
    assert accuracy("distribution", outputs, np.eye(2)) == 0.0
    assert accuracy("binary", outputs, np.array([[0, 1], [1, 1]])) == 0.75
    assert accuracy("binary", outputs - 0.5, np.array([[-1, 1], [1, 1]])) == 0.75
    y = np.array([[1.0], [3.0]])
    assert accuracy("real", y, y) == 1.0
    assert accuracy("real", np.full((2, 1), 2.0), y) == 0.0


def test_no_lucky_half_is_enough():
    judged = Judgement({"a": 0.9}, lost={"a": 0.01}, halves={"a": (-0.01, 0.03)}, error={"a": 0.02})
    assert judged.within({"a": 0.01})
    assert judged.ratio({"a": 0.01}) == 1.0
    assert judged.ratio({"a": 0.0}) == judged.ratio({"a": 0.005}) == 2.0
    assert not judged.within({"a": 0.009})
    assert not dataclasses.replace(judged, halves={"a": (-0.011, 0.031)}).within({"a": 0.01})


def test_losses_are_paired_and_halved(models):
    x, labels = samples()
    by_task = {task: HeadSamples(x, y) for task, y in labels.items()}
    examination = Examination(models, [Samples(by_task, True)])
    judged = examination.judge(models["sign"])
    assert judged.lost == {"sign": 0.0}
    assert judged.error == {"sign": 0.0}
    constant = keras.Sequential(
        [keras.Input((8,)), layers.Dense(2, kernel_initializer="zeros", name="sign")]
    )
    constant.layers[-1].bias.assign([1.0, 0.0])
    judged = examination.judge(constant)
    right = labels["sign"] == 0
    alone = models["sign"].predict(x, verbose=0).argmax(-1) == labels["sign"]
    drops = alone.astype(float) - right
    assert judged.lost["sign"] == pytest.approx(drops.mean())
    assert judged.halves["sign"] == pytest.approx((drops[0::2].mean(), drops[1::2].mean()))
    assert judged.error["sign"] == pytest.approx(drops.std() / np.sqrt(len(x) / 2))


def test_views_of_the_validation_samples_are_averaged(models):
    x, labels = samples()
    views = [
        Samples({"sign": HeadSamples(own, labels["sign"])}, True)
        for own in (x, -x, np.roll(x, 1, axis=0))
    ]
    originals = {"sign": models["sign"]}
    judged = Examination(originals, views).judge(models["sign"])
    apart = [Examination(originals, [view]).judge(models["sign"]) for view in views]
    assert judged.lost == {"sign": 0.0}
    marks = [one.accuracy["sign"] for one in apart]
    assert judged.accuracy["sign"] == pytest.approx(np.mean(marks))
    assert max(marks) - min(marks) > 0.1
