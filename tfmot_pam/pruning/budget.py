"""Which channels to remove next: importance per unit of cost, until a budget is met.

Removing a channel saves its share of every layer that writes, keeps or reads it, at the widths
that are left, times how often those layers run. Channels are ranked by importance divided by that
saving, over the whole network or within each group.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from tfmot_pam.graph.network import Tensor, iterate_tensors
from tfmot_pam.graph.time_model import CallCost, call_time, checked_cost
from tfmot_pam.pruning.channels import PrunableChannels
from tfmot_pam.pruning.costs import Usage, WidthCosts, combination_weights, node_weights
from tfmot_pam.pruning.time_costs import TimeCosts

Scope = Literal["global", "per-layer"]

# A pass removes at most this share of the channels before savings are computed anew.
_PASS = 0.02
_BISECTIONS = 24
# A channel may save up to so many times what is wanted, or at least so large a share of the whole;
# other channels are given back then, if the room is worth it.
_LEAP, _SMALLEST_LEAP = 2.0, 0.1
_SMALLEST_ROOM, _GIVEN_BACK = 0.005, 64
# Schedules compute in single precision: a fraction of 0.2 is a little more than a fifth.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Measure:
    """One way to say how large a network is.

    Args:
        name: For messages.
        value: Size at given kept channels.
        saving: What removing each channel saves of it.
        price: What a channel's importance is divided by, where that is not the saving.
    """

    name: str
    value: Callable[[np.ndarray], float]
    saving: Callable[[np.ndarray], np.ndarray]
    price: Callable[[np.ndarray], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the choice must respect.

    Args:
        scope: Whether channels compete over the whole network or within their group.
        min_channels: Channels that every layer keeps to read.
        width_multiple: Widths of groups are rounded up to a multiple of it, where they are wider.
    """

    scope: Scope = "global"
    min_channels: int = 1
    width_multiple: int = 1


def _channels(prunable: PrunableChannels, costs: WidthCosts, usage: Usage) -> list[Measure]:
    weights = node_weights(prunable, usage)
    return [
        Measure(
            "channels",
            lambda keep: float(keep.sum()),
            lambda keep: np.ones(len(keep)),
            lambda keep: costs.marginal_macs(keep, weights),
        )
    ]


def _macs(prunable: PrunableChannels, costs: WidthCosts, usage: Usage) -> list[Measure]:
    weights = node_weights(prunable, usage)
    return [
        Measure(
            "expected MACs",
            lambda keep: costs.macs(keep, weights),
            lambda keep: costs.marginal_macs(keep, weights),
        )
    ]


def _latency(prunable: PrunableChannels, costs: WidthCosts, usage: Usage) -> list[Measure]:
    return _by_calls("estimated time", prunable, usage, call_time)


def _by_calls(
    name: str, prunable: PrunableChannels, usage: Usage, call_cost: CallCost
) -> list[Measure]:
    weights, times = node_weights(prunable, usage), TimeCosts(prunable, call_cost)
    return [
        Measure(
            name,
            lambda keep: times.time(keep, weights),
            lambda keep: times.marginal_time(keep, weights),
        )
    ]


def _parameters(prunable: PrunableChannels, costs: WidthCosts, usage: Usage) -> list[Measure]:
    return [Measure("parameters", costs.parameters, costs.marginal_parameters)]


MEASURES: Mapping[str, Callable[..., list[Measure]]] = MappingProxyType(
    {"channels": _channels, "latency": _latency, "macs": _macs, "parameters": _parameters}
)


def find_measures(
    measure: Any, prunable: PrunableChannels, costs: WidthCosts, usage: Usage
) -> list[Measure]:
    """The measures that a name of `MEASURES`, a function or some combinations mean.

    Raises:
        ValueError: it means none.
    """
    if isinstance(measure, str) and measure in MEASURES:
        return MEASURES[measure](prunable, costs, usage)
    if callable(measure):
        return _by_calls("cost", prunable, usage, checked_cost(measure))
    if not isinstance(measure, (tuple, list)) or not measure:
        raise ValueError(
            f"Received measure={measure!r}. Expected one of {sorted(MEASURES)}, a function "
            f"cost(kind, inputs, shape, macs), a combination of tasks such as "
            f"{prunable.tasks[:1]!r}, or a list of combinations. Choose one."
        )
    combinations = measure if isinstance(measure, list) else [measure]
    found = []
    for combination in combinations:
        weights = combination_weights(prunable, combination)
        found.append(
            Measure(
                f"MACs of {'+'.join(combination)}",
                functools.partial(costs.macs, weights=weights),
                functools.partial(costs.marginal_macs, weights=weights),
            )
        )
    return found


