"""How well a model does each task, as one number that compression must not lower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def _classes(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(outputs.argmax(axis=-1) == labels.reshape(outputs.shape[:-1])))


def _distribution(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(outputs.argmax(axis=-1) == labels.argmax(axis=-1)))


def _binary(outputs: np.ndarray, labels: np.ndarray) -> float:
    threshold = 0.5 if outputs.min() >= 0.0 and outputs.max() <= 1.0 else 0.0
    positive = labels > (0.5 if labels.min() >= 0.0 else 0.0)
    return float(np.mean((outputs > threshold) == positive.reshape(outputs.shape)))


def _real(outputs: np.ndarray, labels: np.ndarray) -> float:
    """R^2, the share of the labels' variance that is explained."""
    labels = labels.reshape(outputs.shape)
    error = np.mean(np.square(outputs - labels))
    return float(1.0 - error / max(float(np.mean(np.square(labels - labels.mean(axis=0)))), 1e-12))


ACCURACIES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = MappingProxyType(
    {"classes": _classes, "distribution": _distribution, "binary": _binary, "real": _real}
)


def predict(model: keras.Model, samples: Samples) -> dict[str, np.ndarray]:
    """A model's outputs for each of its tasks on that task's samples."""
    tasks = task_names(read(model))
    results: dict[int, dict[str, np.ndarray]] = {}
    found = {}
    for task in tasks:
        x = samples.by_task[task].x
        if id(x) not in results:
            outputs = model.predict(x, batch_size=128, verbose=0)
            results[id(x)] = outputs if isinstance(outputs, dict) else {tasks[0]: outputs}
        found[task] = np.asarray(results[id(x)][task])
    return found


class Examination:
    """The validation samples and what counts as right on them.

    Where a task has no labels, the original model's outputs are: accuracy is then agreement.

    Args:
        originals: The models to be compressed, by task.
        samples: Validation samples.
    """

    def __init__(self, originals: Mapping[str, keras.Model], samples: Samples):
        self._samples = samples
        self._labels: dict[str, tuple[str, np.ndarray]] = {}
        self.originals: dict[str, float] = {}
        for task, model in originals.items():
            own = samples.by_task[task]
            outputs = model.predict(own.x, batch_size=128, verbose=0)
            outputs = np.asarray(
                next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
            )
            kind = output_kind(model)
            if own.y is None:
                self._labels[task] = (_AS_LABELS[kind], outputs)
            else:
                named = label_kind(own.y, kind, tuple(outputs.shape[1:]), task)
                self._labels[task] = (named, np.asarray(own.y))
            self.originals[task] = self._mark(task, outputs)

    def _mark(self, task: str, outputs: np.ndarray) -> float:
        kind, labels = self._labels[task]
        return ACCURACIES[kind](outputs, labels)

    def marks(self, model: keras.Model) -> dict[str, float]:
        """The accuracy of a model on every task, 0..1 (R^2 for real-valued targets)."""
        return {task: self._mark(task, out) for task, out in predict(model, self._samples).items()}
