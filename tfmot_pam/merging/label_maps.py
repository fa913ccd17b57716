"""Labels as numbers: what they are, and maps of them as one row per image.

Maps are read a few images at a time: masks and counts of all of them take many times their memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tfmot_pam.data.missing import VOID, counted

_VALUES = 1 << 14  # of maps that are looked at at once


def checked(values: np.ndarray, what: str, gaps: bool = False) -> np.ndarray:
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


def is_whole(values: np.ndarray) -> bool:
    """Whether checked values are integers."""
    return values.dtype.kind == "i"


def holds_only(values: np.ndarray, low: int, high: int) -> bool:
    """Whether all values are one of two."""
    return bool(((values == low) | (values == high)).all())


def is_one_hot(values: np.ndarray) -> bool:
    """Whether every row of the last axis has a single one among zeros."""
    return holds_only(values, 0, 1) and bool((values.sum(axis=-1) == 1).all())


def label_kind(labels: np.ndarray, parts: Iterable[np.ndarray]) -> str:
    """What labels are: `"binary"`, `"classes"` or `"real"`.

    Args:
      labels: all of them, of which the shape counts.
      parts: the same, checked, in pieces.
    """
    plain = labels.ndim == 1 or labels.shape[-1] == 1 or labels.ndim == 3
    signs = bits = whole = True
    for part in parts:
        values = part[part != VOID]
        signs, bits = signs and holds_only(values, -1, 1), bits and holds_only(values, 0, 1)
        whole = is_whole(part)
    if signs or (not plain and bits):
        return "binary" if whole else "real"
    return "classes" if whole and plain else "real"


def counted_labels(labels: np.ndarray, kind: str, classes: int | None) -> np.ndarray | None:
    """Which labels count; None where all do."""
    # 255 is a class where it is not known how many there are.
    return counted(labels, kind, VOID + 1 if classes is None and kind == "classes" else classes)


def rows_of_maps(
    labels: np.ndarray, classes: int | None, what: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Maps as one row per image: the frequency of each class, or the mean of each target.

    Args:
      labels: class indices `[samples, height, width]` or `[samples, height, width, 1]`; one-hot or
        real `[samples, height, width, targets]`; likewise of other ranks from 3 on.
      classes: number of the task's outputs; None takes 255 for a class.
      what: names the labels in errors.

    Returns:
      float64 `[samples, classes or targets]`, where images without any of a target have its mean
      over the others, and which images have labels that count, bool `[samples]`; None in its place
      where all labels do.

    Raises:
      ValueError: if they are empty or infinite.
    """
    kind = label_kind(labels, _parts(labels, what))
    if all(counted_labels(part, kind, classes) is None for part in _parts(labels, what)):
        return _means(labels, what), None
    return _means_of_known(labels, kind, classes, what)


def _parts(labels: np.ndarray, what: str) -> Iterator[np.ndarray]:
    """The labels of a few images at a time, checked."""
    images = max(_VALUES // max(int(np.prod(labels.shape[1:])), 1), 1)
    for start in range(0, max(len(labels), 1), images):
        yield checked(labels[start : start + images], what, gaps=True)


def _means(labels: np.ndarray, what: str) -> np.ndarray:
    """The rows where all labels count."""
    is_map = labels.shape[-1] == 1 or (
        labels.ndim == 3 and not all(is_one_hot(part) for part in _parts(labels, what))
    )
    whole = labels.dtype.kind != "f"
    if is_map and whole:
        present = _unique(_parts(labels, what))
        size = int(np.prod(labels.shape[1:]))
        rows = [_frequencies(part, present) / size for part in _parts(labels, what)]
    elif is_map:
        rows = [
            part.reshape(len(part), -1).mean(axis=1, keepdims=True) for part in _parts(labels, what)
        ]
    else:
        axes = tuple(range(1, labels.ndim - 1))
        rows = [part.mean(axis=axes) for part in _parts(labels, what)]
    return np.concatenate(rows)


def _means_of_known(
    labels: np.ndarray, kind: str, classes: int | None, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """The rows over what counts, and which images have some of it."""

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part in _parts(labels, what):
            known = counted_labels(part, kind, classes)
            yield part, np.ones(part.shape, bool) if known is None else known

    if labels.dtype.kind != "f":
        present = _unique(part[known] for part, known in pairs())
        found = [
            (_frequencies(part, present, known), known.reshape(len(part), -1).sum(axis=1)[:, None])
            for part, known in pairs()
        ]
    else:
        found = [_sums(part, known) for part, known in pairs()]
    sums, entries = (np.concatenate(parts) for parts in zip(*found, strict=True))
    entries = np.broadcast_to(entries, sums.shape)
    counts = np.asarray(entries.any(axis=1))
    everywhere = sums[counts].sum(axis=0) / np.maximum(entries[counts].sum(axis=0), 1)
    return np.where(entries > 0, sums / np.maximum(entries, 1), everywhere), counts


def _sums(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image's sum of what counts, and how much that is, `[images, targets]`."""
    width = 1 if values.ndim == 3 else values.shape[-1]
    values = values.reshape(len(values), -1, width).astype(np.float64)
    known = known.reshape(values.shape)
    return np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)


def _unique(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.unique(part) for part in parts]))


def _frequencies(
    maps: np.ndarray, present: np.ndarray, known: np.ndarray | None = None
) -> np.ndarray:
    """How often each of some classes occurs in each image, `[images, classes]`."""
    flat = maps.reshape(len(maps), -1)
    counts = np.empty((len(maps), len(present)))
    for place, value in enumerate(present):
        hits = flat == value
        if known is not None:
            hits &= known.reshape(flat.shape)
        counts[:, place] = hits.sum(axis=1)
    return counts
