"""How well a model does each task, and how much it lost against its original."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import keras
import numpy as np

from tfmot_pam.data import Samples
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import task_names
from tfmot_pam.training.heads import output_kind
from tfmot_pam.training.objective import label_kind

# What the originals' own outputs are as labels, by what the outputs are.
_AS_LABELS = {"softmax": "distribution", "sigmoid": "binary", "linear": "real"}


def _classes(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return outputs.argmax(axis=-1) == labels.reshape(outputs.shape[:-1])


def _distribution(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return outputs.argmax(axis=-1) == labels.argmax(axis=-1)


def _binary(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    threshold = 0.5 if outputs.min() >= 0.0 and outputs.max() <= 1.0 else 0.0
    positive = labels > (0.5 if labels.min() >= 0.0 else 0.0)
    return (outputs > threshold) == positive.reshape(outputs.shape)


def _real(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """R^2, the share of the labels' variance that is explained."""
    labels = labels.reshape(outputs.shape)
    variance = max(float(np.mean(np.square(labels - labels.mean(axis=0)))), 1e-12)
    return 1.0 - np.square(outputs - labels) / variance


# Losses are measured in units of their tolerances, but of half a point at least: smaller ones are
# noise, and would end every search at once.
_LEAST_UNIT = 0.005
# A network that loses so much from one view of its samples to others does not know those.
_UNKNOWN_VIEWS = 0.01

# What labels are -> scores whose mean is the accuracy.
SCORES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = MappingProxyType(
    {"classes": _classes, "distribution": _distribution, "binary": _binary, "real": _real}
)


