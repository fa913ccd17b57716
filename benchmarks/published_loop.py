"""The formulas of the relevance estimators, transcribed directly: the slow reference.

Every step evaluates every candidate afresh from the selected columns, as the loop published with
PAM (He et al., KDD 2021) does; nothing is kept between candidates or steps. The tests compare the
library with it on small sizes, the benchmark times both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# What the library calls a tie: differences within rounding must not decide between channels.
_TIE = 1e-12


def squared_distances(columns: np.ndarray) -> np.ndarray:
    """Returns |x_i - x_j|^2 of all pairs of samples, by matrix product as published."""
    squares = np.sum(columns**2, axis=1)
    return np.maximum(squares[:, None] + squares - 2.0 * columns @ columns.T, 0.0)


def mixture_entropy(columns: np.ndarray, variance: float) -> float:
    """Returns the upper bound of a Gaussian mixture's entropy, less d/2 log(2 pi e s2).

    Source: Kolchinsky & Tracey, Estimating Mixture Entropy with Pairwise Distances, 2017.
    """
    kernel = np.exp(-squared_distances(columns) / (2.0 * variance))
    return -np.mean(np.log(np.mean(kernel, axis=1)))


def kde_relevance(columns: np.ndarray, labels: np.ndarray, variance: float = 0.1) -> float:
    """Returns sum_l I(X; Y_l) in nats as H(X) - sum_y p_y H(X | Y_l = y).

    Args:
      columns: `[samples, columns]` of the set X.
      labels: `[samples, labels]`, any discrete values.
      variance: noise variance s2 of the kernel.
    """
    entropy = mixture_entropy(columns, variance)
    relevance = 0.0
    for label in labels.T:
        relevance += entropy
        for value in np.unique(label):
            chosen = label == value
            relevance -= np.mean(chosen) * mixture_entropy(columns[chosen], variance)
    return relevance


def kde_closed_form(
    columns: np.ndarray, labels: np.ndarray, variance: float = 0.1, prior_weight: float = 0.0
) -> float:
    """Returns sum_l H(Y_l) + 1/N sum_i log(sum_{same label} K_ij / sum_j K_ij), in nats.

    Args:
      columns: `[samples, columns]` of the set X.
      labels: `[samples, labels]`, any discrete values.
      variance: noise variance s2 of the kernel.
      prior_weight: if positive, the diagonal is left out and the label's frequency enters with
        this weight.
    """
    difference = columns[:, None] - columns[None]
    kernel = np.exp(-np.sum(difference**2, axis=2) / (2.0 * variance))
    if prior_weight:
        np.fill_diagonal(kernel, 0.0)
    relevance = 0.0
    for label in labels.T:
        same = label[:, None] == label
        frequency = same.mean(axis=1)
        share = np.sum(kernel * same, axis=1) + prior_weight * frequency
        share = share / (np.sum(kernel, axis=1) + prior_weight)
        relevance += np.mean(np.log(share) - np.log(frequency))
    return relevance


def gaussian_relevance(columns: np.ndarray, targets: np.ndarray, ridge: float) -> float:
    """Returns sum_l -1/2 log(1 - R2_l) in nats by inverting the ridge Gram matrix of the set.

    Args:
      columns: `[samples, columns]` of the set X, standardised.
      targets: `[samples, targets]`, standardised.
      ridge: added to the diagonal of the Gram matrix.
    """
    samples, width = columns.shape
    inverse = np.linalg.inv(columns.T @ columns / samples + ridge * np.eye(width))
    cross = columns.T @ targets / samples
    explained = np.diag(cross.T @ inverse @ cross)
    return float(np.sum(-0.5 * np.log(1.0 - np.minimum(explained, 0.999))))


def greedy_path(
    columns: np.ndarray,
    channel_of: np.ndarray,
    relevance: Callable[[np.ndarray], float],
    steps: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order in which channels enter the irrelevant set and the value after each step.

    Args:
      columns: `[samples, columns]`.
      channel_of: `[columns]`, the channel that each column observes.
      relevance: estimates the relevance of a set from its columns.
      steps: how many channels to pick; all by default.
    """
    channels = int(channel_of.max()) + 1
    selected: list[int] = []
    values: list[float] = []
    for _ in range(channels if steps is None else steps):
        best, best_value = -1, np.inf
        for candidate in range(channels):
            if candidate in selected:
                continue
            value = relevance(columns[:, np.isin(channel_of, [*selected, candidate])])
            if value < best_value - _TIE * max(1.0, abs(value)):
                best, best_value = candidate, value
        selected.append(best)
        values.append(best_value)
    return np.array(selected), np.array(values)
