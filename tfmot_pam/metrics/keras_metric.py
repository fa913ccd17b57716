"""Keras metrics: evaluated by a fresh object each time, on labels in the form that they take."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

_DIRECTIONS = {"up": "higher", "down": "lower"}


@dataclasses.dataclass(frozen=True, eq=False)
class KerasMetric:
    """A Keras metric as its class and its configuration: no state, and nothing to change.

    Args:
        kind: The class.
        config: Its configuration, without the name, which Keras numbers through.
        name: What it is called.
        direction: What Keras says of it: `"higher"`, `"lower"`, or None.
    """

    kind: type[Any]
    config: Mapping[str, Any]
    name: str
    direction: str | None

    def __call__(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        """The metric of labels and outputs in the form that it takes."""
        metric = self.kind.from_config(dict(self.config))
        metric.update_state(y_true, y_pred)
        result = metric.result()
        if isinstance(result, Mapping):
            result = list(result.values())
        return np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(result)))

    def forms(
        self, kind: str, labels: np.ndarray, outputs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels and outputs as the metric takes them.

        Metrics that compare indices get the index of the largest output, and class indices; those
        with "Sparse" in their name class indices and all outputs; all others labels in the shape of
        the outputs: one-hot, 0/1, or real values.

        Args:
            kind: What the labels are, as `label_kind` says.
            labels: Labels, `[n, ...]`.
            outputs: Outputs, `[n, ..., width]`.
        """
        names = {parent.__name__ for parent in self.kind.__mro__}
        several = outputs.shape[-1] > 1 and kind in ("classes", "distribution")
        indexed = (self.config.get("sparse_y_true"), self.config.get("sparse_y_pred"))
        if "BinaryIoU" in names or indexed == (None, None):
            indexed = ("Accuracy" in names,) * 2
            if any(name.startswith("Sparse") for name in names):
                indexed = (True, False)
        if not several:
            if indexed[1] and kind == "binary":
                outputs = (outputs > _threshold(outputs)).astype("int64")
            labels = labels.reshape(outputs.shape)
            return np.maximum(labels, 0) if kind == "binary" else labels, outputs
        width = outputs.shape[-1]
        if kind == "classes":
            labels = labels.reshape(outputs.shape[:-1]).astype("int64")
            labels = labels if indexed[0] else np.eye(width, dtype="float32")[labels]
        elif indexed[0]:
            labels = labels.argmax(axis=-1)
        return labels, outputs.argmax(axis=-1) if indexed[1] else outputs


def as_keras_metric(value: Any) -> KerasMetric | None:
    """A Keras metric, or the name of one, as a recipe; None where it is neither."""
    if isinstance(value, KerasMetric):
        return value
    if isinstance(value, str):
        try:
            value = keras.metrics.get(value)
        except (TypeError, ValueError):
            return None
    if isinstance(value, type) or not all(
        hasattr(value, part) for part in ("update_state", "result", "get_config")
    ):
        return None
    config = dict(value.get_config())
    name = config.pop("name", type(value).__name__)
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(value).__name__).lower()
    plain = re.sub(r"_\d+$", "", name)
    # There is no public way to ask; of a metric that does not tell it is found by trying.
    told = _DIRECTIONS.get(getattr(value, "_direction", ""))
    own = plain if plain.replace("_", "") == kind.replace("_", "") else name
    return KerasMetric(type(value), config, own, told)


def _threshold(outputs: np.ndarray) -> float:
    return 0.5 if outputs.min() >= 0.0 and outputs.max() <= 1.0 else 0.0
