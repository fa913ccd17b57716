"""The `kde` relevance estimator: pairwise kernels between samples, the PAM paper's own.

With D_ij = |x_i - x_j|^2 and K = exp(-D / (2 s2)),

    I(X; Y_l) = H(Y_l) + 1/N sum_i log(sum_{j: y_jl = y_il} K_ij / sum_j K_ij)

is the difference of the mixture entropy bounds H(X) - sum_y p_y H(X | y); labels add up. Distances
add over channels, so the kernel of a set is the product of its channels' kernels: the sums of all
candidates of a step are, per sample, one matrix product of the candidates' fixed kernels with the
selected set's kernel masked by label. In the paper's mode the greedy loop has neither candidate
exponentials nor candidate distances, and its results are those of the published loop.

Sources: PAM, He et al., KDD 2021, section 4; Kolchinsky & Tracey, Estimating Mixture Entropy with
Pairwise Distances, 2017.
"""

from __future__ import annotations

import os
from concurrent import futures

import numpy as np

from tfmot_pam.closed_form.blocks import rows_by_channel
from tfmot_pam.merging import greedy
from tfmot_pam.merging.observations import Observations
from tfmot_pam.merging.targets import Targets

_NOISE_VARIANCE = 0.1
_SCALED_VARIANCE = 0.3  # per column of the set
_PRIOR_WEIGHT = 1e-3  # of the label's frequency, where leaving a sample out leaves no neighbour
_SHUFFLES = 5
_BLOCK_BYTES = 16 * 2**20
_SERIAL_ENTRIES = 2**20  # kernel entries: below, handing work to threads costs more than it saves
_STORED_BYTES = 2**30


