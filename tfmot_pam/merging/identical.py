"""Channels that are the same in several networks: one of them does for all, exactly.

Networks that were merged before, or that stand on one backbone, compute some channels from the same
input with the same weights. Channels are numbered from the input on: those that compute the same of
equally numbered channels get one number, whatever else their networks hold.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.graph.channels import ChannelGraph, known_rule
from tfmot_pam.graph.likeness import are_alike, arguments_of, freeze, structure
from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.rules import Axes, Call, LayerRule


def identical_channels(
    graphs: Sequence[ChannelGraph], trunk: Sequence[Sequence[str]]
) -> tuple[np.ndarray, ...] | None:
    """A number for each channel of each network, the same for channels that are the same.

    Args:
        graphs: The networks' channel graphs.
        trunk: For each trunk position, the name of the node in each network.

    Returns:
        For each network one number a channel of its graph. Within a network all are different;
        channels that heads write to, or that come from the input, are the same as no other. None
        where no channel is the same as another.
    """
    values = _Values(graphs)
    for place, names in enumerate(trunk):
        values.visit(place, names)
    return values.channels(trunk) if values.met else None


class _Values:
    """What the tensors of the trunks carry, as numbers that are equal for equal values."""

    def __init__(self, graphs: Sequence[ChannelGraph]):
        self._graphs = graphs
        self._known: dict[Any, int] = {}
        self._count = 0
        self.met = False  # whether layers of two networks have written the same
        self._found: list[dict[Tensor, np.ndarray]] = [{} for _ in graphs]
        self._calls = [graph.network.calls() for graph in graphs]

    def visit(self, place: int, names: Sequence[str]) -> None:
        """Numbers what corresponding nodes write."""
        calls = [
            graph.call(graph.network.node(name), counts)
            for graph, name, counts in zip(self._graphs, names, self._calls, strict=True)
        ]
        read = [
            [self._found[k][tensor] for tensor in call.node.inputs] for k, call in enumerate(calls)
        ]
        for k, call in enumerate(calls):
            role = self._graphs[k].roles[call.node.name]
            others = [found for other, found in enumerate(read) if other != k]
            if role == "concatenate":
                written = [np.concatenate(read[k])]
            elif role == "input":
                written = [self._numbers(place, range(self._width(k, call)))]
            elif not _meets(read[k], others):
                written = [self._new(self._width(k, call, i)) for i in range(_outputs(call))]
            elif role == "copied":
                written = self._whole(k, calls, read)
            else:
                rule, before = known_rule(call), self._count
                keys = _KEYS[role](call, rule, read[k])
                written = [self._numbers((place, _function(call, rule)), keys)]
                self.met |= role == "mixing" and self._count < before + len(written[0])
            for tensor, numbers in zip(call.node.outputs, written, strict=True):
                self._found[k][tensor] = numbers

    def _width(self, k: int, call: Call, output: int = 0) -> int:
        return len(self._graphs[k].labels[Tensor(call.node.name, output)])

    def _numbers(self, kind: Any, keys: Iterable[Any]) -> np.ndarray:
        """The numbers of keys; those that were not seen before get new ones."""
        result = []
        for key in keys:
            number = self._known.setdefault((kind, key), self._count)
            self._count += number == self._count
            result.append(number)
        return np.array(result, int)

    def _new(self, width: int) -> np.ndarray:
        """Numbers that nothing else has."""
        self._count += width
        return np.arange(self._count - width, self._count)

    def _whole(
        self, k: int, calls: Sequence[Call], read: Sequence[Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        """What a layer that is taken whole writes: the same as another network's, or new."""
        for other in range(k):
            same = all(map(np.array_equal, read[k], read[other]))
            if same and are_alike([calls[other], calls[k]]):
                self.met |= bool(calls[k].layer.weights)
                return [self._found[other][tensor] for tensor in calls[other].node.outputs]
        return [self._new(self._width(k, calls[k], i)) for i in range(_outputs(calls[k]))]

    def channels(self, trunk: Sequence[Sequence[str]]) -> tuple[np.ndarray, ...]:
        """The numbers of channels, from those of all positions that carry them."""
        keys = [
            self._of_network(k, [names[k] for names in trunk]) for k in range(len(self._graphs))
        ]
        counts = Counter(key for found in keys for key in set(found.values()))
        numbers: dict[Any, int] = {}
        result = []
        for graph, found in zip(self._graphs, keys, strict=True):
            times: Counter = Counter()
            own = []
            for channel in range(len(graph.space_of)):
                key = found.get(channel)
                shared = key is not None and counts[key] > 1
                times[key] += 1
                key = (key, times[key]) if shared else (id(graph), channel)
                own.append(numbers.setdefault(key, len(numbers)))
            result.append(np.array(own, int))
        return tuple(result)

    def _of_network(self, k: int, names: Sequence[str]) -> dict[int, Any]:
        """For each channel that only the trunk writes, the numbers of all that carries it."""
        graph, inside = self._graphs[k], set(names)
        fixed = {
            index
            for index, space in enumerate(graph.spaces)
            if space.given or not set(space.writers) <= inside
        }
        carried: dict[int, Any] = defaultdict(hashlib.sha256)
        for place, name in enumerate(names):
            for tensor in graph.network.node(name).outputs:
                labels, found = graph.labels[tensor], self._found[k][tensor]
                for label, number in zip(labels.tolist(), found.tolist(), strict=True):
                    carried[label].update(f"{place}.{tensor.index}.{number},".encode())
        return {
            label: digest.digest()
            for label, digest in carried.items()
            if int(graph.space_of[label]) not in fixed
        }


