"""The `gaussian` relevance estimator: mutual information of a jointly Gaussian model.

With standardised channels Z, standardised targets U and G = Z'Z/N + ridge I, the channels X say
R2_l(X) = B_X' G_XX^-1 B_X about target l (B = Z'U/N), and I(X; Y) = sum_l -1/2 log(1 - R2_l(X)).
The greedy path conditions what is left on every channel it picks (`BlockSystem`).

Source: the greedy loop is step 2 of PAM (He et al., KDD 2021, section 4); the estimator replaces
the paper's kernel estimate.
"""

from __future__ import annotations

import numbers

import numpy as np
from scipy import linalg

from tfmot_pam.closed_form.blocks import BlockSystem, rows_by_channel
from tfmot_pam.merging import greedy
from tfmot_pam.merging.observations import Observations
from tfmot_pam.merging.targets import Targets

_CEILING = 0.999  # of R2: keeps the logarithm finite
_LEAST_RIDGE = 0.01
_SHUFFLES = 5
# Columns from which single precision is used: half the memory traffic of the products per step,
# whose rounding is far below the ridge of so many columns; and up to which their Gram matrix is
# kept, of 1 GiB.
_SINGLE_PRECISION_FROM, _WHOLE_UP_TO = 1024, 16384


def gaussian_path(
    observations: Observations, targets: Targets, *, seed: int = 0, ridge: float | None = None
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Runs the greedy path with the relevance of a jointly Gaussian model.

    The default of `relevance_path`: it takes any kind of target and is the cheapest.

    Args:
      observations: what the channels show on the calibration samples.
      targets: the task's targets on the same samples.
      seed: seed of the label shuffles behind the null level.
      ridge: added to the diagonal of the channels' correlation matrix. The default is the number
        of columns per sample, which is the share of a target that chance explains, and at least
        0.01. The order of removal hardly depends on it; the null level does: with as many columns
        as samples a ridge of 0.01 leaves noise at 0.5 to 0.8 of the full value, the default at
        0.2 to 0.5.

    Returns:
      The order of the channels, the joint value in nats after each, the value of all channels and
      its null level.

    Raises:
      ValueError: if `ridge` is not positive.
    """
    standard = greedy.standardised(observations.columns)
    labels = greedy.standardised(targets.matrix())
    samples, columns = standard.shape
    ridge = max(_LEAST_RIDGE, columns / samples) if ridge is None else ridge
    if not (isinstance(ridge, numbers.Real) and 0.0 < float(ridge) < np.inf):
        raise ValueError(
            f"Received ridge={ridge}; expected a positive number, without which duplicate "
            "channels have no solution. Leave it out for the default."
        )
    rng = np.random.default_rng(seed)
    shuffled = [labels[rng.permutation(samples)] for _ in range(_SHUFFLES)]
    ridge = float(ridge)
    explained = _joint(standard, np.hstack([labels, *shuffled]), ridge)
    full, *null = _nats(explained.reshape(1 + _SHUFFLES, -1))
    if columns > _SINGLE_PRECISION_FROM:
        standard = standard.astype(np.float32)
    rows = rows_by_channel(standard, observations.channel_of)
    del standard
    # Imported here because it sets an environment variable when it is imported.
    from threadpoolctl import threadpool_limits

    # The loop's many small products only wait for each other when several threads share them.
    with threadpool_limits(1, user_api="blas"):
        order, values = _greedy(rows, labels, ridge)
    return order, values, float(full), greedy.null_level(np.array(null))


def _greedy(rows: np.ndarray, targets: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order in which channels are picked and the joint value after each step."""
    width, channels, _ = rows.shape
    whole = _SINGLE_PRECISION_FROM < width * channels <= _WHOLE_UP_TO
    system = BlockSystem(rows, targets, ridge, whole=whole)
    index = np.arange(system.live)
    explained = np.zeros(targets.shape[1])
    values = np.empty(system.live)
    for step in range(len(values)):
        live = system.live
        reached = explained[:, None] + system.gains()
        joint = -0.5 * np.log(1.0 - np.minimum(reached, _CEILING)).sum(axis=0)
        pick = greedy.first_minimum(joint, index[:live])
        values[step], explained = joint[pick], reached[:, pick]
        system.condition(pick)
        index[pick], index[live - 1] = index[live - 1], index[pick]
    return index[::-1].copy(), values


def _joint(standard: np.ndarray, targets: np.ndarray, ridge: float) -> np.ndarray:
    """Returns the R2 of all channels together about each target column.

    One factorisation of the smaller of the two Gram matrices; shuffled targets are more columns.
    """
    samples, columns = standard.shape
    if columns <= samples:
        gram = standard.T @ standard / samples
        gram.flat[:: columns + 1] += ridge
        cross = standard.T @ targets / samples
        solved = linalg.cho_solve(linalg.cho_factor(gram, overwrite_a=True), cross)
        return np.einsum("cl,cl->l", cross, solved)
    gram = standard @ standard.T / samples
    gram.flat[:: samples + 1] += ridge
    solved = linalg.cho_solve(linalg.cho_factor(gram, overwrite_a=True), targets)
    left = ridge * np.einsum("nl,nl->l", targets, solved)
    return (np.einsum("nl,nl->l", targets, targets) - left) / samples


def _nats(explained: np.ndarray) -> np.ndarray:
    """Returns sum_l -1/2 log(1 - R2_l) over the last axis."""
    return -0.5 * np.log(1.0 - np.minimum(explained, _CEILING)).sum(axis=-1)
