"""What a channel's relevance is measured against: a task's labels, or its network's own outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfmot_pam.merging.label_maps import (
    checked,
    counted_labels,
    holds_only,
    is_one_hot,
    is_whole,
    label_kind,
    rows_of_maps,
)

_LEAST_PROBABILITY = 1e-6  # a saturated output has a finite logit
_KINDS = ("classes", "binary", "real")
_ACTIVATIONS = ("softmax", "sigmoid", "linear")


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """One task's targets, in the three forms that the relevance estimators know.

    Args:
      kind: `"classes"` (one label of several classes), `"binary"` (independent 0/1 labels) or
        `"real"` (real-valued targets).
      rows: the samples that these are targets of, where others have no label that counts; None for
        all.
      values: classes: int64 `[samples]`; binary: float64 0/1 `[samples, labels]`; real: float64
        `[samples, targets]`.

    Raises:
      ValueError: if `kind` is unknown.

    Example:
      >>> encode_labels(np.array([2, 0, 2]), "digit").matrix()
      array([[0., 1.],
             [1., 0.],
             [0., 1.]])
    """

    kind: str
    values: np.ndarray
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"Received kind {self.kind!r}; expected one of {_KINDS}. Choose one.")

    def __len__(self) -> int:
        return len(self.values)

    def matrix(self) -> np.ndarray:
        """Returns float64 `[samples, targets]`: one-hot over the classes present, 0/1, or real."""
        if self.kind != "classes":
            return np.array(self.values, np.float64)
        present, code = np.unique(self.values, return_inverse=True)
        return np.eye(len(present))[code]

    def observed(self, columns: np.ndarray) -> np.ndarray:
        """What is observed on all samples, `[all samples, columns]`, of those with a label."""
        return columns if self.rows is None else columns[self.rows]

    def discrete(self) -> Targets:
        """Returns the targets if they are labels, as the `kde` estimator needs them.

        Raises:
          ValueError: if they are real-valued, or some labels of a sample are known and others not.
        """
        if self.kind == "binary" and not holds_only(self.values, 0, 1):
            raise ValueError(
                "Received samples of which some labels are known and others are NaN or 255; "
                "expected all or none, since the 'kde' estimator compares labels between samples. "
                "Use estimator='gaussian', or fill the labels in."
            )
        if self.kind == "real":
            raise ValueError(
                "Received real-valued targets; expected class or binary labels, which the 'kde' "
                "estimator compares between samples. Use estimator='gaussian' for this task, or "
                "give it class labels."
            )
        return self

    def subset(self, indices: np.ndarray) -> Targets:
        """Returns the targets of these samples."""
        return Targets(self.kind, self.values[indices])

    def shuffled(self, rng: np.random.Generator) -> Targets:
        """Returns the targets in a random order of samples; a sample's labels stay together."""
        return self.subset(rng.permutation(len(self.values)))


def joint_targets(parts: Sequence[Targets], task: str) -> Targets:
    """The targets of a task that yields several tensors: those of all, side by side.

    Samples of which one has no label that counts are left out. Real values are brought to one
    scale, on which no tensor's outweigh those of another by their unit.

    Raises:
      ValueError: if no sample has labels for all of them.
    """
    if len(parts) == 1:
        return parts[0]
    samples = max(len(part) if part.rows is None else int(part.rows.max()) + 1 for part in parts)
    everywhere = np.ones(samples, bool)
    for part in parts:
        if part.rows is not None:
            everywhere &= np.isin(np.arange(samples), part.rows)
    if not everywhere.any():
        raise ValueError(
            f"No sample of the task {task!r} has labels that count for all of its outputs. "
            "Expected some that do. Pass None for the labels of some, which takes the model's own "
            "outputs."
        )
    chosen = np.flatnonzero(everywhere)
    matrices = []
    for part in parts:
        matrix = part.matrix()
        matrix = matrix[chosen if part.rows is None else np.searchsorted(part.rows, chosen)]
        spread = matrix.std(axis=0) if part.kind == "real" else 1.0
        matrices.append(matrix / np.maximum(spread, 1e-12))
    rows = None if everywhere.all() and all(p.rows is None for p in parts) else chosen
    return Targets("real", np.concatenate(matrices, axis=1), rows)


