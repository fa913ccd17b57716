"""Regression on blocks of columns, one block at a time: what each block left would explain.

With columns Z and targets U, G = Z'Z/N + ridge I and B = Z'U/N, a block of columns j explains
B_j' G_jj^-1 B_j of the targets' mean squares. Conditioning on a block takes what it explains out
of G and B. It needs one new column (per column of the block) of the residual Gram matrix and of its
partial Cholesky factor. The matrix itself need not be formed; where it may be, columns come out of
it at once, and what blocks took is taken out of it many blocks at a time.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import linalg

_PENDING = 64  # rank-one updates that are gathered into one product
_WIDE = 8  # columns a block from which batched products beat loops over the columns


def rows_by_channel(columns: np.ndarray, channel_of: np.ndarray) -> np.ndarray:
    """Returns every channel's columns as rows, padded to the widest channel with zeros.

    A column of zeros has no covariance with anything and adds no distance: padding changes no
    value of either estimator.

    Args:
      columns: `[samples, columns]`.
      channel_of: `[columns]`, the channel that each column observes.

    Returns:
      `[width, channels, samples]`, of the columns' type.
    """
    counts = np.bincount(channel_of)
    rows = np.zeros((counts.max(), len(counts), len(columns)), columns.dtype)
    ordered = np.argsort(channel_of, kind="stable")
    place = np.arange(len(channel_of)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows[place, channel_of[ordered]] = columns.T[ordered]
    return rows


class BlockSystem:
    """A regression that is conditioned on its blocks one after the other.

    The blocks that are left occupy the first `live` places; the last of them moves into the place
    of the one that is conditioned on, so that the work shrinks with them.

    Args:
      rows: `[width, blocks, samples]`, as from `rows_by_channel`; used up by the system.
      targets: `[samples, targets]`.
      ridge: Added to the diagonal of G.
      whole: Whether G is kept as a whole, which is faster for thousands of columns; it has the
        square of their number of values.
    """

    def __init__(self, rows: np.ndarray, targets: np.ndarray, ridge: float, *, whole: bool = False):
        width, blocks, samples = rows.shape
        self.live = blocks
        self._rows = rows
        kind = _ChannelFactor if width * blocks <= samples else _SampleFactor
        self._factor = (_WholeGram if whole else kind)(rows, ridge)
        self._diagonal = np.einsum("scn,tcn->stc", rows, rows) / samples
        self._diagonal += ridge * np.eye(width, dtype=rows.dtype)[:, :, None]
        flat = rows.reshape(-1, samples)
        cross = targets.T.astype(rows.dtype) @ flat.T
        self._cross = cross.reshape(-1, width, blocks) / samples

    def gains(self) -> np.ndarray:
        """What each block that is left explains of each target's mean square, `[targets, live]`."""
        return _block_gains(self._diagonal[..., : self.live], self._cross[..., : self.live])

    def condition(self, pick: int) -> None:
        """Conditions on the block at place `pick`; the last live one moves there."""
        live, width = self.live, len(self._rows)
        columns = self._factor.columns(pick, live)
        root = linalg.cholesky(columns[:, pick], lower=True)
        new = linalg.solve_triangular(root, columns.reshape(-1, width).T, lower=True)
        said = linalg.solve_triangular(root, self._cross[:, :, pick].T, lower=True)
        new = new.reshape(width, width, live)
        if width > _WIDE:
            rows = new.transpose(2, 1, 0)
            self._diagonal[..., :live] -= (rows @ rows.swapaxes(1, 2)).transpose(1, 2, 0)
            said_of = said.T @ new.reshape(width, -1)
            self._cross[..., :live] -= said_of.reshape(-1, width, live)
        else:
            for added, part in zip(new, said, strict=True):
                self._cross[..., :live] -= part[:, None, None] * added
                self._diagonal[..., :live] -= added[:, None] * added[None]
        self._factor.condition(new.transpose(1, 2, 0), root)
        last = live - 1
        self._factor.move(last, pick)
        for array in (self._rows.swapaxes(1, 2), self._diagonal, self._cross):
            array[..., pick] = array[..., last]
        self.live = last


class _ChannelFactor:
    """Residual Gram columns from the Cholesky factor's rows: for no more columns than samples."""

    def __init__(self, rows: np.ndarray, ridge: float):
        width, channels, self._samples = rows.shape
        self._rows, self._ridge, self._used = rows, ridge, 0
        self._factor = np.zeros((width, channels, width * channels), rows.dtype)

    def columns(self, pick: int, live: int) -> np.ndarray:
        """Returns the residual Gram columns of one channel, `[width, live, width]`."""
        gram = self._gram_columns(pick, live)
        used = self._factor[:, :, : self._used]
        gram -= used[:, :live] @ used[:, pick].T
        gram[:, pick] += self._ridge * np.eye(len(gram), dtype=gram.dtype)
        return gram

    def _gram_columns(self, pick: int, live: int) -> np.ndarray:
        """The columns from which the factor's part is still to be taken."""
        return self._rows[:, :live] @ self._rows[:, pick].T / self._samples

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


class _WholeGram(_ChannelFactor):
    """The same columns out of the matrix itself, from which the factor is taken now and then."""

    def __init__(self, rows: np.ndarray, ridge: float):
        width, channels, samples = rows.shape
        self._ridge, self._used = ridge, 0
        self._factor = np.zeros((width, channels, _PENDING + width), rows.dtype)
        flat = rows.reshape(-1, samples)
        gram = flat @ flat.T
        gram /= samples
        self._gram = gram.reshape(width, channels, width, channels)

    def _gram_columns(self, pick: int, live: int) -> np.ndarray:
        return self._gram[:, pick, :, :live].transpose(1, 2, 0).copy()

    def condition(self, new: np.ndarray, root: np.ndarray) -> None:
        """Appends the new factor columns; many are taken out of the matrix at once."""
        super().condition(new, root)
        width, live, _ = new.shape
        if self._used >= _PENDING:
            used = self._factor[:, :live, : self._used]
            for row, column in itertools.product(range(width), repeat=2):
                self._gram[row, :live, column, :live] -= used[row] @ used[column].T
            self._used = 0

    def move(self, source: int, destination: int) -> None:
        """Lets the channel at `source` take the place of the picked one."""
        super().move(source, destination)
        self._gram[:, destination] = self._gram[:, source]
        self._gram[..., destination] = self._gram[..., source]


def _block_gains(blocks: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Returns B_j' G_jj^-1 B_j of every channel by elimination inside its own block.

    Args:
      blocks: `[width, width, channels]`, the residual G_jj.
      cross: `[targets, width, channels]`, the residual B_j.

    Returns:
      `[targets, channels]`, the gain in R2.
    """
    width = len(blocks)
    if width > _WIDE:
        solved = np.linalg.solve(blocks.transpose(2, 0, 1), cross.transpose(2, 1, 0))
        return np.einsum("twc,cwt->tc", cross, solved)
    if width > 1:
        blocks, cross = blocks.copy(), cross.copy()
    gains = np.square(cross[:, 0]) / blocks[0, 0]
    for row in range(1, width):
        ratio = blocks[row - 1, row:] / blocks[row - 1, row - 1]
        cross[:, row:] -= cross[:, row - 1, None] * ratio
        blocks[row:, row:] -= blocks[row:, row - 1, None] * ratio
        gains += np.square(cross[:, row]) / blocks[row, row]
    return gains
