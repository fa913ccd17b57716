"""Accuracies, and R^2: how well a model does its task where no metric is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from tfmot_pam.metrics.marks import Scores


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


# What labels are -> scores whose mean is the accuracy.
SCORES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = MappingProxyType(
    {"classes": _classes, "distribution": _distribution, "binary": _binary, "real": _real}
)


def sample_scores(kind: str, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One number a sample, `[n]`; their mean is the accuracy, or R^2 for real-valued labels."""
    scores = np.asarray(SCORES[kind](outputs, labels), np.float64)
    return scores.reshape(len(scores), -1).mean(axis=1)


def accuracy_scores(
    kind: str, outputs: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None
) -> Scores:
    """The scores of samples; those without a label that counts are left out.

    Args:
        kind: What the labels are.
        outputs: A model's outputs.
        labels: The labels.
        counts: Which of them count; None for all.
    """
    if counts is None:
        return Scores(sample_scores(kind, outputs, labels))
    if kind == "real":
        scores = _real_with_gaps(outputs, labels, counts)
    else:
        scores = np.asarray(SCORES[kind](outputs, _filled(kind, labels, counts)), np.float64)
    counts = counts.reshape(len(scores), -1)
    scores = np.where(counts, scores.reshape(counts.shape), 0.0)
    entries = counts.sum(axis=1)
    kept = entries > 0
    entries = entries[kept].astype(np.float64)
    same = bool((entries == entries[0]).all())
    return Scores(scores[kept].sum(axis=1) / entries, None if same else entries / entries.mean())


def constant_accuracy(kind: str, labels: np.ndarray, counts: np.ndarray | None = None) -> float:
    """The accuracy of the best constant answer: what a network that has learnt nothing reaches."""
    if kind == "real":
        return 0.0
    if kind == "binary":
        filled = labels if counts is None else _filled(kind, labels, counts)
        positive = filled > (0.5 if filled.min() >= 0.0 else 0.0)
        positive = positive.reshape(len(labels), -1)
        weights = None if counts is None else counts.reshape(positive.shape)
        if weights is None:
            share = positive.mean(axis=0)
            return float(np.maximum(share, 1.0 - share).mean())
        ones, every = (positive & weights).sum(axis=0), weights.sum(axis=0)
        return float(np.maximum(ones, every - ones).sum() / every.sum())
    labels = labels if counts is None else labels[counts]
    if kind == "distribution":
        labels = labels.argmax(axis=-1)
    _, found = np.unique(labels, return_counts=True)
    return float(found.max() / found.sum())


def _filled(kind: str, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The labels with something harmless where they do not count."""
    if kind == "distribution":
        return np.where(counts[..., np.newaxis], labels, 0)
    return np.where(counts, labels, labels[counts].min())


def _real_with_gaps(outputs: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    shape = outputs.shape
    counts = counts.reshape(shape)
    labels = np.where(counts, labels.reshape(shape), 0.0)
    mean = labels.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)
    spread = np.where(counts, np.square(labels - mean), 0.0)
    variance = max(float(spread.sum() / counts.sum()), 1e-12)
    return 1.0 - np.square(outputs - labels) / variance