def sample_scores(kind: str, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One number a sample, `[n]`; their mean is the accuracy, or R^2 for real-valued labels."""
    scores = np.asarray(SCORES[kind](outputs, labels), np.float64)
    return scores.reshape(len(scores), -1).mean(axis=1)


def constant_accuracy(kind: str, labels: np.ndarray) -> float:
    """The accuracy of the best constant answer: what a network that has learnt nothing reaches."""
    if kind == "real":
        return 0.0
    if kind == "binary":
        positive = labels > (0.5 if labels.min() >= 0.0 else 0.0)
        share = positive.reshape(len(labels), -1).mean(axis=0)
        return float(np.maximum(share, 1.0 - share).mean())
    if kind == "distribution":
        labels = labels.argmax(axis=-1)
    _, counts = np.unique(labels, return_counts=True)
    return float(counts.max() / counts.sum())


def predict(model: keras.Model, samples: Samples) -> dict[str, np.ndarray]:
    """A model's outputs for each of its tasks on that task's samples."""
    tasks = task_names(read(model))
    results: dict[int, dict[str, np.ndarray]] = {}
    outputs_by_task = {}
    for task in tasks:
        x = samples.by_task[task].x
        if id(x) not in results:
            outputs = model.predict(x, batch_size=128, verbose=0)
            results[id(x)] = outputs if isinstance(outputs, dict) else {tasks[0]: outputs}
        outputs_by_task[task] = np.asarray(results[id(x)][task])
    return outputs_by_task


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How a model does on validation data, by task.

    Args:
        accuracy: On all samples, 0..1 (R^2 for real-valued labels).
        lost: Accuracy lost against the original.
        halves: The same on every other sample, and on the rest.
        error: Standard error of the loss on a half, from the paired differences.
    """

    accuracy: Mapping[str, float]
    lost: Mapping[str, float]
    halves: Mapping[str, tuple[float, float]]
    error: Mapping[str, float]

    def ratio(self, tolerances: Mapping[str, float]) -> float:
        """The largest loss in units of its tolerance."""
        return max(used(self.lost, tolerances).values())

    def within(self, tolerances: Mapping[str, float]) -> bool:
        """Whether every task is within its tolerance, and on each half within a standard error.

        A network that only a lucky half speaks for is not chosen.
        """
        return all(
            self.lost[task] <= tolerances[task] + 1e-9
            and max(self.halves[task]) <= tolerances[task] + self.error[task] + 1e-9
            for task in self.lost
        )


def used(lost: Mapping[str, float], tolerances: Mapping[str, float]) -> dict[str, float]:
    """Each task's loss in units of its tolerance."""
    return {task: loss / max(tolerances[task], _LEAST_UNIT) for task, loss in lost.items()}


def _output(model: keras.Model, x: np.ndarray) -> np.ndarray:
    outputs = model.predict(x, batch_size=128, verbose=0)
    return np.asarray(next(iter(outputs.values())) if isinstance(outputs, dict) else outputs)


def _labels(model: keras.Model, task: str, y, outputs: np.ndarray) -> tuple[str, np.ndarray]:
    """A task's labels and what they are; without any, the original's own outputs."""
    kind = output_kind(model)
    if y is None:
        return _AS_LABELS[kind], outputs
    return label_kind(y, kind, tuple(outputs.shape[1:]), task), np.asarray(y)


class Examination:
    """The validation samples and what counts as right on them.

    Where a task has no labels, the original model's outputs are: accuracy is then agreement.
    Several views of the samples make it less noisy: a sample's score is the mean of its views'.

    Args:
        originals: The models to be compressed, by task.
        views: Validation samples, and other views of the same.
    """

    def __init__(self, originals: Mapping[str, keras.Model], views: Sequence[Samples]):
        self._views = tuple(views)
        self._labels: dict[str, list[tuple[str, np.ndarray]]] = {}
        self._scores: dict[str, np.ndarray] = {}
        for task, model in originals.items():
            outputs = [_output(model, view.by_task[task].x) for view in self._views]
            self._labels[task] = [
                _labels(model, task, view.by_task[task].y, found)
                for view, found in zip(self._views, outputs, strict=True)
            ]
            self._scores[task] = self._sample_scores(task, outputs)
            self._warn_of_useless(task, outputs[0])
            self._warn_of_unknown_views(task, outputs)

    def _warn_of_useless(self, task: str, outputs: np.ndarray) -> None:
        """A network that knows nothing of its task would make every tolerance meaningless."""
        accuracy = float(self._scores[task].mean())
        kind, labels = self._labels[task][0]
        least = constant_accuracy(kind, labels)
        varied = len(outputs) < 2 or bool(np.ptp(outputs, axis=0).max() > 1e-6)
        if varied and (labels is outputs or accuracy > least):
            return
        warnings.warn(
            f"The model of {task!r} has not learnt its task: its validation accuracy is "
            f"{accuracy:.4f}, a constant answer reaches {least:.4f}"
            f"{'' if varied else ', and its outputs do not depend on the inputs'}. Train it "
            "longer, or check that the data and the labels are those that it was trained on.",
            stacklevel=4,
        )

    def _warn_of_unknown_views(self, task: str, outputs: Sequence[np.ndarray]) -> None:
        """Where the original is bad on other views, being no worse than it means little."""
        plain, *others = self._scores_of_views(task, outputs)
        if not others:
            return
        drops = plain - np.mean(others, axis=0)
        drop, error = float(drops.mean()), float(drops.std() / np.sqrt(len(drops)))
        if drop <= max(_UNKNOWN_VIEWS, 2.0 * error):
            return
        warnings.warn(
            f"The model of {task!r} does not know what `augment` makes: its validation accuracy is "
            f"{plain.mean():.4f} on the samples as they are and {plain.mean() - drop:.4f} on other "
            "views of them, against which networks are compared. Train it with the same "
            "augmentation, or pass an `augment` that it was trained with.",
            stacklevel=4,
        )

    def _scores_of_views(self, task: str, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            sample_scores(kind, found, labels)
            for found, (kind, labels) in zip(outputs, self._labels[task], strict=True)
        ]

    def _sample_scores(self, task: str, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """The scores of a task's samples, each the mean of its views'."""
        return np.mean(self._scores_of_views(task, outputs), axis=0)

    @property
    def originals(self) -> dict[str, float]:
        """The originals' accuracies."""
        return {task: float(scores.mean()) for task, scores in self._scores.items()}

    def judge(self, model: keras.Model) -> Judgement:
        """Judges a model of some or all of the tasks."""
        accuracy, lost, halves, error = {}, {}, {}, {}
        found = [predict(model, view) for view in self._views]
        for task in found[0]:
            scores = self._sample_scores(task, [outputs[task] for outputs in found])
            drops = self._scores[task] - scores
            accuracy[task], lost[task] = float(scores.mean()), float(drops.mean())
            halves[task] = tuple(
                float(drops[part::2].mean()) if len(drops) > part else lost[task]
                for part in range(2)
            )
            error[task] = float(drops.std() / np.sqrt(max(len(drops) / 2, 1)))
        return Judgement(accuracy, lost, halves, error)