def kde_path(
    observations: Observations,
    targets: Targets,
    *,
    seed: int = 0,
    standardize: bool = False,
    bandwidth: float | str = _NOISE_VARIANCE,
    leave_one_out: bool = False,
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Runs the greedy path with the paper's kernel estimate.

    Use it to reproduce the paper, or where relevance is not linear. As published (the defaults) it
    saturates at the labels' entropy from about 16 channels of unit scale on; standardised channels
    with a scaled bandwidth and `leave_one_out` do not.

    Args:
      observations: what the channels show on the calibration samples.
      targets: class or binary labels on the same samples.
      seed: seed of the label shuffles behind the null level.
      standardize: whether to bring every column to mean 0 and variance 1 first.
      bandwidth: noise variance s2 of the kernel, or `"scaled"`: 0.3 per column of the set.
      leave_one_out: whether a sample is left out of its own sums. Values may then fall below 0
        and above the labels' entropy.

    Returns:
      The order of the channels, the joint value in nats after each, the value of all channels and
      its null level.

    Raises:
      ValueError: if the targets are real-valued or the bandwidth is no positive number.
    """
    if bandwidth != "scaled" and (isinstance(bandwidth, str) or not 0.0 < bandwidth < np.inf):
        raise ValueError(
            f"Received bandwidth={bandwidth!r}; expected a positive noise variance or 'scaled'. "
            f"Leave it out for the paper's {_NOISE_VARIANCE}."
        )
    columns = observations.columns.astype(np.float64)
    columns = greedy.standardised(columns) if standardize else columns
    labels = _Labels(targets.discrete(), leave_one_out)
    candidates = _Candidates(columns, observations.channel_of, bandwidth, labels)
    order, values = _greedy(candidates)
    distances, width = candidates.distances, candidates.width
    full = labels.relevance(candidates.kernel(distances, width))
    rng = np.random.default_rng(seed)
    null = []
    for _ in range(_SHUFFLES):
        shuffled = _Labels(targets.shuffled(rng), leave_one_out)
        null.append(shuffled.relevance(candidates.kernel(distances, width)))
    return order, values, full, greedy.null_level(np.array(null))


class _Labels:
    """Which samples share which label, as the right-hand sides of the kernel sums."""

    def __init__(self, targets: Targets, leave_one_out: bool):
        values = targets.values
        self.codes = values[:, None] if targets.kind == "classes" else values
        self.counts_itself = not leave_one_out
        self._frequency = np.empty(self.codes.shape)
        for frequency, codes in zip(self._frequency.T, self.codes.T, strict=True):
            _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
            frequency[:] = counts[inverse] / len(codes)
        self.entropy = -np.log(self._frequency).mean(axis=0).sum()

    def masks(self, rows: slice) -> np.ndarray:
        """Returns 0/1 `[rows, samples, 1 + labels]`: who counts, and who has the same label."""
        same = self.codes[rows, None] == self.codes
        masks = np.concatenate([np.ones((*same.shape[:2], 1), bool), same], axis=2)
        if not self.counts_itself:
            own = np.arange(len(masks))
            masks[own, rows.start + own] = False
        return masks.astype(np.float32)

    def log_shares(self, sums: np.ndarray, rows: slice) -> np.ndarray:
        """Returns the summed log shares of the same label, `[candidates]`.

        Args:
          sums: `[rows, candidates, 1 + labels]`, kernel sums over all and over the same label.
          rows: the samples.
        """
        if not self.counts_itself:
            # A sample without neighbours counts as knowing the label's frequency only.
            sums[..., 0] += _PRIOR_WEIGHT
            sums[..., 1:] += _PRIOR_WEIGHT * self._frequency[rows, None]
        # Few logarithms: a product of 8 sums is far from over- and underflow.
        for _ in range(3):
            half = len(sums) // 2
            sums = np.concatenate([sums[:half] * sums[half : 2 * half], sums[2 * half :]])
        logs = np.log(sums.astype(np.float64)).sum(axis=0)
        return logs[:, 1:].sum(axis=1) - self.codes.shape[1] * logs[:, 0]

    def relevance(self, kernel: np.ndarray) -> float:
        """Returns the relevance in nats of a set with this kernel, `[samples, samples]`."""
        samples, labels = self.codes.shape
        size = max(1, _BLOCK_BYTES // (8 * samples * (1 + labels)))
        shares = 0.0
        for first in range(0, samples, size):
            rows = slice(first, min(first + size, samples))
            sums = np.einsum("rs,rsl->rl", kernel[rows], self.masks(rows))
            shares += self.log_shares(sums[:, None], rows)[0]
        return float(self.entropy + shares / samples)


class _Candidates:
    """The selected set's kernel and the kernels of the channels not selected yet.

    Samples are taken in blocks of rows. The candidates' terms of a block (kernels, or distances
    under a scaled bandwidth) are kept while all kept blocks fit `_STORED_BYTES`; the rest is
    computed afresh in every step, which costs time but no accuracy.

    Where everything is kept, single precision finds the candidates that can be the minimum at all,
    by a bound on its error, and only those are computed in double precision: the choices are those
    of double precision throughout.
    """

    def __init__(
        self, columns: np.ndarray, channel_of: np.ndarray, bandwidth: float | str, labels: _Labels
    ):
        samples = len(columns)
        self._bandwidth, self._labels = bandwidth, labels
        self._scaled = isinstance(bandwidth, str)
        self._widths = np.bincount(channel_of)
        self._columns = rows_by_channel(columns, channel_of)
        self.index = np.arange(len(self._widths))
        self.distances = np.zeros((samples, samples))
        self.width = 0
        size = max(1, _BLOCK_BYTES // (8 * len(self.index) * samples))
        self._blocks = [slice(i, min(i + size, samples)) for i in range(0, samples, size)]
        stored = _STORED_BYTES // (12 * len(self.index) * samples * size)
        self._kept = [self._compute(rows, len(self.index)) for rows in self._blocks[:stored]]
        # The bound needs sums of at least 1, hence the diagonal, and kernels that do not change.
        screens = stored >= len(self._blocks) and not self._scaled and labels.counts_itself
        self._single = [_single(terms) for terms, _ in self._kept] if screens else []

    def kernel(self, distances: np.ndarray, width: int | np.ndarray) -> np.ndarray:
        """Returns exp(-D / (2 s2)) of a set of `width` columns."""
        fixed = self._bandwidth
        variance = _SCALED_VARIANCE * np.maximum(width, 1) if isinstance(fixed, str) else fixed
        exponents = distances / (-2.0 * variance)
        return np.exp(exponents, out=exponents)

    def relevance(self, live: int, pool: futures.Executor) -> np.ndarray:
        """Returns the joint relevance of the set with each of the first `live` candidates.

        It is infinite for those that cannot be the minimum.
        """
        selected = self.kernel(self.distances, self.width)
        chosen: np.ndarray = np.arange(live)
        if self._single:
            rough = self._shares(_single(selected), live, pool)
            chosen = np.flatnonzero(rough <= rough.min() + self._margin())
        shares = np.full(live, np.inf)
        if 2 * len(chosen) < live:
            shares[chosen] = self._shares(selected, chosen, pool)
        else:
            shares[:] = self._shares(selected, live, pool)
        return self._labels.entropy + shares

    def _margin(self) -> float:
        """Returns how far apart, in nats, single precision may bring two equal candidates.

        A kernel, its masked counterpart and their product are rounded once each, a sum of N of
        them N - 1 times, a product of sums once per sum: a relative error of N + 8 roundings at
        most, in both sums of each label's logarithm, and in either direction for both candidates.
        """
        samples, labels = self._labels.codes.shape
        return float(4.0 * labels * (samples + 8) * np.finfo(np.float32).eps / 2.0)

    def _shares(
        self, selected: np.ndarray, chosen: int | np.ndarray, pool: futures.Executor
    ) -> np.ndarray:
        """Returns the mean log shares of the first so many, or of the chosen candidates."""
        samples = len(selected)
        entries = samples**2 * (chosen if isinstance(chosen, int) else len(chosen))
        run = map if entries < _SERIAL_ENTRIES else pool.map
        parts = run(
            lambda block: self._block_shares(block, selected, chosen), range(len(self._blocks))
        )
        return np.asarray(sum(parts)) / samples

    def _block_shares(
        self, block: int, selected: np.ndarray, chosen: int | np.ndarray
    ) -> np.ndarray:
        rows = self._blocks[block]
        kept = block < len(self._kept)
        live = chosen if isinstance(chosen, int) else len(self.index)
        terms, masks = self._kept[block] if kept else self._compute(rows, live)
        if selected.dtype == np.float32:
            terms = self._single[block]
        terms = terms[:, :chosen] if isinstance(chosen, int) else terms[:, chosen]
        if self._scaled:
            widths = self.width + self._widths[:chosen, None]
            joint = self.kernel(self.distances[rows, None] + terms, widths)
            sums = joint @ masks
        elif terms.shape[1] < masks.shape[2]:
            sums = (terms * selected[rows, None]) @ masks
        else:
            sums = terms @ (selected[rows, :, None] * masks)
        return self._labels.log_shares(sums, rows)

    def select(self, pick: int, live: int) -> None:
        """Adds a candidate to the set; the last live candidate moves into its place."""
        self.distances += _distances(self._columns[:, pick, None], slice(None))[:, 0]
        self.width += self._widths[pick]
        last = live - 1
        for terms in [terms for terms, _ in self._kept] + self._single:
            terms[:, pick] = terms[:, last]
        self._columns[:, pick] = self._columns[:, last]
        for array in (self.index, self._widths):
            array[pick], array[last] = array[last], array[pick]

    def _compute(self, rows: slice, live: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a block's terms, `[rows, live, samples]`, and its label masks."""
        terms = _distances(self._columns[:, :live], rows)
        if not self._scaled:
            terms = self.kernel(terms, 1)
        return terms, self._labels.masks(rows)


def _single(kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel in single precision, without the entries too small to count beside 1.

    Products of what is left stay normal numbers, which are much faster than denormal ones.
    """
    return np.where(kernel < 1e-18, 0.0, kernel).astype(np.float32)


def _distances(columns: np.ndarray, rows: slice) -> np.ndarray:
    """Returns the squared distances per channel, `[rows, channels, samples]`.

    Args:
      columns: `[width, channels, samples]`, padded with zeros, which add no distance.
      rows: the samples that the distances are measured from.
    """
    total = np.zeros((columns[0, 0, rows].size, *columns.shape[1:]))
    for column in columns:
        difference = column[:, rows].T[:, :, None] - column
        total += np.square(difference, out=difference)
    return total


def _greedy(candidates: _Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order in which channels are picked and the joint value after each step."""
    channels = len(candidates.index)
    values = np.empty(channels)
    # BLAS does not split products this small over the cores, and NumPy's exp never does.
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for step in range(channels):
            live = channels - step
            joint = candidates.relevance(live, pool)
            pick = greedy.first_minimum(joint, candidates.index[:live])
            values[step] = joint[pick]
            candidates.select(pick, live)
    return candidates.index[::-1].copy(), values
