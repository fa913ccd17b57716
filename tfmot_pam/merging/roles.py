"""How corresponding nodes become nodes of the merged network, by their role in the channel graph.

PAM (He et al., KDD 2021, section 4): one layer per group, edges from supersets to subsets only,
trained weights on the edges within one network, zeros across networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfmot_pam.graph.channels import known_rule
from tfmot_pam.graph.likeness import are_alike
from tfmot_pam.graph.network import Tensor, map_tensors
from tfmot_pam.graph.rules import Call
from tfmot_pam.graph.slicing import (
    Layout,
    Origin,
    arrange,
    is_regular,
    slice_weights,
    with_scaled_rows,
)
from tfmot_pam.merging.building import Building, Calls, IrregularLayout
from tfmot_pam.merging.grouping import group_order, tasks_of
from tfmot_pam.merging.pieces import COMMON, Piece, copies, merge_columns


def write_input(building: Building, calls: Calls) -> None:
    """The input, which all networks read."""
    lead, call = next(iter(calls.items()))
    name = call.layer.name
    if name not in building.inputs:  # which the head of another network may have read already
        building.inputs[name] = building.writer.emit(
            name, call.layer.config, {}, None, call, {}, call.out_shape
        )
    tensor = building.inputs[name]
    width = len(building.labels(lead, Tensor(call.node.name)))
    layout = Layout(np.full(width, COMMON), np.arange(width))
    building.store(calls, [Piece(tensor, building.everyone, layout, given=COMMON)])


def write_mixing(building: Building, calls: Calls) -> None:
    """A layer that mixes channels: one a task set, which reads the groups of its supersets."""
    calls = {k: _unmerged(building, k, call) for k, call in calls.items()}
    columns = {k: _columns(building, k, call) for k, call in calls.items()}
    found = sorted(
        {mask for masks, _ in columns.values() for mask in masks.tolist()} - {0},
        key=group_order,
    )
    result = []
    for mask in found:
        layout = building.seen_by_others(calls, merge_columns(columns, mask))
        result.append(_mix(building, calls, mask, layout))
    building.store(calls, result)


def _unmerged(building: Building, k: int, call: Call) -> Call:
    """The call with rows that read each channel out of the one that it was fused into."""
    if building.grouping.factors is None:
        return call
    factors = building.grouping.factors[k][building.labels(k, call.node.inputs[0])]
    return with_scaled_rows(known_rule(call), call, factors)


def _columns(building: Building, k: int, call: Call) -> tuple[np.ndarray, np.ndarray]:
    """The task sets of the channels that a layer writes, and each one's part of its space.

    Parts are numbered as they follow one another in this layer's output, which is the order
    of the concatenation that it may be added to. Frozen spaces keep their own order.
    """
    labels = building.labels(k, Tensor(call.node.name))
    graph = building.alignment.graphs[k]
    index = int(graph.space_of[labels[0]])
    space = graph.spaces[index]
    segments = space.segments[np.searchsorted(space.channels, labels)]
    if space.frozen or building.is_frozen_space(k, index):
        segments = np.zeros_like(segments)
    _, first, parts = np.unique(segments, return_index=True, return_inverse=True)
    return building.grouping.masks[k][labels], np.argsort(np.argsort(first))[parts]


def _mix(building: Building, calls: Calls, mask: int, layout: Layout) -> Piece:
    lead = next(iter(calls))
    nets = layout.owners()
    readable = [
        piece
        for piece in building.pieces(lead, calls[lead].node.inputs[0])
        if piece.mask & mask == mask and piece.given in {None, COMMON, *nets}
    ]
    call = calls[next(k for k in calls if k in nets)]
    if not readable:
        names = building.writer.task_names(mask)
        raise ValueError(
            f"The group {names} of layer '{call.layer.name}' has no input: "
            "no group that it may read needs all of its tasks. Give some channels of the "
            "layers before it a task set that holds these tasks."
        )
    if building.own_width:
        readable = _through_one(readable, layout)
    rule = known_rule(call)
    if any(axes.inputs is not None and axes.outputs is None for axes in rule.weights.values()):
        # These weights belong to the input channel alone: each network needs its own copy.
        readable = [own for piece in readable for own in copies(piece, layout)]
    tensor, rows = building.side_by_side(readable)
    shape = (*call.out_shape[:-1], len(layout))
    config = rule.resized(call, len(rows), len(layout))
    weights = slice_weights(rule, calls, rows, layout)
    tensor = building.writer.emit(
        building.writer.group_name(calls[lead], mask, len(calls) == 1),
        config,
        weights,
        mask,
        call,
        {call.node.inputs[0]: tensor},
        shape,
        origin=Origin(building.origin(calls), rows, layout, "mixing"),
    )
    return Piece(tensor, mask, layout)


def _through_one(pieces: list[Piece], layout: Layout) -> list[Piece]:
    """The pieces without the input as seen by other networks than that of most channels."""
    views = {given for given in (p.given for p in pieces) if given is not None} - {COMMON}
    if len(views) < 2:
        return pieces
    lead = max(sorted(views), key=lambda net: int(np.sum(layout.nets == net)))
    return [piece for piece in pieces if piece.given in (None, COMMON, lead)]


def write_channelwise(building: Building, calls: Calls) -> None:
    """A layer that keeps channels apart: one for each group that it reads."""
    lead = next(iter(calls))
    result = []
    for piece in building.pieces(lead, calls[lead].node.inputs[0]):
        if piece.given == COMMON and not _keeps_common(calls):
            # Every network has its own preprocessing of the shared input.
            for k in calls:
                own = dataclasses.replace(piece, layout=piece.layout.owned_by(k), given=k)
                result.append(_keep(building, {k: calls[k]}, own))
        else:
            result.append(_keep(building, calls, piece))
    building.store(calls, result)


def _keeps_common(calls: Calls) -> bool:
    """Whether the networks do the same with the input, channels beside it included."""
    rearranged = known_rule(next(iter(calls.values()))).sources is not None
    return are_alike(list(calls.values())) and not (
        rearranged and len({call.in_shape[-1] for call in calls.values()}) > 1
    )


def _keep(building: Building, calls: Calls, piece: Piece) -> Piece:
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
        name, tasks = building.writer.group_name(first, piece.mask, len(calls) == 1), piece.mask
    elif piece.given != COMMON:
        name, tasks = building.writer.own_name(name, piece.given), piece.mask
    tensor = building.writer.emit(
        name,
        config,
        weights,
        tasks,
        call,
        {call.node.inputs[0]: piece.tensor},
        shape,
        origin=Origin(building.origin(calls), piece.layout, layout, "channelwise"),
    )
    return dataclasses.replace(piece, tensor=tensor, layout=layout)


def write_join(building: Building, calls: Calls) -> None:
    """What is added or multiplied: group by group."""
    lead = next(iter(calls))
    call = calls[lead]
    operands = [building.pieces(lead, tensor) for tensor in call.node.inputs]
    result = []
    for mask in dict.fromkeys(piece.mask for piece in operands[0]):
        same = [[piece for piece in pieces if piece.mask == mask] for pieces in operands]
        parts = [building.side_by_side(pieces) for pieces in same if pieces]
        given = same[0][0].given
        layout = parts[0][1]
        if len(parts) < len(same) or any(not layout.equals(other) for _, other in parts):
            raise IrregularLayout(lead, call.node.name)
        tensors = [tensor for tensor, _ in parts]
        joined = _join(building, call, mask, tensors, layout, len(calls) == 1)
        result.append(dataclasses.replace(joined, given=given))
    building.store(calls, result)


def _join(
    building: Building,
    call: Call,
    mask: int,
    tensors: Sequence[Tensor],
    layout: Layout,
    single: bool,
) -> Piece:
    # Equal operands may be listed twice, so they are replaced in order of appearance.
    queue = iter(tensors)
    args = map_tensors(call.node.args, lambda _: next(queue))
    kwargs = map_tensors(call.node.kwargs, lambda _: next(queue))
    shape = (*call.out_shape[:-1], len(layout))
    wanted = building.writer.group_name(call, mask, single)
    name = building.writer.group(wanted, call, call.layer.config, {}, mask)
    return Piece(building.writer.add_call(name, args, kwargs, (shape,)), mask, layout)


def write_concatenate(building: Building, calls: Calls) -> None:
    """A concatenation: its groups are those of what it reads."""
    result = []
    shifts = dict.fromkeys(calls, 0)
    lead = next(iter(calls))
    for position, tensor in enumerate(calls[lead].node.inputs):
        for piece in building.pieces(lead, tensor):
            result.extend(_shift(piece, shifts))
        for k, call in calls.items():
            shifts[k] += len(building.labels(k, call.node.inputs[position]))
    building.store(calls, _gathered(building, result))


def _gathered(building: Building, pieces: list[Piece]) -> list[Piece]:
    """One piece a task set, so that what follows a concatenation is written once a group."""
    gathered = []
    for mask, given in dict.fromkeys((piece.mask, piece.given) for piece in pieces):
        same = [piece for piece in pieces if (piece.mask, piece.given) == (mask, given)]
        tensor, layout = building.side_by_side(same)
        gathered.append(Piece(tensor, mask, layout, given))
    return gathered


def _shift(piece: Piece, shifts: Mapping[int, int]) -> list[Piece]:
    if piece.given == COMMON and len(set(shifts.values())) == 1:
        shifts = {COMMON: next(iter(shifts.values()))}
    if piece.given != COMMON or COMMON in shifts:
        return [dataclasses.replace(piece, layout=piece.layout.shifted(shifts))]
    own = {k: piece.layout.owned_by(k).shifted(shifts) for k in shifts}
    return [dataclasses.replace(piece, layout=own[k], given=k) for k in shifts]


def write_copied(building: Building, calls: Calls) -> None:
    """A layer that is not taken apart: each network's own, on its own whole tensors."""
    given = {piece.given for piece in building.input_pieces(calls)}
    if given == {COMMON} and are_alike(list(calls.values())):
        lead = next(iter(calls))
        for output, piece in enumerate(_copy(building, lead, calls, building.everyone, COMMON)):
            building.store(calls, [piece], output)
        return
    results: dict[int, list[Piece]] = {}
    for k, call in calls.items():
        # A network's own preprocessing of the input is for all; what one network's layers do
        # for all tasks the others' need not do.
        mask = int(building.grouping.masks[k][building.labels(k, Tensor(call.node.name))[0]])
        if mask:
            results[k] = _copy(building, k, calls, mask, k)
    for output, found in enumerate(zip(*results.values(), strict=True)):
        pieces = list(found)
        if None not in given:
            pieces = [
                dataclasses.replace(piece, given=k)
                for k, piece in zip(results, pieces, strict=True)
            ]
        building.store(calls, pieces, output)


