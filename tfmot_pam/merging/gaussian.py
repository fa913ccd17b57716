"""The `gaussian` relevance estimator: mutual information of a jointly Gaussian model.

With standardised channels Z, standardised targets U and G = Z'Z/N + ridge I, the channels X say
R2_l(X) = B_X' G_XX^-1 B_X about target l (B = Z'U/N), and I(X; Y) = sum_l -1/2 log(1 - R2_l(X)).
The greedy path conditions what is left on every channel it picks. It needs one new column (per
picked column) of the residual Gram matrix and of its partial Cholesky factor per step; the matrix
itself is never formed, let alone updated.

Source: the greedy loop is step 2 of PAM (He et al., KDD 2021, section 4); the estimator replaces
the paper's kernel estimate.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from tfmot_pam.merging import greedy
from tfmot_pam.merging.observations import Observations
from tfmot_pam.merging.targets import Targets

_CEILING = 0.999  # of R2: keeps the logarithm finite
_LEAST_RIDGE = 0.01
_SHUFFLES = 5
# Columns from which single precision is used: half the memory traffic of the products per step,
# whose rounding is far below the ridge of so many columns.
_SINGLE_PRECISION_FROM = 1024
_PENDING = 64  # rank-one updates that are gathered into one product


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
    if not 0.0 < ridge < np.inf:
        raise ValueError(
            f"Received ridge={ridge}; expected a positive number, without which duplicate "
            "channels have no solution. Leave it out for the default."
        )
    rng = np.random.default_rng(seed)
    shuffled = [labels[rng.permutation(samples)] for _ in range(_SHUFFLES)]
    explained = _joint(standard, np.hstack([labels, *shuffled]), ridge)
    full, *null = _nats(explained.reshape(1 + _SHUFFLES, -1))
    if columns > _SINGLE_PRECISION_FROM:
        standard = standard.astype(np.float32)
    rows = greedy.rows_by_channel(standard, observations.channel_of)
    del standard
    # Imported here because it sets an environment variable when it is imported.
    from threadpoolctl import threadpool_limits

    # The loop's many small products only wait for each other when several threads share them.
    with threadpool_limits(1, user_api="blas"):
        order, values = _greedy(rows, labels, ridge)
    return order, values, float(full), greedy.null_level(np.array(null))


class _ChannelFactor:
    """Residual Gram columns from the Cholesky factor's rows: for no more columns than samples."""

    def __init__(self, rows: np.ndarray, ridge: float):
        width, channels, self._samples = rows.shape
        self._rows, self._ridge, self._used = rows, ridge, 0
        self._factor = np.zeros((width, channels, width * channels), rows.dtype)

    def columns(self, pick: int, live: int) -> np.ndarray:
        """Returns the residual Gram columns of one channel, `[width, live, width]`."""
        gram = self._rows[:, :live] @ self._rows[:, pick].T / self._samples
        used = self._factor[:, :, : self._used]
        gram -= used[:, :live] @ used[:, pick].T
        gram[:, pick] += self._ridge * np.eye(len(gram), dtype=gram.dtype)
        return gram

    def condition(self, new: np.ndarray, root: np.ndarray) -> None:
        """Appends the new factor columns."""
        del root
        width, live, added = new.shape
        self._factor[:, :live, self._used : self._used + added] = new
        self._used += added

    def move(self, source: int, destination: int) -> None:
        """Lets the channel at `source` take the place of the picked one."""
        self._factor[:, destination, : self._used] = self._factor[:, source, : self._used]


