"""How much channels say about a task: the greedy path of jointly irrelevant channels.

Source: PAM, He et al., KDD 2021 (arXiv 1905.09676), section 4: grow the irrelevant set of a task by
the channel that keeps the joint relevance lowest.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfmot_pam.merging import gaussian, kde
from tfmot_pam.merging.observations import Observations
from tfmot_pam.merging.targets import Targets

_TELLING = 0.9  # a null level from this share of the full value on says nothing


@dataclasses.dataclass(frozen=True, eq=False)
class RelevancePath:
    """One task's greedy path over one space: the whole trade-off between share and relevance.

    Args:
      order: int `[channels]`, the channels in the order in which they enter the irrelevant set.
      values: float `[channels]`, joint relevance in nats of the set after each step.
      full: joint relevance of all channels, in nats.
      null: the same under shuffled labels (mean + 2 deviations): what a useless space would show.

    Raises:
      ValueError: if `order` is no permutation, the lengths differ or numbers are not finite.

    Example:
      >>> path = RelevancePath(np.array([1, 0]), np.array([0.0, 2.0]), full=2.0, null=0.1)
      >>> path.irrelevant(path.alpha(0.05))
      array([False,  True])
    """

    order: np.ndarray
    values: np.ndarray
    full: float
    null: float

    def __post_init__(self) -> None:
        if not np.array_equal(np.sort(self.order), np.arange(len(self.order))):
            raise ValueError(
                f"Received an order of {len(self.order)} channels that is no permutation; expected "
                "every channel once. The path is damaged: compute it again."
            )
        numbers = np.append(self.values, [self.full, self.null])
        if self.values.shape != self.order.shape or not np.isfinite(numbers).all():
            raise ValueError(
                f"Received values of shape {self.values.shape} for {len(self.order)} channels; "
                "expected one finite number each. The path is damaged: compute it again."
            )

    def alpha(self, rho: float) -> float:
        """Returns the threshold null + rho (full - null), in nats.

        Where shuffled labels reach nine tenths of the full value, the sample hardly tells the
        labels from noise: too few samples, or a saturated estimate. That is a lack of evidence,
        not a sign that channels are dispensable, and a threshold at the null would drop almost
        all of them. It falls back to rho * full, which only lets through what says next to nothing
        at all; with nothing to take a share of (full <= 0), to a value below the whole path, under
        which no channel counts as irrelevant.

        Args:
          rho: share of the measurable relevance that may be called irrelevant, 0.02 to 0.2.

        Raises:
          ValueError: if `rho` is not in [0, 1).
        """
        if not 0.0 <= rho < 1.0:
            raise ValueError(
                f"Received rho={rho}; expected 0 <= rho < 1, a share of the relevance, since from "
                "1 on every channel would be irrelevant. Choose one between 0.02 and 0.2."
            )
        if self.null < _TELLING * self.full:
            return self.null + rho * (self.full - self.null)
        if self.full > 0.0:
            return rho * self.full
        return float(np.nextafter(min(self.full, self.values.min()), -np.inf))

    def irrelevant(self, alpha: float) -> np.ndarray:
        """Returns which channels are irrelevant: the path until its value would exceed alpha.

        Args:
          alpha: threshold in nats.

        Returns:
          bool `[channels]`.

        Raises:
          ValueError: if `alpha` is not below the ceiling, the relevance of all channels.
        """
        if math.isnan(alpha) or alpha >= self.full:
            raise ValueError(
                f"Received alpha={alpha}; expected less than the ceiling of {self.full:.6g} nats, "
                "the relevance of all channels together, or every channel would be irrelevant. "
                "Lower alpha, or set the threshold as a share with rho."
            )
        mask = np.zeros(len(self.order), bool)
        mask[self.order] = np.maximum.accumulate(self.values) <= alpha
        return mask

    def to_dict(self) -> dict[str, Any]:
        """Returns the path as plain numbers and lists, for JSON; the floats are exact."""
        return {
            "order": [int(channel) for channel in self.order],
            "values": [float(value) for value in self.values],
            "full": float(self.full),
            "null": float(self.null),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RelevancePath:
        """Reads what `to_dict` wrote.

        Raises:
          ValueError: if an entry is missing or damaged.
        """
        missing = {"order", "values", "full", "null"} - set(data)
        if missing:
            raise ValueError(
                f"Received a relevance path without {sorted(missing)}; expected the entries order, "
                "values, full and null. The path is damaged: compute it again."
            )
        return cls(
            np.asarray(data["order"], np.int64),
            np.asarray(data["values"], np.float64),
            float(data["full"]),
            float(data["null"]),
        )


ESTIMATORS: Mapping[str, Callable[..., tuple[np.ndarray, np.ndarray, float, float]]] = (
    types.MappingProxyType({"gaussian": gaussian.gaussian_path, "kde": kde.kde_path})
)


def relevance_path(
    observations: Observations,
    targets: Targets,
    *,
    estimator: str = "gaussian",
    seed: int = 0,
    **options: Any,
) -> RelevancePath:
    """Runs the greedy path of one task over one space.

    Args:
      observations: what the space's channels show on the calibration samples.
      targets: the task's targets on the same samples.
      estimator: a name in `ESTIMATORS`: `"gaussian"` (default; any target) or `"kde"` (the
        paper's; class or binary labels).
      seed: seed of the label shuffles behind the null level.
      **options: the estimator's own: `ridge` for `"gaussian"`; `standardize`, `bandwidth` and
        `leave_one_out` for `"kde"`.

    Returns:
      The path over all channels.

    Raises:
      ValueError: if the estimator is unknown, the samples disagree in number, or an option's value
        is out of range.
      TypeError: if the estimator has no such option.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> columns = rng.normal(size=(256, 2)).astype(np.float32)
      >>> targets = Targets("classes", (columns[:, 0] > 0).astype(np.int64))
      >>> relevance_path(Observations(columns, np.arange(2)), targets).order
      array([1, 0])
    """
    if estimator not in ESTIMATORS:
        raise ValueError(
            f"Received estimator={estimator!r}; expected one of {sorted(ESTIMATORS)}. Choose one."
        )
    run = ESTIMATORS[estimator]
    known = set(inspect.signature(run).parameters) - {"observations", "targets", "seed"}
    if unknown := set(options) - known:
        raise TypeError(
            f"Received options {sorted(unknown)} for the {estimator!r} estimator; expected some of "
            f"{sorted(known)}. Remove the others."
        )
    if len(targets) != len(observations.columns):
        raise ValueError(
            f"Received {len(observations.columns)} observed samples and {len(targets)} targets; "
            "expected as many of each. Use the same samples for both."
        )
    order, values, full, null = run(observations, targets, seed=seed, **options)
    # The full value is the path's last one, computed in one go instead of step by step.
    values[-1] = full
    return RelevancePath(order, values, full, null)
