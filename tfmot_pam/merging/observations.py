"""What channels show on calibration data: the input of every relevance estimator."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Observations:
    """What the channels of one space show on the calibration samples.

    Args:
      columns: `[samples, columns]`, one number per sample and place where a channel is read.
      channel_of: `[columns]`, the channel that each column observes, numbered from 0; a channel
        read at several places has several columns, which move together.

    Raises:
      ValueError: if the shapes disagree, a channel has no column, there are fewer than 2 samples,
        or entries are NaN or infinite.

    Example:
      >>> Observations(np.zeros((8, 3), np.float32), np.array([0, 1, 1])).channels
      2
    """

    columns: np.ndarray
    channel_of: np.ndarray

    def __post_init__(self) -> None:
        if self.columns.ndim != 2 or len(self.columns) < 2 or not self.columns.shape[1]:
            raise ValueError(
                f"Received observations of shape {self.columns.shape}; expected [samples, columns] "
                "with at least 2 samples and 1 column. Pass more calibration data."
            )
        if self.channel_of.shape != (self.columns.shape[1],):
            raise ValueError(
                f"Received channel_of of shape {self.channel_of.shape} for "
                f"{self.columns.shape[1]} columns; expected one channel number per column."
            )
        seen = np.unique(self.channel_of)
        if not np.array_equal(seen, np.arange(len(seen))):
            raise ValueError(
                f"Received channel numbers {seen[:10].tolist()}...; expected every number from 0 "
                "to channels - 1. Give every channel at least one column."
            )
        if not np.isfinite(self.columns).all():
            raise ValueError(
                "Received observations with NaN or infinite entries; expected finite activations. "
                "Check the calibration data and the network's weights."
            )

    @property
    def channels(self) -> int:
        """Number of channels observed."""
        return int(self.channel_of.max()) + 1
