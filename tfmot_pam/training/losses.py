"""The loss of one task: distance to the teacher's outputs and to the labels, on one scale.

Both parts are divided by the loss of the best constant prediction: the entropy of the mean
target, or the variance, or the mean divergence. That puts cross-entropies and squared errors of
any unit on one scale (1 is what knowing nothing costs), and unlike the loss at the start, the
usual divisor, it is not zero when the student starts as a perfect copy of its teacher.

Source: distillation follows Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*,
2015: both answers at a higher temperature, so that a teacher that is all but sure of its training
inputs still tells what else they look like. Probabilities suffice for that: the logits of a
softmax are their logarithms, up to a constant that does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

TEMPERATURE = 3.0  # unless told otherwise

# The log of a softmax output keeps a usable gradient down to the smallest float32 values; a
# sigmoid's complement is resolved to 6e-8 only.
_TINY = 1e-30
_EPSILON = 1e-7
_SURELY_NOT = -30.0  # a logit
_ENTROPY_FLOOR = 1e-2
_VARIANCE_FLOOR = 1e-4


def cross_entropy(target: Any, output: Any) -> Any:
    """Cross-entropy of probabilities over the last axis, in nats."""
    return -ops.sum(target * ops.log(ops.maximum(output, _TINY)), axis=-1)


def cross_entropy_logits(target: Any, output: Any) -> Any:
    """Cross-entropy of logits over the last axis, in nats."""
    return -ops.sum(target * ops.log_softmax(output, axis=-1), axis=-1)


def binary_cross_entropy(target: Any, output: Any) -> Any:
    """Binary cross-entropy of probabilities, mean over the last axis, in nats."""
    output = ops.clip(output, _EPSILON, 1.0 - _EPSILON)
    likelihood = target * ops.log(output) + (1.0 - target) * ops.log(1.0 - output)
    return -ops.mean(likelihood, axis=-1)


def binary_cross_entropy_logits(target: Any, output: Any) -> Any:
    """Binary cross-entropy of logits, mean over the last axis, in nats."""
    return ops.mean(ops.softplus(output) - target * output, axis=-1)


def squared_error(target: Any, output: Any) -> Any:
    """Squared error, mean over the last axis, in squared units of the output."""
    return ops.mean(ops.square(target - output), axis=-1)


# What the labels are -> (loss on probabilities, loss on a linear head).
LABEL_LOSSES: dict[str, tuple[Callable, Callable]] = {
    "classes": (cross_entropy, cross_entropy_logits),
    "distribution": (cross_entropy, cross_entropy_logits),
    "binary": (binary_cross_entropy, binary_cross_entropy_logits),
    "real": (squared_error, squared_error),
}
# Output kind -> distance to the teacher's output of the same kind.
TEACHER_LOSSES: dict[str, Callable] = {
    "softmax": cross_entropy,
    "sigmoid": binary_cross_entropy,
    "linear": squared_error,
}


def tempered(kind: str, outputs: Any, temperature: float) -> Any:
    """What outputs of a kind would be if the logits below them were divided by a temperature."""
    if kind == "linear" or temperature == 1.0:
        return outputs
    logs = ops.log(ops.maximum(outputs, _TINY)) / temperature
    if kind == "softmax":
        return ops.softmax(logs, axis=-1)
    return ops.sigmoid(logs - ops.log(ops.maximum(1.0 - outputs, _EPSILON)) / temperature)


def teacher_divergence(kind: str, teacher: Any, output: Any, temperature: float) -> Any:
    """How far outputs are from a teacher's of the same kind: 0 for a perfect copy."""
    teacher, output = (tempered(kind, found, temperature) for found in (teacher, output))
    distance = TEACHER_LOSSES[kind]
    return distance(teacher, output) - distance(teacher, teacher)


def constant_divergence(kind: str, teacher: np.ndarray, temperature: float) -> float:
    """The mean divergence from a teacher of the best constant answer.

    Args:
        kind: `"softmax"`, `"sigmoid"` or `"linear"`.
        teacher: Outputs of a sample, `[n, ..., width]`.
        temperature: The temperature.

    Returns:
        At least 0.01 for probabilities; for others the variance, as `constant_loss` gives it.
    """
    if kind == "linear":
        return constant_loss("real", teacher)
    rows = ops.convert_to_tensor(teacher.reshape(-1, teacher.shape[-1]))
    flat = ops.convert_to_numpy(tempered(kind, rows, temperature))
    mean = np.broadcast_to(flat.mean(axis=0), flat.shape)
    known, constant = (ops.convert_to_tensor(found) for found in (flat, mean))
    return max(float(ops.mean(teacher_divergence(kind, known, constant, 1.0))), _ENTROPY_FLOOR)


def constant_loss(
    target_kind: str,
    targets: np.ndarray,
    classes: int | None = None,
    counts: np.ndarray | None = None,
) -> float:
    """Returns the loss of the best constant prediction, the unit of a task's loss.

    Args:
        target_kind: A key of `LABEL_LOSSES`.
        targets: Encoded targets of a sample, shape `[n, ..., width]`.
        classes: Number of classes, for the kind `"classes"`.
        counts: Which targets count, those of classes by rows; None for all.

    Returns:
        The entropy of the mean target in nats (at least 0.01), or the variance (at least 1e-4 of
        the mean square, and 1 for targets that are all zero).
    """
    flat = targets.reshape(-1, targets.shape[-1]).astype("float64")
    if counts is not None:
        if target_kind in ("binary", "real"):
            return _constant_loss_with_gaps(target_kind, flat)
        flat = flat[counts.reshape(-1)]
    if target_kind == "real":
        floor = _VARIANCE_FLOOR * float(np.mean(flat**2))
        return max(float(np.mean(flat.var(axis=0))), floor) or 1.0
    if target_kind == "classes":
        mean = np.bincount(flat[:, 0].astype(int), minlength=classes or 0) / len(flat)
    else:
        mean = flat.mean(axis=0)
    terms = -mean * np.log(np.maximum(mean, _TINY))
    if target_kind == "binary":
        rest = 1.0 - mean
        return max(float(np.mean(terms - rest * np.log(np.maximum(rest, _TINY)))), _ENTROPY_FLOOR)
    return max(float(np.sum(terms)), _ENTROPY_FLOOR)


