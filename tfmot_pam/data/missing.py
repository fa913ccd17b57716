"""Labels that are none: classes to ignore, and gaps in real-valued targets."""

from __future__ import annotations

import numpy as np

VOID = 255  # what image files of eight bits hold where there is no class


def missing(y: np.ndarray) -> np.ndarray | None:
    """Which entries are NaN, in the labels' shape; None where none is."""
    if y.dtype.kind != "f":
        return None
    gaps = np.isnan(y)
    return gaps if gaps.any() else None


def counted(y: np.ndarray, kind: str, width: int | None) -> np.ndarray | None:
    """Which labels count; the others are as if they were not there.

    Of class indices those do not that are negative, or 255 where that is no class; of 0/1 and
    -1/+1 labels 255; NaN never does. A row of probabilities counts as a whole or not at all.

    Args:
        y: Labels, `[n, ...]`.
        kind: `"classes"`, `"distribution"`, `"binary"`, or anything else for real values.
        width: Number of classes, None where it is not known.

    Returns:
        bool of the labels' shape, without the last axis for `"distribution"`; None where all count.

    Example:
    >>> counted(np.array([0, 255, 2, -1]), "classes", 3).tolist()
    [True, False, True, False]
    >>> counted(np.array([0, 255]), "classes", 256) is None
    True
    """
    gaps = missing(y)
    if kind == "distribution":
        return None if gaps is None else ~np.any(gaps, axis=-1)
    found = np.zeros(y.shape, bool) if gaps is None else gaps
    if kind == "classes":
        found = found | (y < 0)
    if kind == "binary" or (kind == "classes" and (width is None or width <= VOID)):
        found = found | (y == VOID)
    return ~found if found.any() else None


def may_have_gaps(y: np.ndarray | None) -> bool:
    """Whether some labels may not count, whatever they are."""
    return y is not None and (missing(y) is not None or bool((y == VOID).any()))