def _copy(building: Building, k: int, calls: Calls, mask: int, owner: int) -> list[Piece]:
    """One network's own node on its own whole tensors."""
    call = calls[k]
    args = map_tensors(call.node.args, lambda tensor: building.whole(k, tensor))
    kwargs = map_tensors(call.node.kwargs, lambda tensor: building.whole(k, tensor))
    key = (k, call.layer.name, mask)
    if key not in building.copies:
        wanted, tasks = _copy_name(building, k, call, mask, owner)
        building.copies[key] = building.writer.group(
            wanted, call, call.layer.config, call.layer.weights, tasks
        )
    tensor = building.writer.add_call(building.copies[key], args, kwargs, call.node.shapes)
    pieces = []
    for output in range(len(call.node.shapes)):
        width = len(building.labels(k, Tensor(call.node.name, output)))
        layout = Layout(np.full(width, owner), np.arange(width))
        if owner != COMMON:
            layout = building.seen_by_others(calls, layout, output)
        given = COMMON if owner == COMMON else None
        pieces.append(Piece(Tensor(tensor.node, output), mask, layout, given))
    return pieces


def _copy_name(
    building: Building, k: int, call: Call, mask: int, owner: int
) -> tuple[str, int | None]:
    """The name of a copied layer, and its task set if it is a group of its own."""
    if owner == COMMON and not (call.layer.weights and call.node.name in building.alignment.once):
        return call.layer.name, None
    if owner == COMMON or _is_for_several(building, k, call):
        return building.writer.group_name(call, mask, False), mask
    return building.writer.own_name(call.layer.name, k), mask


def _is_for_several(building: Building, k: int, call: Call) -> bool:
    """Whether one network's layer does for several tasks what those of the others did."""
    graph = building.alignment.graphs[k]
    labels = building.labels(k, Tensor(call.node.name))
    given = graph.spaces[int(graph.space_of[labels[0]])].given
    return not given and len(tasks_of(building.grouping.masks[k][labels[0]])) > 1


# By role: writes the merged nodes of corresponding calls, and stores what they compute.
WRITERS: dict[str, Callable[[Building, Calls], None]] = {
    "input": write_input,
    "mixing": write_mixing,
    "channelwise": write_channelwise,
    "join": write_join,
    "concatenate": write_concatenate,
    "copied": write_copied,
}
