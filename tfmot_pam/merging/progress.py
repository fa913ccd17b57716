"""One Keras progress bar for the stages of a merge."""

from __future__ import annotations

import sys
from collections.abc import Callable

import keras


class Progress:
    """A bar of 100 steps, of which every stage of the work is given a share.

    Args:
        verbose: 0 for silence, 1 for a bar that moves, 2 for one line at the end; `"auto"` is 1
            on a terminal and 2 elsewhere.
    """

    def __init__(self, verbose: int | str):
        if verbose == "auto":
            verbose = 1 if sys.stdout.isatty() else 2
        # At most 100 updates: none of them need be skipped for speed.
        self._bar = keras.utils.Progbar(100, verbose=verbose, interval=0, unit_name="percent")
        self._verbose = verbose
        self._done = 0
        self._stage = (0, 0)

    def stage(self, share: int) -> Callable[[float], None]:
        """Begins a stage; the function returned takes its progress, 0 to 1."""
        self._stage = (sum(self._stage), share)
        start, share = self._stage

        def update(fraction: float) -> None:
            reached = start + int(share * fraction)
            if self._verbose and reached > self._done:
                self._done = reached
                self._bar.update(reached)

        return update

    def rest(self) -> Callable[[float], None]:
        """Begins the last stage, which fills the bar."""
        return self.stage(100 - sum(self._stage))
