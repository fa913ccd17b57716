"""Assembly: the merged network of aligned networks and the task sets of their channels.

PAM (He et al., KDD 2021, section 4): one layer per group, edges from supersets to subsets only,
trained weights on the edges within one network, zeros across networks.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.graph.channels import known_rule
from tfmot_pam.graph.heads import common_inputs
from tfmot_pam.graph.likeness import are_alike
from tfmot_pam.graph.network import Network, Tensor, map_tensors
from tfmot_pam.graph.rules import Call
from tfmot_pam.graph.slicing import (
    Layout,
    Origin,
    arrange,
    is_regular,
    slice_weights,
    with_scaled_rows,
)
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import (
    Grouping,
    everything,
    group_order,
    numbers_of_one,
    tasks_of,
    with_identical_once,
)
from tfmot_pam.merging.pieces import (
    COMMON,
    Piece,
    copies,
    merge_columns,
    seen_by_others,
    with_fused,
)
from tfmot_pam.merging.writer import Writer

Calls = Mapping[int, Call]  # corresponding calls by network


class IrregularLayout(Exception):
    """Tied tensors whose channels cannot be put in one order.

    Args:
        index: The network.
        node: Its node that would combine them.
    """

    def __init__(self, index: int, node: str):
        super().__init__(index, node)
        self.index, self.node = index, node


@dataclasses.dataclass(frozen=True, eq=False)
class Assembly:
    """A merged network and the origin of each of its nodes that has weights."""

    network: Network
    origins: Mapping[str, Origin]


def assemble(
    alignment: Alignment, grouping: Grouping, name: str = "merged", *, own_width: bool = False
) -> Assembly:
    """Builds the merged network, with trained weights within networks and zeros across them.

    Args:
        alignment: The aligned networks.
        grouping: The task set of every channel.
        name: The merged network's name.
        own_width: Whether a group reads the input through one network's preprocessing only, that
            of most of its channels. Several are several times as wide.

    Returns:
        The assembly; its network's outputs are a dict by task.

    Raises:
        IrregularLayout: tensors that are added carry their channels in different orders.
        ValueError: a group would have no input that it may read.
    """
    building = _Building(alignment, grouping, own_width)
    for names in alignment.trunk:
        building.visit(dict(enumerate(names)))
    return building.finished(
        name, {task: building.head(index) for index, task in enumerate(alignment.tasks)}
    )


def assemble_anew(alignment: Alignment, grouping: Grouping) -> Assembly:
    """Writes one network of several tasks in other groups; its weights stay.

    Args:
        alignment: The network, `alone`.
        grouping: The task set of each of its channels, and which become one.

    Raises:
        IrregularLayout: tensors that are added carry channels of different task sets.
        ValueError: a group would have no input that it may read.
    """
    (network,) = alignment.networks
    building = _Building(alignment, with_identical_once(alignment, grouping), own_width=False)
    for names in alignment.trunk:
        building.visit(dict(enumerate(names)))
    outputs = map_tensors(network.outputs, lambda tensor: building.whole(0, tensor))
    return building.finished(network.name, outputs)


class _Building:
    """Walks the networks side by side and writes the merged nodes."""

    def __init__(self, alignment: Alignment, grouping: Grouping, own_width: bool):
        self.alignment = alignment
        self.own_width = own_width
        self.grouping = grouping
        self.numbers = numbers_of_one(alignment, grouping) if grouping.fused else None
        self.everyone = everything(len(alignment.tasks))
        self.writer = Writer(alignment)
        self.inputs: dict[str, Tensor] = {}
        self.by_name = isinstance(
            common_inputs({str(k): network for k, network in enumerate(alignment.networks)}),
            Mapping,
        )
        # The pieces of each tensor, by network: the trunk's are listed under every network.
        self.values: list[dict[Tensor, list[Piece]]] = [{} for _ in alignment.networks]
        self.copies: dict[tuple[int, str, int], str] = {}

    def finished(self, name: str, outputs: Any) -> Assembly:
        """What is written, with these outputs."""
        network = Network(
            name=name,
            layers=self.writer.layers,
            nodes=tuple(self.writer.nodes),
            inputs=tuple(self.inputs.values()),
            outputs=outputs,
            dict_inputs=self.by_name,
        )
        return Assembly(network, self.writer.origins)

    # --- walking ---------------------------------------------------------------------------

    def head(self, index: int) -> Any:
        self.values[index] = {
            tensor: [
                piece
                for piece in pieces
                if piece.mask >> index & 1 and piece.given in (None, COMMON, index)
            ]
            for tensor, pieces in self.values[index].items()
        }
        for node in self.alignment.head(index):
            self.visit({index: node})
        outputs = self.alignment.networks[index].outputs
        return map_tensors(outputs, lambda tensor: self.whole(index, tensor))

    def visit(self, names: Mapping[int, str]) -> None:
        """Writes the merged nodes of corresponding nodes, by the networks that take part."""
        lead, name = next(iter(names.items()))
        role = self.alignment.graphs[lead].roles[name]
        calls = {k: self.alignment.call(k, name) for k, name in names.items()}
        if role == "join" and (self._is_frozen(calls) or self._is_own_input(calls)):
            role = "copied"
        getattr(self, f"_visit_{role}")(calls)

    def _is_frozen(self, calls: Calls) -> bool:
        for k, call in calls.items():
            graph = self.alignment.graphs[k]
            for space in graph.spaces_of(Tensor(call.node.name)):
                if graph.spaces[space].frozen or self._trunk_frozen(k, space):
                    return True
        return False

    def _is_own_input(self, calls: Calls) -> bool:
        """Whether the networks' own preprocessings of the input, not alike, are combined."""
        given = {piece.given for piece in self._input_pieces(calls)}
        return None not in given and (given != {COMMON} or not are_alike(list(calls.values())))

    def _input_pieces(self, calls: Calls) -> list[Piece]:
        return [
            piece
            for k, call in calls.items()
            for tensor in call.node.inputs
            for piece in self.pieces(k, tensor)
        ]

    def _trunk_frozen(self, k: int, space: int) -> bool:
        first = self.alignment.graphs[k].spaces[space].channels[0]
        return any(
            found.frozen is not None and first in found.channels[k]
            for found in self.alignment.spaces
        )

    def pieces(self, k: int, tensor: Tensor) -> list[Piece]:
        return self.values[k][tensor]

    def store(self, calls: Calls, pieces: list[Piece], output: int = 0) -> None:
        pieces = sorted(pieces, key=lambda piece: group_order(piece.mask))
        for k, call in calls.items():
            self.values[k][Tensor(call.node.name, output)] = pieces

    # --- roles -----------------------------------------------------------------------------

    def _visit_input(self, calls: Calls) -> None:
        lead, call = next(iter(calls.items()))
        name = call.layer.name
        if name not in self.inputs:  # which the head of another network may have read already
            self.inputs[name] = self.writer.emit(
                name, call.layer.config, {}, None, call, {}, call.out_shape
            )
        tensor = self.inputs[name]
        width = len(self.labels(lead, Tensor(call.node.name)))
        layout = Layout(np.full(width, COMMON), np.arange(width))
        self.store(calls, [Piece(tensor, self.everyone, layout, given=COMMON)])

    def _visit_mixing(self, calls: Calls) -> None:
        calls = {k: self._unmerged(k, call) for k, call in calls.items()}
        columns = {k: self._columns(k, call) for k, call in calls.items()}
        found = sorted(
            {mask for masks, _ in columns.values() for mask in masks.tolist()} - {0},
            key=group_order,
        )
        result = []
        for mask in found:
            layout = self._seen_by_others(calls, merge_columns(columns, mask))
            result.append(self._mix(calls, mask, layout))
        self.store(calls, result)

    def _unmerged(self, k: int, call: Call) -> Call:
        """The call with rows that read each channel out of the one that it was fused into."""
        if self.grouping.factors is None:
            return call
        factors = self.grouping.factors[k][self.labels(k, call.node.inputs[0])]
        return with_scaled_rows(known_rule(call), call, factors)

    def _seen_by_others(self, calls: Calls, layout: Layout, output: int = 0) -> Layout:
        """The layout of a layer's output with what other channels its own ones stand for."""
        labels = {k: self.labels(k, Tensor(call.node.name, output)) for k, call in calls.items()}
        if self.alignment.identical is not None and len(calls) > 1:
            identical = self.alignment.identical
            layout = seen_by_others(layout, {k: identical[k][own] for k, own in labels.items()})
        if self.numbers is None:
            return layout
        return with_fused(layout, {k: self.numbers[k][own] for k, own in labels.items()}, labels)

    def _columns(self, k: int, call: Call) -> tuple[np.ndarray, np.ndarray]:
        """The task sets of the channels that a layer writes, and each one's part of its space.

        Parts are numbered as they follow one another in this layer's output, which is the order
        of the concatenation that it may be added to. Frozen spaces keep their own order.
        """
        labels = self.labels(k, Tensor(call.node.name))
        graph = self.alignment.graphs[k]
        index = int(graph.space_of[labels[0]])
        space = graph.spaces[index]
        segments = space.segments[np.searchsorted(space.channels, labels)]
        if space.frozen or self._trunk_frozen(k, index):
            segments = np.zeros_like(segments)
        _, first, parts = np.unique(segments, return_index=True, return_inverse=True)
        return self.grouping.masks[k][labels], np.argsort(np.argsort(first))[parts]

    def _mix(self, calls: Calls, mask: int, layout: Layout) -> Piece:
        lead = next(iter(calls))
        nets = layout.owners()
        readable = [
            piece
            for piece in self.pieces(lead, calls[lead].node.inputs[0])
            if piece.mask & mask == mask and piece.given in {None, COMMON, *nets}
        ]
        call = calls[next(k for k in calls if k in nets)]
        if not readable:
            names = self.writer.task_names(mask)
            raise ValueError(
                f"The group {names} of layer '{call.layer.name}' has no input: "
                "no group that it may read needs all of its tasks. Give some channels of the "
                "layers before it a task set that holds these tasks."
            )
        if self.own_width:
            readable = _through_one(readable, layout)
        rule = known_rule(call)
        if any(axes.inputs is not None and axes.outputs is None for axes in rule.weights.values()):
            # These weights belong to the input channel alone: each network needs its own copy.
            readable = [own for piece in readable for own in copies(piece, layout)]
        tensor, rows = self.side_by_side(readable)
        shape = (*call.out_shape[:-1], len(layout))
        config = rule.resized(call, len(rows), len(layout))
        weights = slice_weights(rule, calls, rows, layout)
        tensor = self.writer.emit(
            self.writer.group_name(calls[lead], mask, len(calls) == 1),
            config,
            weights,
            mask,
            call,
            {call.node.inputs[0]: tensor},
            shape,
            origin=Origin(self._origin(calls), rows, layout, "mixing"),
        )
        return Piece(tensor, mask, layout)

    def _visit_channelwise(self, calls: Calls) -> None:
        lead = next(iter(calls))
        result = []
        for piece in self.pieces(lead, calls[lead].node.inputs[0]):
            if piece.given == COMMON and not self._keeps_common(calls):
                # Every network has its own preprocessing of the shared input.
                for k in calls:
                    own = dataclasses.replace(piece, layout=piece.layout.owned_by(k), given=k)
                    result.append(self._keep({k: calls[k]}, own))
            else:
                result.append(self._keep(calls, piece))
        self.store(calls, result)

    def _keeps_common(self, calls: Calls) -> bool:
        """Whether the networks do the same with the input, channels beside it included."""
        rearranged = known_rule(next(iter(calls.values()))).sources is not None
        return are_alike(list(calls.values())) and not (
            rearranged and len({call.in_shape[-1] for call in calls.values()}) > 1
        )

    def _keep(self, calls: Calls, piece: Piece) -> Piece:
        nets = set(piece.layout.nets.tolist())
        lead = next((k for k in calls if k in nets), next(iter(calls)))
        call = calls[lead]
        rule = known_rule(call)
        layout = arrange(rule, calls, call, piece.layout)
        if not is_regular(rule, calls, call, piece.layout, layout):
            raise IrregularLayout(lead, call.node.name)
        shape = (*call.out_shape[:-1], len(layout))
        config = rule.resized(call, piece.width, len(layout))
        weights = slice_weights(rule, calls, piece.layout, layout)
        name, tasks = call.layer.name, None
        if piece.given is None:
            first = next(iter(calls.values()))
            name, tasks = self.writer.group_name(first, piece.mask, len(calls) == 1), piece.mask
        elif piece.given != COMMON:
            name, tasks = self.writer.own_name(name, piece.given), piece.mask
        tensor = self.writer.emit(
            name,
            config,
            weights,
            tasks,
            call,
            {call.node.inputs[0]: piece.tensor},
            shape,
            origin=Origin(self._origin(calls), piece.layout, layout, "channelwise"),
        )
        return dataclasses.replace(piece, tensor=tensor, layout=layout)

    def _visit_join(self, calls: Calls) -> None:
        lead = next(iter(calls))
        call = calls[lead]
        operands = [self.pieces(lead, tensor) for tensor in call.node.inputs]
        result = []
        for mask in dict.fromkeys(piece.mask for piece in operands[0]):
            same = [[piece for piece in pieces if piece.mask == mask] for pieces in operands]
            parts = [self.side_by_side(pieces) for pieces in same if pieces]
            given = same[0][0].given
            layout = parts[0][1]
            if len(parts) < len(same) or any(not layout.equals(other) for _, other in parts):
                raise IrregularLayout(lead, call.node.name)
            tensors = [tensor for tensor, _ in parts]
            joined = self._join(call, mask, tensors, layout, len(calls) == 1)
            result.append(dataclasses.replace(joined, given=given))
        self.store(calls, result)

    def _join(
        self, call: Call, mask: int, tensors: Sequence[Tensor], layout: Layout, single: bool
    ) -> Piece:
        # Equal operands may be listed twice, so they are replaced in order of appearance.
        queue = iter(tensors)
        args = map_tensors(call.node.args, lambda _: next(queue))
        kwargs = map_tensors(call.node.kwargs, lambda _: next(queue))
        shape = (*call.out_shape[:-1], len(layout))
        name = self.writer.group_name(call, mask, single)
        tensor = self.writer.write(
            name, call.layer, call.layer.config, {}, mask, args, kwargs, (shape,)
        )
        return Piece(tensor, mask, layout)

    def _visit_concatenate(self, calls: Calls) -> None:
        result = []
        shifts = dict.fromkeys(calls, 0)
        lead = next(iter(calls))
        for position, tensor in enumerate(calls[lead].node.inputs):
            for piece in self.pieces(lead, tensor):
                result.extend(self._shift(piece, shifts))
            for k, call in calls.items():
                shifts[k] += len(self.labels(k, call.node.inputs[position]))
        self.store(calls, self._gathered(result))

    def _gathered(self, pieces: list[Piece]) -> list[Piece]:
        """One piece a task set, so that what follows a concatenation is written once a group."""
        gathered = []
        for mask, given in dict.fromkeys((piece.mask, piece.given) for piece in pieces):
            same = [piece for piece in pieces if (piece.mask, piece.given) == (mask, given)]
            tensor, layout = self.side_by_side(same)
            gathered.append(Piece(tensor, mask, layout, given))
        return gathered

    def _shift(self, piece: Piece, shifts: Mapping[int, int]) -> list[Piece]:
        if piece.given == COMMON and len(set(shifts.values())) == 1:
            shifts = {COMMON: next(iter(shifts.values()))}
        if piece.given != COMMON or COMMON in shifts:
            return [dataclasses.replace(piece, layout=piece.layout.shifted(shifts))]
        own = {k: piece.layout.owned_by(k).shifted(shifts) for k in shifts}
        return [dataclasses.replace(piece, layout=own[k], given=k) for k in shifts]

    def _visit_copied(self, calls: Calls) -> None:
        given = {piece.given for piece in self._input_pieces(calls)}
        if given == {COMMON} and are_alike(list(calls.values())):
            lead = next(iter(calls))
            for output, piece in enumerate(self._copy(lead, calls, self.everyone, COMMON)):
                self.store(calls, [piece], output)
            return
        results: dict[int, list[Piece]] = {}
        for k, call in calls.items():
            # A network's own preprocessing of the input is for all; what one network's layers do
            # for all tasks the others' need not do.
            mask = int(self.grouping.masks[k][self.labels(k, Tensor(call.node.name))[0]])
            if mask:
                results[k] = self._copy(k, calls, mask, k)
        for output, found in enumerate(zip(*results.values(), strict=True)):
            pieces = list(found)
            if None not in given:
                pieces = [
                    dataclasses.replace(piece, given=k)
                    for k, piece in zip(results, pieces, strict=True)
                ]
            self.store(calls, pieces, output)

    def _copy(self, k: int, calls: Calls, mask: int, owner: int) -> list[Piece]:
        """One network's own node on its own whole tensors."""
        call = calls[k]
        args = map_tensors(call.node.args, lambda tensor: self.whole(k, tensor))
        kwargs = map_tensors(call.node.kwargs, lambda tensor: self.whole(k, tensor))
        key = (k, call.layer.name, mask)
        if key not in self.copies:
            wanted, tasks = self._copy_name(k, call, mask, owner)
            self.copies[key] = self.writer.add_layer(
                wanted, call.layer, call.layer.config, call.layer.weights, tasks
            )
        tensor = self.writer.add_node(self.copies[key], args, kwargs, call.node.shapes)
        pieces = []
        for output in range(len(call.node.shapes)):
            width = len(self.labels(k, Tensor(call.node.name, output)))
            layout = Layout(np.full(width, owner), np.arange(width))
            if owner != COMMON:
                layout = self._seen_by_others(calls, layout, output)
            given = COMMON if owner == COMMON else None
            pieces.append(Piece(Tensor(tensor.node, output), mask, layout, given))
        return pieces

    def _copy_name(self, k: int, call: Call, mask: int, owner: int) -> tuple[str, int | None]:
        """The name of a copied layer, and its task set if it is a group of its own."""
        if owner == COMMON and not (call.layer.weights and call.node.name in self.alignment.once):
            return call.layer.name, None
        if owner == COMMON or self._is_for_several(k, call):
            return self.writer.group_name(call, mask, False), mask
        return self.writer.own_name(call.layer.name, k), mask

    def _is_for_several(self, k: int, call: Call) -> bool:
        """Whether one network's layer does for several tasks what those of the others did."""
        graph = self.alignment.graphs[k]
        labels = self.labels(k, Tensor(call.node.name))
        given = graph.spaces[int(graph.space_of[labels[0]])].given
        return not given and len(tasks_of(self.grouping.masks[k][labels[0]])) > 1

    # --- tensors ---------------------------------------------------------------------------

    def labels(self, k: int, tensor: Tensor) -> np.ndarray:
        return self.alignment.graphs[k].labels[tensor]

    def whole(self, k: int, tensor: Tensor) -> Tensor:
        """One network's tensor with all of its channels in their original order."""
        own = [piece for piece in self.pieces(k, tensor) if piece.layout.of(k).all()]
        if not own:
            return self._stand_in(k, tensor).tensor
        own.sort(key=lambda piece: int(piece.layout.at(k)[0]))
        result, layout = self.side_by_side(own)
        if not np.array_equal(layout.at(k), np.arange(len(self.labels(k, tensor)))):
            raise IrregularLayout(k, tensor.node)
        return result

    def _stand_in(self, k: int, tensor: Tensor) -> Piece:
        """Another network's channels, where they serve this one's task in place of its own."""
        places = np.arange(len(self.labels(k, tensor)))
        for piece in self.pieces(k, tensor):
            if np.array_equal(piece.layout.positions, places):
                return piece
        raise IrregularLayout(k, tensor.node)

    def side_by_side(self, pieces: list[Piece]) -> tuple[Tensor, Layout]:
        """The pieces' channels in one tensor."""
        layout = Layout.concatenate([piece.layout for piece in pieces])
        tensors = tuple(piece.tensor for piece in pieces)
        if len(tensors) == 1:
            return tensors[0], layout
        mask = functools.reduce(operator.and_, (piece.mask for piece in pieces))
        return self.writer.concatenate(tensors, mask), layout

    def _origin(self, calls: Calls) -> tuple[str | None, ...]:
        return tuple(
            calls[k].node.name if k in calls else None for k in range(len(self.alignment.networks))
        )


def _through_one(pieces: list[Piece], layout: Layout) -> list[Piece]:
    """The pieces without the input as seen by other networks than that of most channels."""
    views = {given for given in (p.given for p in pieces) if given is not None} - {COMMON}
    if len(views) < 2:
        return pieces
    lead = max(sorted(views), key=lambda net: int(np.sum(layout.nets == net)))
    return [piece for piece in pieces if piece.given in (None, COMMON, lead)]