def encode_labels(labels: np.ndarray, task: str, classes: int | None = None) -> Targets:
    """Reads a task's labels in any of the usual forms, as far as they count.

    NaN, negative class indices, and 255 where that is no class or no 0/1 label do not. Samples
    without a label that counts are left out; what is missing of several labels becomes their mean,
    which says nothing.

    Integers are class indices, floats real values; a matrix of zeros and ones with a single one in
    every row is one-hot, any other 0/1 or -1/+1 matrix holds independent binary labels. Dense
    labels become one row per image: the frequency of each class, or the mean of each target.

    Args:
      labels: class indices `[samples]` or `[samples, 1]`; one-hot `[samples, classes]`; 0/1 or
        -1/+1 `[samples]` or `[samples, labels]`; real `[samples]` or `[samples, targets]`; dense
        class indices `[samples, height, width]` or `[samples, height, width, 1]`; dense one-hot
        or real `[samples, height, width, targets]`.
      task: the task's name, for error messages.
      classes: number of the task's outputs; None takes 255 for a class.

    Returns:
      The task's `Targets`.

    Raises:
      TypeError: if the labels are not numbers.
      ValueError: if they are empty, infinite, or constant in the sample.

    Example:
      >>> encode_labels(np.array([[1, -1], [-1, -1], [1, 1]]), "attributes").values
      array([[1., 0.],
             [0., 0.],
             [1., 1.]])
    """
    what = f"labels of task {task!r}"
    if np.ndim(labels) >= 3:
        values, counts = rows_of_maps(np.asarray(labels), classes, what)
        rows = None if counts is None else _some(counts, task)
        values = values if rows is None else values[rows]
        return Targets("real", _varying(values, task), rows)
    labels = checked(labels, what, gaps=True)
    kind = label_kind(labels, [labels])
    known = counted_labels(labels, kind, classes)
    if known is None:
        return _encoded(labels, task)
    rows = _some(np.asarray(known.reshape(len(known), -1).any(axis=1)), task)
    labels, known = labels[rows], known[rows]
    if known.all():
        found = _encoded(labels, task)
    else:
        found = _with_gaps(labels.astype(np.float64), known, task)
    return Targets(found.kind, found.values, rows)


def _some(counts: np.ndarray, task: str) -> np.ndarray:
    """The samples that count."""
    rows = np.flatnonzero(counts)
    if not len(rows):
        raise ValueError(
            f"No label of the task {task!r} counts in {len(counts)} samples: all are NaN, negative "
            "or 255. Expected labels that are known. Pass None for a task without labels."
        )
    return rows


def _with_gaps(values: np.ndarray, known: np.ndarray, task: str) -> Targets:
    """Several labels a sample, of which some are not known and become the mean of the others."""
    signs, bits = (holds_only(values[known], low, 1) for low in (-1, 0))
    values = np.where(known, np.maximum(values, 0.0) if signs else values, 0.0)
    mean = values.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    values = np.where(known, values, mean)
    _refuse_constant(values, task)
    return Targets("binary" if signs or bits else "real", values)


def _encoded(labels: np.ndarray, task: str) -> Targets:
    """Labels that all count."""
    if labels.ndim == 2 and labels.shape[1] > 1 and is_one_hot(labels):
        labels = labels.argmax(axis=1)
    signs = holds_only(labels, -1, 1)
    if (labels.ndim == 1 or labels.shape[1] == 1) and is_whole(labels) and not signs:
        return _class_targets(labels.reshape(-1), task)
    values = labels.reshape(len(labels), -1).astype(np.float64)
    if signs:
        targets = Targets("binary", (values > 0).astype(np.float64))
    else:
        targets = Targets("binary" if holds_only(labels, 0, 1) else "real", values)
    _refuse_constant(targets.values, task)
    return targets


