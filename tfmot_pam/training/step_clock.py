"""How much of a training is its steps, and not the making of its graph."""

from __future__ import annotations

import time

import keras


class StepClock(keras.callbacks.Callback):
    """Measures the time of training steps, without what the first one takes to be compiled.

    Attributes:
        seconds: Time of all steps since the clock was made; the first of every training counts as
            much as a mean one of the others.
    """

    def __init__(self):
        super().__init__()
        self.seconds = 0.0
        self._steps, self._after_first, self._last = 0, 0.0, 0.0

    def on_train_begin(self, logs=None) -> None:
        self._steps = 0

    def on_train_batch_end(self, batch, logs=None) -> None:
        self._last = time.perf_counter()
        self._steps += 1
        if self._steps == 1:
            self._after_first = self._last

    def on_train_end(self, logs=None) -> None:
        others = self._steps - 1
        if others > 0:
            self.seconds += (self._last - self._after_first) * self._steps / others