def _function(call: Call, rule: LayerRule) -> str:
    """What a call computes, but for its width and its weights."""
    config = structure(call.config, {*rule.free, rule.width})
    return freeze([config, arguments_of(call.node)], lambda found: str(id(found)))


def _outputs(call: Call) -> int:
    return len(call.node.shapes)


def _meets(read: Sequence[np.ndarray], others: Sequence[Sequence[np.ndarray]]) -> bool:
    """Whether some of what a node reads is what another network's node reads as well."""
    return all(
        any(np.isin(own, found[place]).any() for found in others) for place, own in enumerate(read)
    )


# --- what a position of a tensor is computed from, as keys ----------------------------------------


def _mixed(call: Call, rule: LayerRule, read: Sequence[np.ndarray]) -> list[Any]:
    """Mixing layers: each output by its weights and the channels that have a weight not 0."""
    (rows,) = read
    weights = call.layer.weights
    by_input = [name for name in weights if _axes(rule, name).inputs is not None]
    apart = all(_axes(rule, name).outputs is not None for name in weights) and by_input
    if rule.frozen is not None or not apart:
        whole = [*(weight.tobytes() for weight in weights.values()), rows.tobytes()]
        return [(*whole, column) for column in range(call.out_shape[-1])]
    order = np.argsort(rows, kind="stable")
    keys: list[Any] = []
    for column in range(call.out_shape[-1]):
        parts, reads = [], False
        for name, weight in weights.items():
            axes = _axes(rule, name)
            if axes.inputs is None or axes.outputs is None:
                parts.append(np.take(weight, column, axes.outputs).tobytes())
                continue
            part = np.moveaxis(weight, (axes.inputs, axes.outputs), (0, 1))[:, column]
            part = part.reshape(len(rows), -1)[order]
            used = part.any(axis=1)
            parts += [part[used].tobytes(), rows[order][used].tobytes()]
            reads |= bool(used.any())
        # A group has to read something: what computes a constant is each network's own.
        keys.append(tuple(parts) if reads else object())
    return keys


def _kept(call: Call, rule: LayerRule, read: Sequence[np.ndarray]) -> list[Any]:
    """Channelwise layers: each output by its sources, its place among theirs, and its weights."""
    (rows,) = read
    sources = rule.source_positions(call, len(rows))
    ranks: Counter = Counter()
    keys = []
    for column, source in enumerate(sources.tolist()):
        rank = ranks[tuple(source)]
        ranks[tuple(source)] += 1
        parts = [rank, rows[source].tobytes()]
        for name, weight in call.layer.weights.items():
            axes = _axes(rule, name)
            if axes.outputs is not None:
                weight = np.take(weight, column, axes.outputs)
            elif axes.inputs is not None:
                weight = np.take(weight, source, axes.inputs)
            parts.append(weight.tobytes())
        keys.append(tuple(parts))
    return keys


def _joined(call: Call, rule: LayerRule, read: Sequence[np.ndarray]) -> list[Any]:
    """Joins: each output by what is combined in it, and by the numbers that are."""
    arguments = freeze(arguments_of(call.node))
    return [
        (arguments, *entries) for entries in zip(*(found.tolist() for found in read), strict=True)
    ]


def _axes(rule: LayerRule, name: str) -> Axes:
    return rule.weights.get(name, Axes())


_KEYS: Mapping[str, Callable[[Call, LayerRule, Sequence[np.ndarray]], list[Any]]] = {
    "mixing": _mixed,
    "channelwise": _kept,
    "join": _joined,
}
