"""What the relevance estimators share: standardising, tie-breaking, the null level."""

from __future__ import annotations

import numpy as np

# Values closer than this are one value: in exact arithmetic they tie, and rounding must not decide.
_TIE = 1e-12


def standardised(columns: np.ndarray) -> np.ndarray:
    """Returns the columns with mean 0 and variance 1; a constant column becomes 0.

    Args:
      columns: `[samples, columns]`, real.

    Returns:
      `[samples, columns]`, float64.
    """
    centred = np.array(columns, np.float64)
    largest = np.abs(centred).max(axis=0)
    centred -= centred.mean(axis=0)
    deviation = np.sqrt(np.mean(np.square(centred), axis=0))
    # A spread within float32 rounding of the magnitude is no signal: dividing by it makes noise.
    dead = deviation <= 1e-6 * largest
    centred /= np.where(dead, 1.0, deviation)
    centred[:, dead] = 0.0
    return centred


def first_minimum(values: np.ndarray, index: np.ndarray) -> int:
    """Returns the position of the smallest value; among equal ones that of the smallest index.

    Args:
      values: `[candidates]`, in nats.
      index: `[candidates]`, the candidates' own numbers, which decide ties.
    """
    lowest = values.min()
    tied = np.flatnonzero(values <= lowest + _TIE * max(1.0, abs(lowest)))
    return int(tied[np.argmin(index[tied])])


def null_level(shuffled: np.ndarray) -> float:
    """Returns what a task without relevance would show: mean + 2 deviations over the shuffles.

    Args:
      shuffled: relevance in nats, one entry per shuffle of the labels.
    """
    return float(np.mean(shuffled) + 2.0 * np.std(shuffled))
