"""Samples in memory, by head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.inputs import count, joined, rows


@dataclass(frozen=True)
class HeadSamples:
    """The samples of one head.

    Attributes:
        x: Inputs, shape `[n, *input_shape]`, in the user's dtype; of several a dict by name.
        y: Labels with `n` rows in the user's encoding, or None without labels. NaN, negative
            class indices and 255 where it is no class are labels that do not count.
        weight: Weights of the samples in training, `[n]`, or None for 1.
    """

    x: Inputs
    y: np.ndarray | None
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return count(self.x)

    def rows(self, chosen: np.ndarray | slice, x: Inputs | None = None) -> HeadSamples:
        """Some of the samples, with their inputs if these are there already."""
        return HeadSamples(
            rows(self.x, chosen) if x is None else x,
            None if self.y is None else np.asarray(self.y)[chosen],
            None if self.weight is None else self.weight[chosen],
        )


@dataclass(frozen=True)
class Samples:
    """Samples in memory, by head.

    Attributes:
        by_head: The samples of every head, in the order of the tasks.
        shared: True if all heads have the same inputs (then it is the same object).
    """

    by_head: Mapping[str, HeadSamples]
    shared: bool

    @property
    def inputs(self) -> Inputs:
        """The inputs of all heads, each data set's once."""
        found = [next(iter(samples.by_head.values())).x for samples in self.apart]
        return found[0] if len(found) == 1 else joined(found)

    @property
    def apart(self) -> list[Samples]:
        """The samples of the heads that have the same inputs, each set of such heads alone."""
        if self.shared:
            return [self]
        found: dict[int, dict[str, HeadSamples]] = {}
        for head, own in self.by_head.items():
            found.setdefault(id(own.x), {})[head] = own
        return [Samples(by_head, True) for by_head in found.values()]

    def only(self, heads: Sequence[str]) -> Samples:
        """The samples of some of the heads."""
        by_head = {head: self.by_head[head] for head in heads}
        same = len({id(own.x) for own in by_head.values()}) == 1
        return Samples(by_head, self.shared or same)
