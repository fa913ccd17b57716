"""Metrics with labels, outputs, and the values that they must have."""

from __future__ import annotations

import keras
import numpy as np

from tfmot_pam.metrics.metric import find_metric
from tfmot_pam.metrics.task_metric import task_metric

RNG = np.random.default_rng(0)
AGES = RNG.uniform(20, 70, (60, 1)).astype("float32")
GUESSES = AGES + RNG.normal(0, 4, (60, 1)).astype("float32")
CLASSES = np.arange(60) % 3
CHANCES = keras.ops.convert_to_numpy(
    keras.ops.softmax(RNG.normal(size=(60, 3)) + 2.0 * np.eye(3)[CLASSES])
).astype("float32")
MAPS = RNG.integers(0, 3, (12, 4, 4))
MAP_CHANCES = (0.6 * np.eye(3)[MAPS] + RNG.uniform(size=(12, 4, 4, 3))).astype("float32")
BITS = RNG.integers(0, 2, (60, 2))
BIT_CHANCES = np.clip(0.6 * BITS + RNG.uniform(0, 0.5, (60, 2)), 0, 1).astype("float32")


def largest_error(y_true, y_pred):
    return float(np.abs(y_true - y_pred).max())


def error_of_each(y_true, y_pred):
    return np.abs(y_true - y_pred)[:, 0]


def agreement(y_true, y_pred):
    return np.mean(y_pred.argmax(-1) == y_true)


def mean_iou(labels, found, count=3):
    overlap = [((labels == c) & (found == c)).sum() for c in range(count)]
    union = [((labels == c) | (found == c)).sum() for c in range(count)]
    return np.mean(np.array(overlap) / np.array(union))


def macro_f1(labels, found):
    scores = []
    for c in range(3):
        right = ((labels == c) & (found == c)).sum()
        scores.append(2 * right / ((labels == c).sum() + (found == c).sum()))
    return np.mean(scores)


OFF = np.abs(AGES - GUESSES)
HARD = CHANCES.argmax(-1)
# A metric, what the labels are, labels, outputs, its value, which is better, whether by sample.
CASES = {
    "name": ("mae", "real", AGES, GUESSES, OFF.mean(), "lower", True),
    "flat labels": ("mse", "real", AGES[:, 0], GUESSES, (OFF**2).mean(), "lower", True),
    "Keras name": (
        "root_mean_squared_error",
        "real",
        AGES[:, 0],
        GUESSES,
        np.sqrt((OFF**2).mean()),
        "lower",
        False,
    ),
    "Keras object": (
        keras.metrics.MeanAbsoluteError(),
        "real",
        AGES,
        GUESSES,
        OFF.mean(),
        "lower",
        False,
    ),
    "function": (largest_error, "real", AGES, GUESSES, OFF.max(), "lower", False),
    "function by sample": (error_of_each, "real", AGES, GUESSES, OFF.mean(), "lower", True),
    "higher": (agreement, "classes", CLASSES, CHANCES, (HARD == CLASSES).mean(), "higher", False),
    "sparse": (
        "sparse_categorical_accuracy",
        "classes",
        CLASSES,
        CHANCES,
        (HARD == CLASSES).mean(),
        "higher",
        False,
    ),
    "sparse of one-hot": (
        "sparse_categorical_accuracy",
        "distribution",
        np.eye(3)[CLASSES],
        CHANCES,
        (HARD == CLASSES).mean(),
        "higher",
        False,
    ),
    "one-hot of classes": (
        keras.metrics.F1Score(average="macro"),
        "classes",
        CLASSES,
        CHANCES,
        macro_f1(CLASSES, HARD),
        "higher",
        False,
    ),
    "maps": (
        keras.metrics.MeanIoU(num_classes=3),
        "classes",
        MAPS,
        MAP_CHANCES,
        mean_iou(MAPS, MAP_CHANCES.argmax(-1)),
        "higher",
        False,
    ),
    "maps of one-hot": (
        keras.metrics.OneHotMeanIoU(num_classes=3),
        "classes",
        MAPS[..., None],
        MAP_CHANCES,
        mean_iou(MAPS, MAP_CHANCES.argmax(-1)),
        "higher",
        False,
    ),
    "signs": (
        "binary_accuracy",
        "binary",
        2 * BITS - 1,
        BIT_CHANCES,
        ((BIT_CHANCES > 0.5) == BITS).mean(),
        "higher",
        False,
    ),
    "indices of bits": (
        keras.metrics.Accuracy(),
        "binary",
        BITS,
        BIT_CHANCES,
        ((BIT_CHANCES > 0.5) == BITS).mean(),
        "higher",
        False,
    ),
}


def measured(metric, kind, labels, outputs):
    output_kind = {"binary": "sigmoid", "real": "linear"}.get(kind, "softmax")
    return task_metric("a", find_metric(metric, "a"), output_kind, labels, outputs, 0)
