"""Layouts of merged channels, and the weights that belong to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tfmot_pam.graph.rules import Axes, Call, LayerRule

_NOBODY = 1 << 30  # a network that there is not


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Which original channel each position of a merged tensor's last axis carries.

    Args:
        nets: The network of each position; -1 where it is the same channel in all of them.
        positions: The position on that network's original axis.
        others: For further networks that have some of the channels too, their positions there; -1
            where they have not.
    """

    nets: np.ndarray
    positions: np.ndarray
    others: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.nets)

    @classmethod
    def concatenate(cls, layouts: Sequence[Layout]) -> Layout:
        nets = dict.fromkeys(net for layout in layouts for net in layout.others)
        return cls(
            np.concatenate([layout.nets for layout in layouts]),
            np.concatenate([layout.positions for layout in layouts]),
            {net: np.concatenate([layout._other(net) for layout in layouts]) for net in nets},
        )

    def _other(self, net: int) -> np.ndarray:
        return self.others.get(net, np.full(len(self), -1))

    def equals(self, other: Layout) -> bool:
        return np.array_equal(self.nets, other.nets) and np.array_equal(
            self.positions, other.positions
        )

    def owned_by(self, net: int) -> Layout:
        return Layout(np.full(len(self), net), self.positions)

    def shifted(self, shifts: Mapping[int, int]) -> Layout:
        added = np.array([shifts.get(net, 0) for net in self.nets.tolist()], int)
        others = {
            net: np.where(found < 0, -1, found + shifts.get(net, 0))
            for net, found in self.others.items()
        }
        return Layout(self.nets, self.positions + added, others)

    def of(self, net: int) -> np.ndarray:
        """Whether each position carries a channel of one network (a common one counts)."""
        return self.at(net) >= 0

    def at(self, net: int) -> np.ndarray:
        """Where the channels are on the axis of one network; -1 for those that it has not."""
        own = (self.nets == net) | (self.nets < 0)
        return np.where(own, self.positions, self._other(net))

    def seen_by(self, net: int) -> Layout:
        """The layout as one network sees it: what that has not is nobody's."""
        found = self.at(net)
        return Layout(np.where(found >= 0, net, _NOBODY), np.maximum(found, 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Where a node's weights come from: nodes of other networks, their rows and columns.

    Args:
        nodes: The node of each network, None where a network has no part in it.
        rows: What its input channels were.
        columns: What its output channels were.
        role: Its role in the channel graph.
    """

    nodes: tuple[str | None, ...]
    rows: Layout
    columns: Layout
    role: str


def arrange(rule: LayerRule, calls: Mapping[int, Call], call: Call, layout: Layout) -> Layout:
    """The layout after a channelwise layer, from the layout before it.

    The same rule says where outputs come from in the original layers and in the merged one.
    """
    if rule.sources is None:
        return layout
    sources = rule.source_positions(call, len(layout))[:, 0]
    order = np.argsort(sources, kind="stable")
    ranks = np.empty(len(sources), int)
    starts = np.searchsorted(sources[order], sources[order])
    ranks[order] = np.arange(len(sources)) - starts

    def after(net: int, before: np.ndarray) -> np.ndarray:
        """The positions behind the layer in a network, from those before it; -1 of -1."""
        own = calls.get(net, call)
        original = rule.source_positions(own, own.in_shape[-1])[:, 0]
        by_source = np.argsort(original, kind="stable")
        first = np.searchsorted(original[by_source], before)
        # Beyond the end only where the layout turns out to be irregular.
        found = by_source[np.minimum(first + ranks, len(original) - 1)]
        return np.where(before < 0, -1, found)

    nets = layout.nets[sources]
    positions = np.empty(len(sources), int)
    for net in np.unique(nets).tolist():
        # Another task's channels in a head have no place in this head's network.
        known = net < 0 or net in calls
        chosen = nets == net
        positions[chosen] = after(net, layout.positions[sources])[chosen] if known else 0
    others = {
        net: after(net, found[sources]) for net, found in layout.others.items() if net in calls
    }
    return Layout(nets, positions, others)


def is_regular(
    rule: LayerRule, calls: Mapping[int, Call], call: Call, before: Layout, after: Layout
) -> bool:
    """Whether outputs that come from several inputs get the same ones as in their own network."""
    sources = rule.source_positions(call, len(before))
    if sources.shape[1] == 1:
        return True
    for net in {*np.unique(after.nets).tolist(), *after.others}:
        if net >= 0 and net not in calls:
            continue
        own = calls.get(net, call)
        original = rule.source_positions(own, own.in_shape[-1])
        chosen = (after.nets == net) | (after.others.get(net, np.array(-1)) >= 0)
        wanted = original[after.at(net)[chosen]]
        if not np.array_equal(before.at(net)[sources[chosen]], wanted):
            return False
    return True


def slice_weights(
    rule: LayerRule, calls: Mapping[int, Call], rows: Layout, columns: Layout
) -> dict[str, np.ndarray]:
    """The weights of one group of a merged layer.

    Args:
        rule: The layer's rule.
        calls: The networks' own calls, by network.
        rows: The group's input channels.
        columns: The group's output channels.

    Returns:
        Arrays by weight name.
    """
    lead = calls.get(int(columns.nets[0]), next(iter(calls.values())))
    if rule.frozen is not None:
        # All outputs are one network's: what it reads of others' channels has weights of 0.
        calls = {net: call for net, call in calls.items() if np.any(columns.of(net))}
    result = {}
    for name, original in lead.layer.weights.items():
        axes = rule.weights.get(name)
        if axes is None or (axes.inputs is None and axes.outputs is None):
            result[name] = original
        else:
            result[name] = _slice(name, axes, calls, rows, columns, lead)
    return result


def _slice(
    name: str, axes: Axes, calls: Mapping[int, Call], rows: Layout, columns: Layout, lead: Call
) -> np.ndarray:
    fanout = axes.fanout(lead.config)
    original = lead.layer.weights[name]
    shape = list(original.shape)
    if axes.inputs is not None:
        shape[axes.inputs] = len(rows) * fanout
    if axes.outputs is not None:
        shape[axes.outputs] = len(columns)
    merged = np.full(shape, axes.fill, original.dtype)
    for net, call in calls.items():
        source = call.layer.weights[name]
        place: list[np.ndarray] = [np.arange(size) for size in shape]
        taken: list[np.ndarray] = [np.arange(size) for size in shape]
        if axes.inputs is not None:
            own = np.flatnonzero(rows.of(net))
            place[axes.inputs] = _spread(own, fanout)
            taken[axes.inputs] = _spread(rows.at(net)[own], fanout)
        if axes.outputs is not None:
            # A common channel is written once, with the weights that are alike everywhere.
            own = np.flatnonzero(columns.of(net))
            place[axes.outputs] = own
            taken[axes.outputs] = columns.at(net)[own]
        merged[np.ix_(*place)] = source[np.ix_(*taken)]
    return merged


def _spread(positions: np.ndarray, fanout: int) -> np.ndarray:
    return (positions[:, None] * fanout + np.arange(fanout)).ravel()


def scatter_weights(
    rule: LayerRule, call: Call, rows: Layout, columns: Layout, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The whole layer's weights, with a slice's own ones at the slice's places.

    The inverse of `slice_weights` for one network. A weight that only the slice has is 0 elsewhere.

    Args:
        rule: The layer's rule.
        call: The whole layer's call.
        rows: The slice's input channels.
        columns: The slice's output channels.
        weights: The slice's weights by name.
    """
    result = dict(call.layer.weights)
    for name, part in weights.items():
        axes = rule.weights.get(name)
        if axes is None or (axes.inputs is None and axes.outputs is None):
            result[name] = part
            continue
        whole = result.get(name)
        if whole is None:
            # Compensation adds biases, one number a channel.
            whole = np.zeros(call.out_shape[-1], part.dtype)
        place: list[np.ndarray] = [np.arange(size) for size in whole.shape]
        if axes.inputs is not None:
            place[axes.inputs] = _spread(rows.positions, axes.fanout(call.config))
        if axes.outputs is not None:
            place[axes.outputs] = columns.positions
        whole = whole.copy()
        whole[np.ix_(*place)] = part
        result[name] = whole
    return result