class _SampleFactor:
    """The same columns through the samples: for more columns than samples.

    The factor has rank N at most, so the projection P = (I + Z_S Z_S' / (N ridge))^-1, N x N,
    holds all of it: a residual Gram column is Z' P z / N. Its rank-one updates are gathered, and
    applied many at a time.
    """

    def __init__(self, rows: np.ndarray, ridge: float):
        self._rows, self._ridge = rows, ridge
        self._samples = rows.shape[2]
        self._projection = np.eye(self._samples, dtype=rows.dtype)
        self._pending = np.zeros((self._samples, 0), rows.dtype)
        self._projected = self._pending

    def columns(self, pick: int, live: int) -> np.ndarray:
        """Returns the residual Gram columns of one channel, `[width, live, width]`."""
        picked = self._rows[:, pick].T
        late = self._pending @ (self._pending.T @ picked) / self._samples
        self._projected = self._projection @ picked - late
        gram = self._rows[:, :live] @ self._projected / self._samples
        gram[:, pick] += self._ridge * np.eye(len(gram), dtype=gram.dtype)
        return gram

    def condition(self, new: np.ndarray, root: np.ndarray) -> None:
        """Projects the picked channel out of the sample space."""
        del new
        said = linalg.solve_triangular(root, self._projected.T, lower=True).T
        self._pending = np.hstack([self._pending, said])
        if self._pending.shape[1] >= _PENDING:
            self._projection -= self._pending @ self._pending.T / self._samples
            self._pending = np.zeros((self._samples, 0), self._rows.dtype)

    def move(self, source: int, destination: int) -> None:
        """Nothing here is kept per channel."""


def _block_gains(blocks: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Returns B_j' G_jj^-1 B_j of every channel by elimination inside its own block.

    Args:
      blocks: `[width, width, channels]`, the residual G_jj.
      cross: `[targets, width, channels]`, the residual B_j.

    Returns:
      `[targets, channels]`, the gain in R2.
    """
    width = len(blocks)
    if width > 1:
        blocks, cross = blocks.copy(), cross.copy()
    gains = np.square(cross[:, 0]) / blocks[0, 0]
    for row in range(1, width):
        ratio = blocks[row - 1, row:] / blocks[row - 1, row - 1]
        cross[:, row:] -= cross[:, row - 1, None] * ratio
        blocks[row:, row:] -= blocks[row:, row - 1, None] * ratio
        gains += np.square(cross[:, row]) / blocks[row, row]
    return gains


def _greedy(rows: np.ndarray, targets: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order in which channels are picked and the joint value after each step.

    The channels not picked yet occupy the first `live` places of every array; the last of them
    moves into the place that a pick leaves, so that the work shrinks with the candidates.
    """
    width, channels, samples = rows.shape
    factor = (_ChannelFactor if width * channels <= samples else _SampleFactor)(rows, ridge)
    blocks = np.einsum("scn,tcn->stc", rows, rows) / samples
    blocks += ridge * np.eye(width, dtype=rows.dtype)[:, :, None]
    flat = rows.reshape(-1, samples)
    cross = (targets.T.astype(rows.dtype) @ flat.T).reshape(-1, width, channels) / samples
    index = np.arange(channels)
    explained = np.zeros(targets.shape[1])
    values = np.empty(channels)
    for step in range(channels):
        live = channels - step
        reached = explained[:, None] + _block_gains(blocks[..., :live], cross[..., :live])
        joint = -0.5 * np.log(1.0 - np.minimum(reached, _CEILING)).sum(axis=0)
        pick = greedy.first_minimum(joint, index[:live])
        values[step], explained = joint[pick], reached[:, pick]
        columns = factor.columns(pick, live)
        root = linalg.cholesky(columns[:, pick], lower=True)
        new = linalg.solve_triangular(root, columns.reshape(-1, width).T, lower=True)
        said = linalg.solve_triangular(root, cross[:, :, pick].T, lower=True)
        new = new.reshape(width, width, live)
        for added, part in zip(new, said, strict=True):
            cross[..., :live] -= part[:, None, None] * added
            blocks[..., :live] -= added[:, None] * added[None]
        factor.condition(new.transpose(1, 2, 0), root)
        last = live - 1
        factor.move(last, pick)
        for array in (rows.swapaxes(1, 2), blocks, cross):
            array[..., pick] = array[..., last]
        index[pick], index[last] = index[last], index[pick]
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
