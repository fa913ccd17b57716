"""Losses of fine-tuning: what labels and outputs decide, units, distances to teachers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.tuned_nets import inputs
from tfmot_pam.data import HeadSamples
from tfmot_pam.task_group import TaskGroup
from tfmot_pam.training.heads import output_kind
from tfmot_pam.training.losses import TaskLoss, constant_divergence, constant_loss, tempered
from tfmot_pam.training.objective import set_objective

HARD = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
MULTI = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]])
CLASSES = np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("kind", "y", "reference", "reference_y"),
    [
        ("softmax", CLASSES, keras.losses.SparseCategoricalCrossentropy(), CLASSES),
        ("softmax", CLASSES[:, None], keras.losses.SparseCategoricalCrossentropy(), CLASSES),
        ("softmax", HARD, keras.losses.CategoricalCrossentropy(), HARD),
        ("softmax", 2 * HARD - 1, keras.losses.CategoricalCrossentropy(), HARD),
        ("sigmoid", MULTI, keras.losses.BinaryCrossentropy(), MULTI),
        ("sigmoid", 2 * MULTI - 1, keras.losses.BinaryCrossentropy(), MULTI),
        ("sigmoid", 0.3 * MULTI, keras.losses.BinaryCrossentropy(), 0.3 * MULTI),
        ("linear", CLASSES, keras.losses.SparseCategoricalCrossentropy(True), CLASSES),
        ("linear", HARD, keras.losses.CategoricalCrossentropy(True), HARD),
        ("linear", 2 * MULTI - 1, keras.losses.BinaryCrossentropy(True), MULTI),
        ("linear", MULTI + 0.25, keras.losses.MeanSquaredError(), MULTI + 0.25),
        ("linear", np.ones((4, 3)), keras.losses.MeanSquaredError(), np.ones((4, 3))),
    ],
)
def test_the_label_loss_follows_the_output_and_the_labels(kind, y, reference, reference_y):
    samples = HeadSamples(inputs(4), y)
    objective = set_objective("a", samples, (3,), kind)
    output = np.random.default_rng(0).uniform(0.1, 0.9, (4, 3)).astype("float32")
    output /= output.sum(-1, keepdims=True) if kind == "softmax" else 1.0
    got = objective.loss(objective.targets(samples), output) * objective.loss.label_scale
    assert float(got) == pytest.approx(float(reference(reference_y, output)), rel=1e-4)


def test_losses_are_in_units_of_the_best_constant_prediction():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 2, 3], 200)
    reals = rng.normal(5.0, 30.0, (200, 1))
    for output_kind_, kind, targets in (
        ("softmax", "distribution", probabilities),
        ("sigmoid", "binary", probabilities),
        ("linear", "real", reals),
    ):
        loss = TaskLoss(
            output_kind_,
            label_kind=kind,
            label_width=targets.shape[-1],
            label_weight=1.0,
            label_scale=constant_loss(kind, targets),
        )
        constant = np.broadcast_to(targets.mean(axis=0), targets.shape)
        assert float(loss(targets, constant)) == pytest.approx(1.0, rel=1e-4)
    classes = np.array([[0], [0], [2], [1]])
    assert constant_loss("classes", classes, 3) == pytest.approx(1.5 * np.log(2))
    assert constant_loss("real", np.zeros((4, 1))) == 1.0
    assert constant_loss("real", np.full((4, 1), 3.0)) == pytest.approx(9e-4)
    assert constant_loss("binary", np.ones((4, 2))) == 0.01


def test_a_temperature_divides_logits():
    logits = np.random.default_rng(0).normal(0.0, 4.0, (50, 3)).astype("float32")
    for kind, activation in (("softmax", ops.softmax), ("sigmoid", ops.sigmoid)):
        found = tempered(kind, activation(logits), 2.5)
        assert np.allclose(found, activation(logits / 2.5), atol=1e-5)
    assert tempered("linear", logits, 2.5) is logits


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "linear"])
def test_the_distance_to_a_teacher_is_0_for_a_copy_and_1_for_the_best_constant(kind, temperature):
    logits = np.random.default_rng(0).normal(0.0, 3.0, (400, 3)).astype("float32")
    activation = {"softmax": ops.softmax, "sigmoid": ops.sigmoid, "linear": np.asarray}[kind]
    teacher = np.asarray(activation(logits))
    scale = constant_divergence(kind, teacher, temperature)
    loss = TaskLoss(kind, teacher_weight=1.0, teacher_scale=scale, temperature=temperature)
    assert float(loss(teacher, teacher)) == pytest.approx(0.0, abs=1e-5)
    if kind == "linear":
        constant = teacher.mean(axis=0)
    else:  # The answer whose tempered probabilities are the mean ones.
        mean = np.asarray(tempered(kind, teacher, temperature)).mean(axis=0)
        odds = np.log(mean) - (np.log(1.0 - mean) if kind == "sigmoid" else 0.0)
        constant = np.asarray(activation(temperature * odds[None]))[0]
    assert float(loss(teacher, np.broadcast_to(constant, teacher.shape))) == pytest.approx(1, 1e-3)


def test_task_loss_survives_its_config():
    loss = TaskLoss("softmax", label_kind="custom", label_width=1, label_weight=1.0,
                    teacher_weight=0.1, temperature=2.0,
                    label_loss=keras.losses.SparseCategoricalCrossentropy())  # fmt: skip
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    y, output = np.array([[0.0, 1, 0], [1, 0.2, 0.8]]), np.array([[0.5, 0.5], [0.9, 0.1]])
    assert float(again(y, output)) == pytest.approx(float(loss(y, output)))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ([layers.Dense(3, activation="softmax")], "softmax"),
        ([layers.Dense(3, activation="sigmoid")], "sigmoid"),
        ([layers.Dense(3)], "linear"),
        ([layers.Dense(3, activation="relu")], "linear"),
        ([layers.Dense(3), layers.Softmax()], "softmax"),
        ([layers.Dense(3), layers.Activation("sigmoid")], "sigmoid"),
        ([layers.Dense(3, activation="softmax"), layers.Activation("linear")], "softmax"),
        ([layers.Dense(3, activation="softmax"), layers.Dropout(0.1)], "softmax"),
        ([layers.Dense(6, activation="softmax"), layers.Reshape((2, 3))], "linear"),
        ([TaskGroup(layers.Dense(3, activation="softmax"), ["a"])], "softmax"),
        ([TaskGroup(layers.Dense(3), ["a"]), TaskGroup(layers.Softmax(), ["a"])], "softmax"),
        ([layers.Dense(3), keras.ops.softmax], "softmax"),
        ([layers.Dense(3), keras.ops.sigmoid], "sigmoid"),
        ([layers.Dense(3, activation="softmax"), lambda x: x * 2.0], "linear"),
        ([keras.Sequential([layers.Dense(3), layers.Softmax()])], "softmax"),
        ([layers.Dense(6), layers.Reshape((2, 3)), layers.Softmax(axis=1)], "linear"),
        ([], "linear"),
    ],
)
def test_output_kind_finds_the_last_activation(head, kind):
    inputs_ = keras.Input((5,))
    output = inputs_
    for layer in head:
        # A fresh copy, because the table's layers can be used once.
        fresh = layer.from_config(layer.get_config()) if isinstance(layer, layers.Layer) else layer
        output = fresh(output)
    assert output_kind(keras.Model(inputs_, {"a": output, "b": inputs_}), "a") == kind


def test_output_kind_of_a_nested_functional_model():
    inner_inputs = keras.Input((5,))
    inner = keras.Model(inner_inputs, layers.Dense(2, activation="sigmoid")(inner_inputs))
    inputs_ = keras.Input((5,))
    assert output_kind(keras.Model(inputs_, {"a": inner(inputs_)}), "a") == "sigmoid"
    assert output_kind(keras.Model(inputs_, inner(inputs_))) == "sigmoid"


@pytest.mark.parametrize(
    ("output", "y", "message"),
    [
        ((3,), np.full((8, 3), 7), "must be 0/1, -1/\\+1 or probabilities"),
        ((3,), np.arange(8), "have shape"),
        ((), np.arange(8) % 2, "without an axis"),
    ],
)
def test_labels_that_do_not_fit_are_explained(output, y, message):
    with pytest.raises(ValueError, match=message):
        set_objective("a", HeadSamples(inputs(8), y), output, "sigmoid")


def test_own_losses_need_labels_with_the_outputs_leading_shape():
    samples = HeadSamples(inputs(8), np.ones((8, 2, 2, 1)))
    with pytest.raises(ValueError, match="with a loss of your own"):
        set_objective("a", samples, (4, 4, 3), "linear", label_loss="mse")
