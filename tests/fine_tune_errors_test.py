"""Fine-tuning: arguments, labels and teachers that it refuses."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tests.tuned_nets import TASKS, damaged, inputs, network, single
from tfmot_pam.graph.usage import check_usage
from tfmot_pam.training.fine_tune import fine_tune


def other_width():
    model = network()
    return {"b": single(model)["b"], "a": keras.Model(model.input, model.get_layer("a_own").output)}


@pytest.mark.parametrize("weights", [{"b": 1.0}, {"b": 1.0, "a": 0.0}, {"b": 1, "a": 1, "c": 1}])
def test_bad_task_weights_are_explained(weights):
    with pytest.raises(ValueError, match="`task_weights` must hold a number above 0"):
        fine_tune(network(), inputs(8), single(network()), task_weights=weights, verbose=0)


@pytest.mark.parametrize(
    ("usage", "error", "message"),
    [
        ({("a",): 0.5, ("z",): 0.5}, ValueError, r"\('z',\).*tasks \['b', 'a'\]"),
        ({(): 1.0}, ValueError, "one or more of the tasks"),
        ({("a",): 0.5}, ValueError, "sum to 0.5; they must sum to 1"),
        ({("a",): 1.5, ("b",): -0.5}, ValueError, "probability -0.5"),
        ({("a",): float("nan")}, ValueError, "probability nan"),
        ({("a", "b"): 0.5, ("b", "a"): 0.5}, ValueError, "twice"),
        ([0.5, 0.5], TypeError, "must be a dict"),
    ],
)
def test_bad_usage_is_explained(usage, error, message):
    with pytest.raises(error, match=message):
        check_usage(usage, TASKS)
    with pytest.raises(error, match=message):
        fine_tune(network(), inputs(8), single(network()), usage=usage, verbose=0)


class Subclassed(keras.Model):
    def call(self, x):
        return {"a": x}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"teachers": None}, ValueError, r"nothing to train towards for the tasks \['b', 'a'\]"),
        (
            {"teachers": None, "data": (inputs(8), {"a": inputs(8)[:, :3], "b": None})},
            ValueError,
            r"nothing to train towards for the tasks \['b'\]",
        ),
        ({"teachers": {**single(network()), "z": network()}}, ValueError, r"Unknown: \['z'\]"),
        ({"teachers": {"a": single(network())["a"]}}, ValueError, r"missing: \['b'\]"),
        ({"teachers": [network()]}, ValueError, "has 1 models for the 2 tasks"),
        ({"teachers": network()}, TypeError, "dict from task to model"),
        ({"teachers": {"a": "a.keras", "b": network()}}, TypeError, "must be a Keras model"),
        (
            {"teachers": {"a": network().get_layer("a_own"), "b": network()}},
            TypeError,
            "teacher of the task 'a' must be a Keras model",
        ),
        (
            {"teachers": other_width()},
            ValueError,
            r"teacher of the task 'a' gives outputs of shape \(8, 4\).*\('n', 3\)",
        ),
        (
            {"teachers": single(network(("linear", "linear")))},
            ValueError,
            "'b' gives values from .* is a probability",
        ),
        ({"epochs": 0}, ValueError, "`epochs` must be at least 1. Received: 0"),
        ({"joint": 1.5}, ValueError, "`joint` is a share"),
        ({"label_weight": -0.1}, ValueError, "`label_weight` is a share"),
        ({"dropout": 1.5}, ValueError, "`dropout` is a share"),
        ({"temperature": 0.5}, ValueError, "`temperature` must be a number of at least 1"),
        ({"temperature": "hot"}, ValueError, "`temperature` must be a number of at least 1"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"losses": {"z": "mse"}}, ValueError, r"`losses` names \['z'\]"),
        ({"losses": {"a": "mse"}}, ValueError, r"`losses` names \['a'\].*without labels"),
        ({"merged": "merged.keras"}, TypeError, "must be a keras.Model of Keras 3"),
        ({"merged": Subclassed()}, TypeError, "functional or sequential model.*Subclassed"),
        ({"merged": keras.Sequential([layers.Dense(1)])}, (TypeError, ValueError), "`merged` must"),
        ({"data": inputs(8)[:, :4]}, ValueError, r"expected \(n, 5\)"),
        (
            {"data": (inputs(8), {"b": np.full(8, 3), "a": None})},
            ValueError,
            "'b' must be whole numbers from 0 to 2. Received values from 3 to 3",
        ),
        (
            {"data": (inputs(8), {"b": np.full(8, -1), "a": None})},
            ValueError,
            "No label of the task 'b' counts in 8 samples",
        ),
        (
            {"data": (inputs(8), {"b": np.ones((8, 4)), "a": None})},
            ValueError,
            r"labels of the task 'b' have shape \(8, 4\).*or class indices",
        ),
    ],
)
def test_bad_arguments_are_explained(changes, error, message):
    arguments = {"merged": network(), "data": inputs(8), "teachers": single(network())}
    with pytest.raises(error, match=message):
        fine_tune(**{**arguments, **changes}, verbose=0)


def test_a_broken_teacher_is_explained():
    teacher = network()
    broken = single(damaged(teacher, scale=np.nan))
    with pytest.raises(ValueError, match="gives NaN or infinite outputs"):
        fine_tune(teacher, inputs(8), broken, verbose=0)
