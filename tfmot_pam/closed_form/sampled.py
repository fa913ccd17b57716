"""What layers read on samples that run in batches: at sampled places, and in the mean."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfmot_pam.closed_form import linear
from tfmot_pam.graph.emitter import instantiate, load_weights
from tfmot_pam.graph.network import Layer
from tfmot_pam.graph.runner import Stepper

_MEAN_SAMPLES, _MEAN_BATCH = 256, 64


class Sampled:
    """What a node reads at some places, whatever the batches.

    Args:
        stepper: The network that runs.
        name: The node.
        places: `[places, 1 + axes]`, samples (ascending) and positions, as of `sample_places`.
    """

    def __init__(self, stepper: Stepper, name: str, places: np.ndarray):
        self._stepper, self._name, self._places = stepper, name, places

    def read(self, form: linear.LinearForm, layer: Layer) -> np.ndarray:
        """What a layer with a linear form reads, `[places, ...]`."""
        return self._joined(lambda x, places: form.read(layer, x, places))

    def patches(self, layer: Layer) -> linear.PatchesOf:
        """What a convolution reads, by a slice of channels; the last answer is kept."""

        @functools.lru_cache(maxsize=1)
        def read(start: int, stop: int) -> np.ndarray:
            return self._joined(lambda x, places: linear.patches(layer, x[..., start:stop], places))

        return lambda own: read(own.start, own.stop)

    def _joined(self, read: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        def of_batch(span: slice, x: np.ndarray) -> np.ndarray:
            first, last = np.searchsorted(self._places[:, 0], (span.start, span.stop))
            places = self._places[first:last].copy()
            places[:, 0] -= span.start
            return read(x, places)

        return np.concatenate(self._stepper.gather(self._name, of_batch))


def mean_outputs(layer: Layer, stepper: Stepper, name: str) -> np.ndarray:
    """The mean of each output channel of a layer before its activation, over 256 samples.

    Args:
        layer: The layer.
        stepper: The network that runs.
        name: The node that has, or stands for, the layer.
    """
    mean = _OutputMean(layer)
    stepper.gather(name, lambda span, x: mean.add(x), _MEAN_SAMPLES)
    return mean.result()


class _OutputMean:
    """The mean of a layer's outputs, added up in batches of one size, whatever size comes."""

    def __init__(self, layer: Layer):
        config = {**layer.config, "activation": "linear"}
        self._layer = layer
        self._operation = instantiate(dataclasses.replace(layer, config=config), wrap=False)
        self._left = _MEAN_SAMPLES
        self._waiting: list[np.ndarray] = []
        self._sum: Any = None  # `[channels]`, once there are outputs
        self._count = 0

    def add(self, x: np.ndarray) -> None:
        x = x[: self._left]
        self._left -= len(x)
        self._waiting.append(x)
        if sum(map(len, self._waiting)) >= _MEAN_BATCH:
            whole = np.concatenate(self._waiting)
            full = len(whole) // _MEAN_BATCH * _MEAN_BATCH
            for start in range(0, full, _MEAN_BATCH):
                self._run(whole[start : start + _MEAN_BATCH])
            self._waiting = [whole[full:]]

    def result(self) -> np.ndarray:
        whole = np.concatenate(self._waiting)
        if len(whole):
            self._run(whole)
        return self._sum / self._count

    def _run(self, x: np.ndarray) -> None:
        part = keras.ops.convert_to_tensor(x)
        if not self._operation.built:
            self._operation(part)
            load_weights(self._operation, self._layer)
        outputs = keras.ops.convert_to_numpy(self._operation(part))
        rows = outputs.reshape(-1, outputs.shape[-1])
        # What was there comes first: sums go on row by row, as over all samples at once.
        before = np.zeros((0, rows.shape[1])) if self._sum is None else self._sum[None]
        self._sum = np.concatenate([before, rows], axis=0, dtype=np.float64).sum(axis=0)
        self._count += len(rows)