def targets_from_outputs(
    outputs: np.ndarray, kind: str, task: str, *, discrete: bool = False
) -> Targets:
    """Reads a trained network's own outputs as its task's targets, for data without labels.

    Args:
      outputs: what the network yields on the calibration data, `[samples, outputs]` or dense
        `[samples, height, width, outputs]` (averaged over the positions).
      kind: activation of the outputs: `"softmax"` (targets are the logits up to a constant),
        `"sigmoid"` (the logits) or `"linear"` (the values).
      task: the task's name, for error messages.
      discrete: whether to return labels (the largest class, or which sigmoid exceeds 0.5), as the
        `kde` estimator needs them.

    Returns:
      The task's `Targets`; outputs that are constant in the sample are left out.

    Raises:
      ValueError: if the outputs are empty, not finite, of an unknown kind, all constant, or
        wanted as labels though they are linear or dense.

    Example:
      >>> targets_from_outputs(np.array([[0.9], [0.2]]), "sigmoid", "t", discrete=True).values
      array([[1.],
             [0.]])
    """
    if discrete:
        return _output_labels(_checked_outputs(outputs, kind, task), kind, task)
    return Targets("real", _varying(rows_of_outputs(outputs, kind, task), task))


def rows_of_outputs(outputs: np.ndarray, kind: str, task: str) -> np.ndarray:
    """What a network's outputs say about each sample, in float64 `[samples, outputs]`.

    Use it on batches of outputs that are maps: `targets_from_outputs` of the rows of all batches
    and the kind `"linear"` is the same as of all outputs.

    Args:
      outputs: as in `targets_from_outputs`.
      kind: likewise.
      task: likewise.

    Raises:
      ValueError: if the outputs are empty, not finite or of an unknown kind.
    """
    outputs = _checked_outputs(outputs, kind, task)
    if kind == "softmax":
        outputs = np.log(np.maximum(outputs, _LEAST_PROBABILITY))
        outputs -= outputs.mean(axis=-1, keepdims=True)
    elif kind == "sigmoid":
        likely = np.clip(outputs, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
        outputs = np.log(likely) - np.log1p(-likely)
    return outputs.mean(axis=tuple(range(1, outputs.ndim - 1)))


def _checked_outputs(outputs: np.ndarray, kind: str, task: str) -> np.ndarray:
    if kind not in _ACTIVATIONS:
        raise ValueError(
            f"Received outputs of kind {kind!r} for task {task!r}; expected one of {_ACTIVATIONS}. "
            "Name the activation of the network's outputs."
        )
    outputs = checked(outputs, f"outputs of task {task!r}").astype(np.float64)
    return outputs[:, None] if outputs.ndim == 1 else outputs


def _output_labels(outputs: np.ndarray, kind: str, task: str) -> Targets:
    if kind == "linear" or outputs.ndim > 2:
        raise ValueError(
            f"Received {kind} outputs of shape {outputs.shape} for task {task!r}; expected softmax "
            "or sigmoid outputs [samples, outputs], which yield labels. Give the task class "
            "labels, or use estimator='gaussian'."
        )
    if kind == "softmax":
        return _class_targets(outputs.argmax(axis=1), task)
    return Targets("binary", _varying((outputs > 0.5).astype(np.float64), task))


def _class_targets(classes: np.ndarray, task: str) -> Targets:
    targets = Targets("classes", classes.astype(np.int64))
    _refuse_constant(targets.values[:, None], task)
    return targets


def _varies(values: np.ndarray) -> np.ndarray:
    return values.min(axis=0) < values.max(axis=0)


def _varying(values: np.ndarray, task: str) -> np.ndarray:
    """Returns the columns that vary, as float64; these targets are derived, not the user's own."""
    varies = _varies(values)
    if not varies.any():
        _refuse_constant(values, task)
    return values[:, varies].astype(np.float64)


def _refuse_constant(values: np.ndarray, task: str) -> None:
    constant = np.flatnonzero(~_varies(values))
    if constant.size == 0:
        return
    which = "all labels" if constant.size == values.shape[1] else f"labels {constant.tolist()}"
    raise ValueError(
        f"Received {which} of task {task!r} constant over the {len(values)} samples; expected "
        "every label to take at least two values, or no relevance can be measured. Stratify the "
        "sample, use more samples, or drop the constant labels."
    )