def _constant_loss_with_gaps(target_kind: str, flat: np.ndarray) -> float:
    """The same of columns that have NaN where nothing is known."""
    known = [column[~np.isnan(column)] for column in flat.T]
    sizes = [len(column) for column in known]
    losses = [constant_loss(target_kind, column[:, None]) for column in known if len(column)]
    return float(np.average(losses, weights=[size for size in sizes if size]))


@keras.saving.register_keras_serializable(package="tfmot_pam")
class TaskLoss(keras.losses.Loss):
    """Loss of one task on targets that hold labels and teacher outputs side by side.

    The targets' last axis has `label_width` label columns, then the teacher's outputs if there is
    a teacher. The teacher part is the divergence from the teacher (cross-entropy minus the
    teacher's own entropy, both at the temperature), so that 0 means a perfect copy.

    Args:
        output_kind: `"softmax"`, `"sigmoid"` or `"linear"`.
        label_kind: A key of `LABEL_LOSSES`, `"custom"`, or None without labels.
        label_width: Number of label columns, 0 without labels.
        label_weight: Weight of the labels' loss, in 0..1.
        label_scale: Divisor of the labels' loss.
        teacher_weight: Weight of the teacher's loss; 0 without a teacher.
        teacher_scale: Divisor of the teacher's loss.
        temperature: Divisor of the logits of student and teacher in the teacher's loss.
        label_loss: The user's Keras loss, for the kind `"custom"`.
        squeeze_labels: Whether `label_loss` gets labels without their last axis.
        masked: Whether 0/1 labels and real values may be NaN, which costs nothing. Classes that do
            not count are -1, or rows of zeros, and cost nothing by themselves.
        class_weights: A factor for each class, for labels that are classes; None for 1.
        **kwargs: Keras loss arguments.
    """

    def __init__(
        self,
        output_kind: str,
        *,
        label_kind: str | None = None,
        label_width: int = 0,
        label_weight: float = 0.0,
        label_scale: float = 1.0,
        teacher_weight: float = 0.0,
        teacher_scale: float = 1.0,
        temperature: float = 1.0,
        label_loss: Any = None,
        squeeze_labels: bool = False,
        masked: bool = False,
        class_weights: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.output_kind = output_kind
        self.label_kind = label_kind
        self.label_width = label_width
        self.label_weight = label_weight
        self.label_scale = label_scale
        self.teacher_weight = teacher_weight
        self.teacher_scale = teacher_scale
        self.temperature = temperature
        self.label_loss = keras.losses.get(label_loss)
        self.squeeze_labels = squeeze_labels
        self.masked = masked
        self.class_weights = None if class_weights is None else list(class_weights)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of every sample, shape `[n]`."""
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        total = 0.0
        if self.label_kind is not None:
            labels = y_true[..., : self.label_width]
            part = self._label_part(self.label_kind, labels, y_pred)
            total += self.label_weight / self.label_scale * _per_sample(part)
        if self.teacher_weight:
            teacher = y_true[..., self.label_width :]
            divergence = teacher_divergence(self.output_kind, teacher, y_pred, self.temperature)
            total += self.teacher_weight / self.teacher_scale * _per_sample(divergence)
        return total

    def _label_part(self, kind: str, labels: Any, y_pred: Any) -> Any:
        if kind == "custom":
            labels = labels[..., 0] if self.squeeze_labels else labels
            # `call` is the loss before it is reduced to one number for the batch.
            loss = getattr(self.label_loss, "call", self.label_loss)
            return loss(labels, y_pred)
        if kind == "classes":
            # Of a negative index this is all zeros.
            labels = ops.one_hot(ops.cast(labels[..., 0], "int32"), y_pred.shape[-1])
        if self.masked and kind in ("binary", "real"):
            labels, y_pred = self._without_gaps(labels, y_pred)
        part = LABEL_LOSSES[kind][self.output_kind == "linear"](labels, y_pred)
        if self.class_weights is not None:
            weights = ops.convert_to_tensor(self.class_weights, "float32")
            part = part * ops.sum(labels * weights, axis=-1)
        return part

    def _without_gaps(self, labels: Any, y_pred: Any) -> tuple[Any, Any]:
        """The right answer wherever the label is NaN: it costs nothing and sends no gradient."""
        known = ops.equal(labels, labels)
        logits = self.label_kind == "binary" and self.output_kind == "linear"
        right = ops.full_like(y_pred, _SURELY_NOT if logits else 0.0)
        return ops.where(known, labels, ops.zeros_like(labels)), ops.where(known, y_pred, right)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "output_kind": self.output_kind,
            "label_kind": self.label_kind,
            "label_width": self.label_width,
            "label_weight": self.label_weight,
            "label_scale": self.label_scale,
            "teacher_weight": self.teacher_weight,
            "teacher_scale": self.teacher_scale,
            "temperature": self.temperature,
            "label_loss": self.label_loss and keras.losses.serialize(self.label_loss),
            "squeeze_labels": self.squeeze_labels,
            "masked": self.masked,
            "class_weights": self.class_weights,
        }


def _per_sample(values: Any) -> Any:
    axes = list(range(1, len(values.shape)))
    return ops.mean(values, axis=axes) if axes else values
