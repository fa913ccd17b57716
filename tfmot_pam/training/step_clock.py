"""How far a training is, and how much of it is its steps and not the making of its graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras

_INTERVAL = 0.25  # seconds, at least, between what a `StepWatch` tells


class StepClock(keras.callbacks.Callback):
    """Measures the time of training steps, without what the first one takes to be compiled.

    Attributes:
        seconds: Time of all steps since the clock was made; the first of every training counts as
            much as a mean one of the others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._steps, self._after_first, self._last = 0, 0.0, 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._last = time.perf_counter()
        self._steps += 1
        if self._steps == 1:
            self._after_first = self._last

    def on_train_end(self, logs: Any = None) -> None:
        others = self._steps - 1
        if others > 0:
            self.seconds += (self._last - self._after_first) * self._steps / others


class StepWatch(keras.callbacks.Callback):
    """Tells how many epochs of a training are done, a few times a second.

    Args:
        tell: Takes the epochs, of which the last is a part.
    """

    def __init__(self, tell: Callable[[float], None]):
        super().__init__()
        self._tell, self._epoch, self._next = tell, 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._tell(self._epoch + (batch + 1) / (self.params.get("steps") or batch + 1))