class Budget:
    """Chooses what to remove so that a network's size falls to a wanted share of what it was.

    Args:
        prunable: The network and its prunable channels.
        measures: How size is measured; all measures must be met.
        limits: What the choice must respect.
    """

    def __init__(self, prunable: PrunableChannels, measures: list[Measure], limits: Limits):
        self._prunable = prunable
        self._measures = measures
        self._limits = limits
        self._reading = _ReadingSets(prunable, limits.min_channels)
        full = np.ones(len(prunable), bool)
        self._full = [measure.value(full) for measure in measures]

    @property
    def what(self) -> str:
        """What is measured, for messages."""
        return " and ".join(measure.name for measure in self._measures)

    def share(self, keep: np.ndarray) -> float:
        """The size left as a share of the whole; of several measures the largest."""
        return max(
            measure.value(keep) / full
            for measure, full in zip(self._measures, self._full, strict=True)
        )

    def least(self) -> float:
        """The smallest share that the limits allow."""
        nothing = np.zeros(len(self._prunable))
        return self.share(self._fill(np.ones(len(self._prunable), bool), nothing, 0.0))

    def choose(
        self, keep: np.ndarray, importance: np.ndarray, share: float, leap: bool = True
    ) -> np.ndarray:
        """Removes the least valuable channels until at most `share` of the size is left.

        Args:
            keep: Which channels are still there, bool `[channels]`.
            importance: Loss that removing each channel is expected to cost, `[channels]`.
            share: Wanted size as a share of the whole network's, 0 to 1.
            leap: Whether a channel may go that saves more than is wanted, and others are given
                back; otherwise what it saves beyond the need counts for nothing.

        Returns:
            Which channels stay; channels that nothing reads any more go too.
        """
        share += _ROUNDING
        if self._limits.scope == "per-layer":
            chosen = self._choose_per_layer(keep, importance, share)
        else:
            chosen = self._fill(keep, importance, share, leap)
        return self._rounded(keep, chosen, importance)

    def _fill(
        self, keep: np.ndarray, importance: np.ndarray, share: float, leap: bool = True
    ) -> np.ndarray:
        before, keep = keep, keep.copy()
        most = max(_LEAP * (self.share(keep) - share), _SMALLEST_LEAP) if leap else 0.0
        while self.share(keep) > share:
            saving, price, needed = self._savings(keep, share, most)
            candidates = np.flatnonzero(keep)
            # A channel that saves nothing is no candidate, however unimportant it is.
            candidates = candidates[(saving[candidates] > 0) & (price[candidates] > 0)]
            scores = importance[candidates] / price[candidates]
            order = candidates[np.lexsort((-saving[candidates], scores))]
            if not self._pass(keep, order, saving, needed):
                break
            keep = drop_unread(self._prunable, keep)
        return self._given_back(keep, np.flatnonzero(before & ~keep), importance, share)

    def _given_back(
        self, keep: np.ndarray, gone: np.ndarray, importance: np.ndarray, share: float
    ) -> np.ndarray:
        """Takes the most important channels back where a large one saved more than was needed."""
        for channel in gone[np.argsort(-importance[gone], kind="stable")][:_GIVEN_BACK].tolist():
            if share - self.share(keep) < _SMALLEST_ROOM:
                break
            more = keep.copy()
            more[channel] = True
            # A channel whose reader is gone, or whose layer has nothing left to read, stays away.
            fed = bool((self._reading.counts(more) >= 0).all())
            if self.share(more) <= share and fed and drop_unread(self._prunable, more)[channel]:
                keep = more
        return keep

    def _savings(
        self, keep: np.ndarray, share: float, most: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Each channel's saving and price in the measures not met yet, and what those lack.

        All are shares of the measures' whole. What a channel saves beyond the need, or `most`
        where that is more, counts for nothing.
        """
        saving, price, needed = np.zeros(len(keep)), np.zeros(len(keep)), 0.0
        for measure, full in zip(self._measures, self._full, strict=True):
            lacks = measure.value(keep) / full - share
            if lacks <= 0:
                continue
            saved = measure.saving(keep) / full
            price += (
                np.minimum(saved, max(most, lacks))
                if measure.price is None
                else measure.price(keep)
            )
            saving += saved
            needed += lacks
        return saving, price, needed

    def _pass(self, keep: np.ndarray, order: np.ndarray, saving: np.ndarray, needed: float) -> int:
        """Removes channels in `order` from `keep`, in place; returns how many."""
        removed, saved = 0, 0.0
        most = max(1, int(_PASS * len(order)))
        counts = self._reading.counts(keep)
        for channel in order.tolist():
            if removed >= most or saved >= needed:
                break
            if not self._reading.allows(counts, channel):
                continue
            self._reading.remove(counts, channel)
            keep[channel] = False
            removed += 1
            saved += saving[channel]
        return removed

    def _choose_per_layer(
        self, keep: np.ndarray, importance: np.ndarray, share: float
    ) -> np.ndarray:
        low, high, best = 0.0, 1.0, keep
        for _ in range(_BISECTIONS):
            fraction = (low + high) / 2
            found = self._by_fraction(keep, importance, fraction)
            if self.share(found) <= share:
                high, best = fraction, found
            else:
                low = fraction
        if best is keep and self.share(keep) > share:
            return self._by_fraction(keep, importance, 1.0)
        return best

    def _by_fraction(self, keep: np.ndarray, importance: np.ndarray, fraction: float) -> np.ndarray:
        keep = keep.copy()
        for group in self._prunable.groups:
            live = group.start + np.flatnonzero(keep[group.slice])
            excess = len(live) - int(np.ceil((1.0 - fraction) * group.width))
            counts = self._reading.counts(keep)
            for channel in live[np.argsort(importance[live], kind="stable")].tolist():
                if excess <= 0:
                    break
                if self._reading.allows(counts, channel):
                    self._reading.remove(counts, channel)
                    keep[channel] = False
                    excess -= 1
        return drop_unread(self._prunable, keep)

    def _rounded(
        self, before: np.ndarray, chosen: np.ndarray, importance: np.ndarray
    ) -> np.ndarray:
        """Takes back the best of what was removed just now, up to a multiple of the width."""
        multiple = self._limits.width_multiple
        if multiple <= 1:
            return chosen
        chosen = chosen.copy()
        for group in self._prunable.groups:
            width = int(chosen[group.slice].sum())
            lacking = -width % multiple
            gone = group.start + np.flatnonzero(before[group.slice] & ~chosen[group.slice])
            if width and len(gone):
                chosen[gone[np.argsort(-importance[gone], kind="stable")][:lacking]] = True
        return drop_unread(self._prunable, chosen)


class _ReadingSets:
    """How many channels each layer still reads, so that none is left without."""

    def __init__(self, prunable: PrunableChannels, floor: int):
        self._prunable = prunable
        places = list(prunable.reading_places().items())
        self._floor = np.array([min(floor, _distinct(found)) for _, found in places], int)
        self._fixed = np.array([int(np.any(found < 0)) for _, found in places], int)
        self._readers = prunable.network.readers()
        self._tensors = [tensor for tensor, _ in places]
        self._members: list[list[int]] = [[] for _ in range(len(prunable))]
        self._sets = [np.unique(found[found >= 0]) for _, found in places]
        for index, members in enumerate(self._sets):
            for channel in members.tolist():
                self._members[channel].append(index)

    def counts(self, keep: np.ndarray) -> np.ndarray:
        """Channels left beyond the floor, by reading place; endless where no reader is left."""
        left = [int(keep[members].sum()) for members in self._sets]
        counts = np.array(left) + self._fixed - self._floor
        inside = self._prunable.in_graph(keep)
        graph = self._prunable.graph
        for index, tensor in enumerate(self._tensors):
            readers = [n for n in self._readers[tensor] if graph.roles[n] == "mixing"]
            if not any(inside[graph.labels[Tensor(name)]].any() for name in readers):
                counts[index] = np.iinfo(int).max
        return counts

    def allows(self, counts: np.ndarray, channel: int) -> bool:
        return all(counts[index] > 0 for index in self._members[channel])

    def remove(self, counts: np.ndarray, channel: int) -> None:
        counts[self._members[channel]] -= 1


def _distinct(positions: np.ndarray) -> int:
    return len(np.unique(positions[positions >= 0])) + int(np.any(positions < 0))


def drop_unread(prunable: PrunableChannels, keep: np.ndarray) -> np.ndarray:
    """Which channels stay when those that no remaining layer reads go as well."""
    graph = prunable.graph
    inside = prunable.in_graph(keep)
    read = np.zeros(len(inside), bool)
    for tensor in iterate_tensors(graph.network.outputs):
        read[graph.labels[tensor]] = True
    for node in reversed(graph.network.nodes):
        if graph.roles[node.name] not in ("mixing", "copied"):
            continue
        written = [graph.labels[tensor] for tensor in node.outputs]
        if any(np.any(inside[labels] & read[labels]) for labels in written):
            for tensor in node.inputs:
                read[graph.labels[tensor]] = True
    return keep & read[prunable.numbers]
