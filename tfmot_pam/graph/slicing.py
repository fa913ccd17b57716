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
        fused: The positions of further channels, not the same, that became one with some of these;
            by network and, as several of one may, by a number; -1 where there is none.
    """

    nets: np.ndarray
    positions: np.ndarray
    others: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    fused: Mapping[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.nets)

    @classmethod
    def concatenate(cls, layouts: Sequence[Layout]) -> Layout:
        nets = dict.fromkeys(net for layout in layouts for net in layout.others)
        keys = dict.fromkeys(key for layout in layouts for key in layout.fused)
        return cls(
            np.concatenate([layout.nets for layout in layouts]),
            np.concatenate([layout.positions for layout in layouts]),
            {net: np.concatenate([layout._other(net) for layout in layouts]) for net in nets},
            {
                key: np.concatenate([own.fused.get(key, np.full(len(own), -1)) for own in layouts])
                for key in keys
            },
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

        def moved(net: int, found: np.ndarray) -> np.ndarray:
            return np.where(found < 0, -1, found + shifts.get(net, 0))

        others = {net: moved(net, found) for net, found in self.others.items()}
        fused = {key: moved(key[0], found) for key, found in self.fused.items()}
        return Layout(self.nets, self.positions + added, others, fused)

    def of(self, net: int) -> np.ndarray:
        """Whether each position carries a channel of one network (a common one counts)."""
        return self.at(net) >= 0

    def at(self, net: int) -> np.ndarray:
        """Where the channels are on the axis of one network; -1 for those that it has not.

        Of several that were fused it is the first.
        """
        first, *further = self.places(net)
        for found in further:
            first = np.where(first < 0, found, first)
        return first

    def places(self, net: int) -> list[np.ndarray]:
        """Where all channels of one network are on its axis that are carried; -1 for none."""
        own = (self.nets == net) | (self.nets < 0)
        fused = [found for key, found in self.fused.items() if key[0] == net]
        return [np.where(own, self.positions, self._other(net)), *fused]

    def owners(self) -> set[int]:
        """The networks that write the channels, those of fused ones included."""
        fused = {net for (net, _), found in self.fused.items() if np.any(found >= 0)}
        return set(self.nets.tolist()) | fused

    def owned_alike(self) -> bool:
        """Whether every channel was fused of channels of the same networks."""
        members = [self.nets == net for net in self.owners()]
        for found, net in zip(members, self.owners(), strict=True):
            for (other, _), positions in self.fused.items():
                found |= (positions >= 0) & (other == net)
        return all(found.all() for found in members)

    def seen_by(self, *nets: int) -> Layout:
        """The layout as some networks see it: what they have not is nobody's."""
        lead, first = np.full(len(self), _NOBODY), np.zeros(len(self), int)
        fused = {}
        for net in nets:
            for number, found in enumerate(self.places(net)):
                free = (found >= 0) & (lead == _NOBODY)
                lead[free], first[free] = net, found[free]
                if np.any((found >= 0) & ~free):
                    fused[net, number] = np.where(free, -1, found)
        return Layout(lead, first, {}, fused)


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
    fused = {
        key: after(key[0], found[sources]) for key, found in layout.fused.items() if key[0] in calls
    }
    return Layout(nets, positions, others, fused)


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
    for key, found in after.fused.items():
        own = calls[key[0]]
        chosen = found >= 0
        wanted = rule.source_positions(own, own.in_shape[-1])[found[chosen]]
        if not np.array_equal(before.fused[key][sources[chosen]], wanted):
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
        elif rows.fused or columns.fused:
            added_up = axes.outputs is not None or rule.frozen is not None
            result[name] = _fuse(name, axes, calls, rows, columns, lead, added_up)
        else:
            result[name] = _slice(name, axes, calls, rows, columns, lead)
    return result


def _slice(
    name: str, axes: Axes, calls: Mapping[int, Call], rows: Layout, columns: Layout, lead: Call
) -> np.ndarray:
    original, config = lead.layer.weights[name], lead.config
    shape = axes.resized(original.shape, config, len(rows), len(columns))
    merged = np.full(shape, axes.fill, original.dtype)
    for net, call in calls.items():
        # A common channel is written once, with the weights that are alike everywhere.
        read, written = np.flatnonzero(rows.of(net)), np.flatnonzero(columns.of(net))
        source = call.layer.weights[name]
        taken = axes.index(source.shape, config, rows.at(net)[read], columns.at(net)[written])
        merged[axes.index(shape, config, read, written)] = source[taken]
    return merged


def _fuse(
    name: str,
    axes: Axes,
    calls: Mapping[int, Call],
    rows: Layout,
    columns: Layout,
    lead: Call,
    added_up: bool,
) -> np.ndarray:
    """A weight where several channels became one.

    An output is the mean of those that were fused in it. Whoever reads a fused input reads it for
    all that it stands for, so that rows are added up; without outputs of their own (depthwise
    kernels) they are outputs themselves.
    """
    original, config = lead.layer.weights[name], lead.config
    shape = axes.resized(original.shape, config, len(rows), len(columns))
    total, count = np.zeros(shape), np.zeros(shape)
    for net, call in calls.items():
        source = call.layer.weights[name]
        read = [None] if axes.inputs is None else rows.places(net)
        if not any(found is None or np.any(found >= 0) for found in read):
            continue
        for outputs in [None] if axes.outputs is None else _written(columns, net, calls):
            columns_here = _there(outputs)
            if added_up:
                count[axes.index(shape, config, None, columns_here[0])] += 1
            for inputs in read:
                rows_here = _there(inputs)
                place = axes.index(shape, config, rows_here[0], columns_here[0])
                total[place] += source[
                    axes.index(source.shape, config, rows_here[1], columns_here[1])
                ]
                if not added_up:
                    count[place] += 1
    mean = np.where(count > 0, total / np.maximum(count, 1), axes.fill)
    return mean.astype(original.dtype)


def _written(columns: Layout, net: int, calls: Mapping[int, Call]) -> list[np.ndarray]:
    """The channels of one network whose weights its outputs get, as positions; -1 for none.

    Of channels that are the same in several networks the first has them, where it takes part.
    """
    first, *fused = columns.places(net)
    own = (columns.nets == net) | (columns.nets < 0) | ~np.isin(columns.nets, list(calls))
    return [np.where(own, first, -1), *fused]


def _there(places: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Which channels have a place, and it; None stands for all."""
    return (None, None) if places is None else (np.flatnonzero(places >= 0), places[places >= 0])


def with_scaled_rows(rule: LayerRule, call: Call, factors: np.ndarray) -> Call:
    """A call of a mixing layer that reads each of its inputs multiplied by a factor."""
    weights = dict(call.layer.weights)
    # Of weights that are applied one after the other the last is enough.
    last = any(axes.later for axes in rule.weights.values())
    for name, axes in rule.weights.items():
        if name in weights and axes.inputs is not None and axes.later == last:
            shape = np.ones(weights[name].ndim, int)
            shape[axes.inputs] = -1
            spread = np.repeat(factors, axes.fanout(call.config)).reshape(shape)
            weights[name] = (weights[name] * spread).astype(weights[name].dtype)
    return dataclasses.replace(call, layer=dataclasses.replace(call.layer, weights=weights))


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
        whole = whole.copy()
        whole[axes.index(whole.shape, call.config, rows.positions, columns.positions)] = part
        result[name] = whole
    return result
