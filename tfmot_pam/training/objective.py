"""What one task is trained towards: its targets for given samples, and the loss that reads them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import HeadSamples, counted, missing
from tfmot_pam.data.missing import VOID
from tfmot_pam.graph.calling import answers_by_head, predicted
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.network import Shape, scope_name
from tfmot_pam.training.losses import (
    TEMPERATURE,
    TaskLoss,
    constant_divergence,
    constant_loss,
)

_PROBABILITY_SLACK = 1e-3
_TEACHER_BATCH = 32


@dataclass(frozen=True)
class Objective:
    """The targets and the loss of one head; made by `set_objective`.

    Attributes:
        head: Name of the head, which is that of its task unless this has several.
        output_shape: Shape of one output, None where it varies.
        loss: Keras loss for `targets`.
        teacher: What is imitated, or None.
    """

    head: str
    output_shape: Shape
    loss: TaskLoss
    teacher: Teacher | None

    def targets(self, samples: HeadSamples, answers: Mapping[str, Any] | None = None) -> np.ndarray:
        """Returns label columns and teacher outputs side by side, `[n, ..., width]` in float32.

        Args:
            samples: Inputs and labels of the head.
            answers: What the teacher answers for these inputs; None asks it, in one batch.
        """
        parts = []
        if self.loss.label_kind is not None:
            if samples.y is None:
                raise ValueError(
                    f"A batch has no labels for the task {self.head!r}, but the first ones had. "
                    "Give labels in every batch or in none."
                )
            parts.append(
                encode_labels(samples.y, self.loss.label_kind, self.output_shape, self.head)
            )
        if self.teacher is not None and self.loss.teacher_weight:
            kind = self.loss.output_kind
            answers = self.teacher.answers(samples.x) if answers is None else answers
            parts.append(_checked_answers(self.head, answers, self.output_shape, kind))
        return np.concatenate(parts, axis=-1)


@dataclass(frozen=True)
class Teacher:
    """The original model of a task.

    Attributes:
        task: The task.
        model: A Keras model of the task, or of several.
    """

    task: str
    model: Any

    def answers(self, x: Inputs, batch_size: int | None = None) -> dict[str, Any]:
        """The model's outputs by head.

        Args:
            x: Inputs.
            batch_size: Samples at a time; None means that they are one batch.
        """
        return answers_by_head(predicted(self.model, x, batch_size), self.task)


def set_objective(
    task: str,
    sample: HeadSamples,
    output_shape: tuple[int | None, ...],
    output_kind: str,
    *,
    teacher: Teacher | None = None,
    label_weight: float = 0.3,
    temperature: float = TEMPERATURE,
    label_loss: Any = None,
    masked: bool = False,
    class_weight: Mapping[int, float] | None = None,
) -> Objective:
    """Chooses the loss of one head from its output, its labels and its teacher.

    Args:
        task: Name of the head, which is that of its task unless this has several.
        sample: Some samples of the head, from which loss scales are measured.
        output_shape: Shape of one output, without the batch dimension.
        output_kind: What `output_kind` says about the output.
        teacher: The task's original model, or None.
        label_weight: Share of the labels in the loss where there is a teacher as well.
        temperature: Divisor of the logits of student and teacher in the teacher's loss.
        label_loss: A Keras loss to use for the labels instead of the chosen one.
        masked: Whether there may be labels that do not count, in the sample or beyond it.
        class_weight: Factors of the loss of classes, for labels that are classes.

    Returns:
        The objective.

    Raises:
        ValueError: The labels or the teacher's outputs do not fit the output, or the temperature
            is below 1.
    """
    if not output_shape:
        raise ValueError(
            f"The output of the task {task!r} is one number per sample without an axis. "
            "Its shape must be (n, ..., channels): reshape it to (n, 1)."
        )
    if not isinstance(temperature, numbers.Real) or not temperature >= 1:
        raise ValueError(
            f"`temperature` must be a number of at least 1. Received: {temperature!r}. 1 imitates "
            "the probabilities as they are."
        )
    settings: dict[str, Any] = {}
    if sample.y is not None and (label_weight > 0 or teacher is None):
        kind = (
            "custom"
            if label_loss is not None
            else label_kind(sample.y, output_kind, output_shape, task)
        )
        labels = encode_labels(sample.y, kind, output_shape, task)
        scale = (
            1.0
            if kind == "custom"
            else _label_scale(sample.y, kind, labels, task, output_shape[-1])
        )
        settings = {
            "masked": masked,
            "class_weights": _class_weights(class_weight, kind, output_shape[-1], task),
            "label_kind": kind,
            "label_width": labels.shape[-1],
            "label_weight": 1.0 if teacher is None else label_weight,
            "label_scale": scale,
            "label_loss": label_loss,
            "squeeze_labels": labels.ndim > sample.y.ndim,
        }
    if teacher is not None:
        settings["teacher_weight"] = 1.0 - settings.get("label_weight", 0.0)
        answers = teacher.answers(sample.x, _TEACHER_BATCH)
        outputs = _checked_answers(task, answers, output_shape, output_kind)
        settings["teacher_scale"] = constant_divergence(output_kind, outputs, temperature)
        settings["temperature"] = temperature
    return Objective(
        task, output_shape, TaskLoss(output_kind, name=scope_name(task), **settings), teacher
    )


def _label_scale(y: np.ndarray, kind: str, labels: np.ndarray, task: str, width: int) -> float:
    """The loss of the best constant answer, times the share of labels that count.

    The others cost nothing, so that this makes it the mean over those that do.
    """
    counts = counted(y, kind, width)
    if counts is None:
        return constant_loss(kind, labels, width)
    if not counts.any():
        raise ValueError(
            f"No label of the task {task!r} counts in {len(y)} samples: all are NaN, negative or "
            f"255. The classes are 0 to {width - 1}. Pass labels that are known, or None for the "
            "task's labels where it has a teacher."
        )
    return constant_loss(kind, labels, width, counts) * float(counts.mean())


def _class_weights(
    given: Mapping[int, float] | None, kind: str, width: int, task: str
) -> list[float] | None:
    if given is None:
        return None
    wrong = [index for index in given if index not in range(width)]
    low = [index for index, weight in given.items() if not 0 <= weight < math.inf]
    if kind not in ("classes", "distribution") or wrong or low:
        raise ValueError(
            f"`class_weight` of the task {task!r} is {dict(given)}. Expected factors of at least 0 "
            f"by class index, 0 to {width - 1}, for labels that are classes; they are {kind}. Use "
            "sample weights, (x, y, sample_weight), for others."
        )
    return [float(given.get(index, 1.0)) for index in range(width)]


def label_kind(y: np.ndarray, output_kind: str, output_shape: Shape, task: str) -> str:
    """Returns what the labels are, as a key of `LABEL_LOSSES`.

    Class indices have the output's shape without its last axis; everything else has the output's
    shape. On a linear head, hard labels (one-hot, or 0/1 or -1/+1 throughout) mean that it gives
    logits; real values mean that it is a regression.
    """
    lead, width = output_shape[:-1], output_shape[-1]
    as_index = _fits(y.shape[1:], lead) or _fits(y.shape[1:], (*lead, 1))
    if width > 1 and as_index:
        if output_kind != "sigmoid":
            return "classes"
    elif as_index or _fits(y.shape[1:], output_shape):
        if output_kind != "linear":
            return "distribution" if output_kind == "softmax" else "binary"
        return _kind_for_logits(y, width)
    raise ValueError(
        f"The labels of the task {task!r} have shape {y.shape}, but its output is "
        f"{('n', *output_shape)} ({output_kind}). Expected the output's shape"
        + ("." if output_kind == "sigmoid" else ", or class indices without its last axis.")
    )


def encode_labels(y: np.ndarray, kind: str, output_shape: Shape, task: str) -> np.ndarray:
    """Returns labels as float32 with a last axis: class indices, 0..1 values, or as they are.

    Labels that do not count become -1, rows of zeros, or NaN where they are no classes.
    """
    counts = None if kind == "custom" else counted(y, kind, output_shape[-1])
    if counts is not None:
        if kind == "distribution":
            y = np.where(counts[..., np.newaxis], y, 0)
        else:
            # As floats: bytes have no room for -1.
            y = np.where(counts, y.astype("float64"), -1 if kind == "classes" else np.nan)
    if y.ndim == len(output_shape):
        y = y[..., np.newaxis]
    if kind == "classes":
        found = (y.min(), y.max()) if y.size else (0, 0)
        if found[1] >= output_shape[-1] or (y != np.round(y)).any():
            raise ValueError(
                f"The class indices of the task {task!r} must be whole numbers from 0 to "
                f"{output_shape[-1] - 1}. Received values from {found[0]} to {found[1]}."
            )
    elif kind in ("binary", "distribution"):
        # -1/+1 becomes 0/1, and soft labels stay what they are.
        y = np.maximum(y, 0)
        if (y > 1).any():
            raise ValueError(
                f"The labels of the task {task!r} must be 0/1, -1/+1 or probabilities. "
                f"Received values up to {np.nanmax(y)}. Scale them to 0..1."
            )
    elif missing(y) is not None and kind == "custom":
        raise ValueError(
            f"The labels of the task {task!r} are NaN in places, and it has a loss of its own, "
            "which gets labels as they are. Mark those that do not count in a way that the loss "
            "knows, such as `ignore_class`, or leave the loss out."
        )
    elif kind == "custom" and not _fits(y.shape[1:-1], output_shape[:-1]):
        raise ValueError(
            f"The labels of the task {task!r} have shape {y.shape}; with a loss of your own they "
            f"must start with the shape {('n', *output_shape[:-1])}. Reshape them."
        )
    return y.astype("float32")


def _kind_for_logits(y: np.ndarray, width: int) -> str:
    gaps = missing(y)
    values = np.unique(y if gaps is None else y[~gaps])
    if y.dtype.kind in "iu":
        values = values[values != VOID]
    # One value alone says nothing about a logit; it is a regression target that is constant.
    if len(values) != 2 or values[1] != 1 or values[0] not in (0, -1):
        return "real"
    positive = (y == 1).sum(axis=-1)
    if gaps is not None:
        positive = positive[~gaps.any(axis=-1)]
    return "distribution" if width > 1 and (positive == 1).all() else "binary"


def _checked_answers(
    task: str,
    answers: Mapping[str, Any],
    output_shape: Shape,
    output_kind: str,
) -> np.ndarray:
    """What a teacher answers for one head, if it fits the head."""
    outputs: Any = answers.get(task)
    shape = getattr(outputs, "shape", f"for {sorted(answers)}")
    if not hasattr(outputs, "shape") or not _fits(outputs.shape[1:], output_shape):
        raise ValueError(
            f"The teacher of the task {task!r} gives outputs of shape "
            f"{shape}; the merged model's output "
            f"is {('n', *output_shape)}. Pass the model that was merged for this task."
        )
    outputs = keras.ops.convert_to_numpy(outputs).astype("float32")
    if not np.isfinite(outputs).all():
        raise ValueError(
            f"The teacher of the task {task!r} gives NaN or infinite outputs on the data. "
            "Check its weights and the range of the inputs."
        )
    if output_kind != "linear" and (
        outputs.min() < -_PROBABILITY_SLACK or outputs.max() > 1 + _PROBABILITY_SLACK
    ):
        raise ValueError(
            f"The teacher of the task {task!r} gives values from {outputs.min():.3g} to "
            f"{outputs.max():.3g}, but the merged model's output is a probability "
            f"({output_kind}). Pass a teacher that ends with the same activation."
        )
    return outputs


def _fits(shape: tuple[int, ...], pattern: tuple[int | None, ...]) -> bool:
    return len(shape) == len(pattern) and all(
        want in (None, have) for have, want in zip(shape, pattern, strict=True)
    )
