"""Where the channels of an old tensor are among the tensors of a network being rewritten."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfmot_pam.graph.network import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Channels of one new tensor.

    Args:
        tensor: The tensor.
        width: Number of its channels.
        positions: Which of them.
    """

    tensor: Tensor
    width: int
    positions: np.ndarray

    @property
    def whole(self) -> bool:
        return np.array_equal(self.positions, np.arange(self.width))


# An old tensor: the channels of its parts, one after the other.
View = tuple[Part, ...]


def chained(views: Sequence[View]) -> View:
    """The view of a concatenation; neighbouring parts of one tensor become one."""
    parts: list[Part] = []
    for part in (part for view in views for part in view):
        if parts and parts[-1].tensor == part.tensor:
            positions = np.concatenate([parts.pop().positions, part.positions])
            part = dataclasses.replace(part, positions=positions)
        parts.append(part)
    return tuple(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """New tensors side by side, each once.

    Args:
        widths: Their numbers of channels, in order.
    """

    widths: dict[Tensor, int]

    @classmethod
    def of(cls, views: Sequence[View]) -> Joined:
        return cls({part.tensor: part.width for view in views for part in view})

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.widths)

    @property
    def width(self) -> int:
        return sum(self.widths.values())

    def spans(self) -> dict[Tensor, range]:
        """Where each tensor's channels are."""
        ends = np.cumsum(list(self.widths.values())).tolist()
        starts = [0, *ends[:-1]]
        return {t: range(a, b) for t, a, b in zip(self.widths, starts, ends, strict=True)}

    def positions(self, view: View) -> np.ndarray:
        """Where the channels of a view are."""
        spans = self.spans()
        return np.concatenate([part.positions + spans[part.tensor].start for part in view])
