"""What a channel's relevance is measured against: a task's labels, or its network's own outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfmot_pam.data.missing import VOID, counted

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
        if self.kind == "binary" and not _holds_only(self.values, 0, 1):
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
    labels = _checked(labels, f"labels of task {task!r}", gaps=True)
    known = _known(labels, classes)
    if known is None:
        return _encoded(labels, task)
    rows = np.flatnonzero(known.reshape(len(known), -1).any(axis=1))
    if not len(rows):
        raise ValueError(
            f"No label of the task {task!r} counts in {len(labels)} samples: all are NaN, negative "
            "or 255. Expected labels that are known. Pass None for a task without labels."
        )
    labels, known = labels[rows], known[rows]
    if labels.ndim >= 3:
        found = Targets("real", _varying(_per_image(labels, known), task))
    elif known.all():
        found = _encoded(labels, task)
    else:
        found = _with_gaps(labels.astype(np.float64), known, task)
    return Targets(found.kind, found.values, rows)


def _known(labels: np.ndarray, classes: int | None) -> np.ndarray | None:
    """Which labels count; None where all do."""
    plain = labels.ndim == 1 or labels.shape[-1] == 1 or labels.ndim == 3
    values = labels[labels != VOID]
    if _holds_only(values, -1, 1) or (not plain and _holds_only(values, 0, 1)):
        kind = "binary" if _is_whole(labels) else "real"
    else:
        kind = "classes" if _is_whole(labels) and plain else "real"
    # 255 is a class where it is not known how many there are.
    return counted(labels, kind, VOID + 1 if classes is None and kind == "classes" else classes)


def _with_gaps(values: np.ndarray, known: np.ndarray, task: str) -> Targets:
    """Several labels a sample, of which some are not known and become the mean of the others."""
    signs, bits = (_holds_only(values[known], low, 1) for low in (-1, 0))
    values = np.where(known, np.maximum(values, 0.0) if signs else values, 0.0)
    mean = values.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    values = np.where(known, values, mean)
    _refuse_constant(values, task)
    return Targets("binary" if signs or bits else "real", values)


def _encoded(labels: np.ndarray, task: str) -> Targets:
    """Labels that all count."""
    if labels.ndim >= 3:
        return Targets("real", _varying(_per_image(labels), task))
    if labels.ndim == 2 and labels.shape[1] > 1 and _is_one_hot(labels):
        labels = labels.argmax(axis=1)
    signs = _holds_only(labels, -1, 1)
    if (labels.ndim == 1 or labels.shape[1] == 1) and _is_whole(labels) and not signs:
        return _class_targets(labels.reshape(-1), task)
    values = labels.reshape(len(labels), -1).astype(np.float64)
    if signs:
        targets = Targets("binary", (values > 0).astype(np.float64))
    else:
        targets = Targets("binary" if _holds_only(labels, 0, 1) else "real", values)
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
    if kind not in _ACTIVATIONS:
        raise ValueError(
            f"Received outputs of kind {kind!r} for task {task!r}; expected one of {_ACTIVATIONS}. "
            "Name the activation of the network's outputs."
        )
    outputs = _checked(outputs, f"outputs of task {task!r}").astype(np.float64)
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if discrete:
        return _output_labels(outputs, kind, task)
    if kind == "softmax":
        outputs = np.log(np.maximum(outputs, _LEAST_PROBABILITY))
        outputs -= outputs.mean(axis=-1, keepdims=True)
    elif kind == "sigmoid":
        likely = np.clip(outputs, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
        outputs = np.log(likely) - np.log1p(-likely)
    return Targets("real", _varying(outputs.mean(axis=tuple(range(1, outputs.ndim - 1))), task))


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


def _checked(values: np.ndarray, what: str, gaps: bool = False) -> np.ndarray:
    """Returns the values as an array of numbers with at least one dimension."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"Received {what} of dtype {array.dtype}; expected integers, booleans or floats. "
            "Encode them as numbers."
        )
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            f"Received {what} of shape {array.shape}; expected at least one sample. "
            "Pass one row per sample."
        )
    if np.isinf(array).any() if gaps else not np.isfinite(array).all():
        raise ValueError(
            f"Received {what} with {'' if gaps else 'NaN or '}infinite entries; expected finite "
            f"numbers{', or NaN where there is no label' if gaps else ''}. Check their source."
        )
    return array.astype(np.int64) if array.dtype.kind in "biu" else array


def _is_whole(values: np.ndarray) -> bool:
    return values.dtype.kind == "i"


def _holds_only(values: np.ndarray, low: int, high: int) -> bool:
    return bool(((values == low) | (values == high)).all())


def _is_one_hot(values: np.ndarray) -> bool:
    return _holds_only(values, 0, 1) and bool((values.sum(axis=-1) == 1).all())


def _per_image(labels: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Returns one row per image: class frequencies of an index map, else means over positions."""
    samples = len(labels)
    if known is not None:
        return _per_image_of_known(labels, known)
    is_map = labels.shape[-1] == 1 or (labels.ndim == 3 and not _is_one_hot(labels))
    if not is_map:
        return labels.mean(axis=tuple(range(1, labels.ndim - 1)))
    if not _is_whole(labels):
        return labels.reshape(samples, -1).mean(axis=1, keepdims=True)
    present, code = np.unique(labels, return_inverse=True)
    code = code.reshape(samples, -1) + np.arange(samples)[:, None] * len(present)
    counts = np.bincount(code.reshape(-1), minlength=samples * len(present))
    return counts.reshape(samples, len(present)) / code.shape[1]


def _per_image_of_known(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The same over what counts; images without any of a target get its mean over the others."""
    if _is_whole(labels):
        shape = (len(labels), -1, 1)
        labels, known = labels.reshape(shape), known.reshape(shape)
        values = (labels == np.unique(labels[known])).astype(np.float64)
    else:
        width = 1 if labels.ndim == 3 else labels.shape[-1]
        values = labels.reshape(len(labels), -1, width).astype(np.float64)
        known = known.reshape(values.shape)
    sums = np.where(known, values, 0.0).sum(axis=1)
    entries = np.broadcast_to(known, values.shape).sum(axis=1)
    means = sums / np.maximum(entries, 1)
    return np.where(entries > 0, means, sums.sum(axis=0) / np.maximum(entries.sum(axis=0), 1))


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
