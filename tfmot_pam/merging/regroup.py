"""Regrouping: the task set of every channel by one method, after the guards."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.fusing import fused
from tfmot_pam.merging.grouping import (
    Grouping,
    fixed_masks,
    free_spaces,
    group_order,
    identical_elsewhere,
    mask_of,
    tasks_of,
    with_identical_once,
)
from tfmot_pam.merging.method_table import find_method
from tfmot_pam.merging.methods import MergeMethod, Request, SpaceDecision, Threshold
from tfmot_pam.merging.units import kept_apart, unit_spaces
from tfmot_pam.merging.width import own_width

# Halvings of rho in the search for a wanted share: finer than one channel in a million.
_BISECTIONS = 24


def regroup(
    request: Request, method: str | MergeMethod, min_group: int = 4, width: str = "union"
) -> Grouping:
    """The task set of every channel by one method, after the guards.

    Args:
        request: Alignment, relevance and thresholds.
        method: The method, or its name.
        min_group: Smaller groups are folded into the cheapest group that exists with a superset
            of their tasks.
        width: `"own"` leaves every task at most as many channels of a space as its own network
            has there, the most relevant ones; `"union"` leaves all.

    Returns:
        A grouping from which a network can be assembled.
    """
    method, wanted = find_method(method), request.threshold.share
    decided: dict[int, np.ndarray | SpaceDecision] = {}
    if wanted is None or not method.needs_relevance:
        decided = dict(method.decide(request))
        best = _guarded(request, method, min_group, decided)
    else:
        best = _with_share(request, method, min_group, wanted)
    fusions = {i: found for i, found in decided.items() if isinstance(found, SpaceDecision)}
    if width == "own" and not method.own_width:
        classes = {index: found.classes for index, found in fusions.items()}
        free = free_spaces(request.alignment)
        narrower = own_width(request, {index: best[index] for index in free}, classes)
        best = _readable(request.alignment, best | narrower)
    grouping = fused(request.alignment, _placed(request.alignment, best), fusions)
    return with_identical_once(request.alignment, grouping)


def _with_share(
    request: Request, method: MergeMethod, min_group: int, wanted: float
) -> dict[int, np.ndarray]:
    """What a method decides at the threshold that comes closest to a share of shared channels."""
    best: dict[int, np.ndarray] = {}
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        rho = (low + high) / 2
        tried = dataclasses.replace(request, threshold=Threshold(rho=rho))
        found = _guarded(tried, method, min_group, method.decide(tried))
        share = shared_share(found)
        if not best or abs(share - wanted) < abs(shared_share(best) - wanted):
            best = found
        low, high = (rho, high) if share > wanted else (low, rho)
    return best


def shared_share(decided: Mapping[int, np.ndarray]) -> float:
    """The share of all channels that more than one task needs."""
    values = np.concatenate(list(decided.values())) if decided else np.zeros(1, int)
    return float(np.mean([len(tasks_of(mask)) > 1 for mask in values.tolist()]))


def _guarded(
    request: Request,
    method: MergeMethod,
    min_group: int,
    found: Mapping[int, np.ndarray | SpaceDecision],
) -> dict[int, np.ndarray]:
    """The task sets that a method decided on, after the guards, by index of the trunk space."""
    alignment = request.alignment
    decided = {
        index: own.masks if isinstance(own, SpaceDecision) else own for index, own in found.items()
    }
    if method.needs_relevance:
        for index, found in decided.items():
            owner = _owners(alignment, index)
            # What several networks have in common stays whatever relevance says.
            found = found | np.where(identical_elsewhere(alignment, index), 1 << owner, 0)
            covered = _cover(found, owner, index, request, min_group)
            decided[index] = _fold(covered, min_group)
    return _readable(alignment, _once(alignment, decided))


def _once(alignment: Alignment, decided: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """What is decided where of channels that are the same in several networks one stays."""
    masks = with_identical_once(alignment, _placed(alignment, decided)).masks
    return {
        index: np.concatenate(
            [own[found] for own, found in zip(masks, alignment.spaces[index].channels, strict=True)]
        )
        for index in decided
    }


def _owners(alignment: Alignment, index: int) -> np.ndarray:
    """The network that each channel of a space is from."""
    return np.repeat(np.arange(len(alignment.tasks)), alignment.spaces[index].widths)


def _placed(alignment: Alignment, decided: Mapping[int, np.ndarray]) -> Grouping:
    """The masks of the spaces, written to the channels of the networks."""
    masks = [mask.copy() for mask in fixed_masks(alignment).masks]
    for index, found in decided.items():
        space = alignment.spaces[index]
        for k, part in enumerate(np.split(found, np.cumsum(space.widths)[:-1])):
            masks[k][space.channels[k]] = part
    return Grouping(tuple(masks))


def _cover(
    found: np.ndarray, owner: np.ndarray, index: int, request: Request, least: int
) -> np.ndarray:
    """Gives every task its most relevant channels where fewer than `least` are left to it."""
    for task in range(len(request.alignment.tasks)):
        wanted = min(least, int(np.sum(owner == task)))
        missing = wanted - int(np.sum(found >> task & 1))
        if missing > 0:
            latest = request.paths[index, task].order[::-1]
            lacking = [j for j in latest.tolist() if not found[j] >> task & 1]
            found[lacking[:missing]] |= 1 << task
    return found


def _fold(found: np.ndarray, least: int) -> np.ndarray:
    """Folds small groups into the cheapest group that exists with a superset of their tasks."""
    present = sorted(set(found.tolist()) - {0}, key=group_order, reverse=True)
    for mask in present:
        size = int(np.sum(found == mask))
        if not 0 < size < least:
            continue
        larger = [other for other in set(found.tolist()) if other != mask and other & mask == mask]
        if larger:
            found[found == mask] = min(larger, key=lambda m: (len(tasks_of(m)), tasks_of(m)))
    return found


def _inputs_of_spaces(alignment: Alignment) -> dict[int, list[list[int]]]:
    """For each trunk space, for each layer that writes it, the trunk spaces which that reads."""
    graph, result = alignment.graphs[0], dict[int, list[list[int]]]()
    trunk = {names[0] for names in alignment.trunk}
    by_channel = {
        int(channel): index
        for index, space in enumerate(alignment.spaces)
        for channel in space.channels[0]
    }
    for index, space in enumerate(alignment.spaces):
        result[index] = []
        for name in space.writers:
            node = graph.network.node(name)
            if graph.roles[name] == "mixing" and name in trunk:  # Heads may write to it too.
                labels = np.unique(graph.labels[node.inputs[0]])
                result[index].append(sorted({by_channel[int(label)] for label in labels}))
    return result


def _allowed(
    alignment: Alignment, masks: Sequence[np.ndarray], inputs: list[list[int]]
) -> list[set[int]]:
    """For each layer that writes a space, the masks of the groups it may read."""
    result = []
    for spaces in inputs:
        found: set[int] = set()
        for space in spaces:
            for k, channels in enumerate(alignment.spaces[space].channels):
                found |= set(masks[k][channels].tolist())
        result.append(found - {0})
    return result


def _readable(alignment: Alignment, decided: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Demotes groups that no group below could feed to the largest part that one can.

    This happens above frozen layers, where every channel is exclusive. A demotion may leave others
    without an input, so it is repeated until all groups can be read.
    """
    inputs = _inputs_of_spaces(alignment)
    units = [unit for unit in unit_spaces(alignment) if unit[0] in decided]
    whole = {index for unit in units for index in unit}
    decided = {index: found.copy() for index, found in decided.items()}
    changed = True
    while changed:
        changed = False
        for unit in units:
            if not all(_is_fed_in(alignment, decided, inputs, index) for index in unit):
                decided |= kept_apart(alignment, unit)
                changed = True
        for index, found in decided.items():
            if index in whole:
                continue
            allowed = _allowed(alignment, _placed(alignment, decided).masks, inputs[index])
            owner = _owners(alignment, index)
            demoted = _demote(found, owner, allowed)
            demoted = _cover_exclusively(demoted, owner, len(alignment.tasks))
            changed |= not np.array_equal(found, demoted)
            decided[index] = demoted
    return decided


def _is_fed_in(
    alignment: Alignment,
    decided: Mapping[int, np.ndarray],
    inputs: Mapping[int, list[list[int]]],
    index: int,
) -> bool:
    """Whether every group of a space could be fed."""
    allowed = _allowed(alignment, _placed(alignment, decided).masks, inputs[index])
    return all(_is_fed(mask, allowed) for mask in set(decided[index].tolist()) - {0})


def _demote(found: np.ndarray, owner: np.ndarray, allowed: list[set[int]]) -> np.ndarray:
    found = found.copy()
    for mask in set(found.tolist()) - {0}:
        if _is_fed(mask, allowed):
            continue
        parts = [part for part in _parts(mask) if _is_fed(part, allowed)]
        if not parts:
            continue  # once the layers below have been demoted too, there is something to read
        for j in np.flatnonzero(found == mask).tolist():
            found[j] = next((p for p in parts if p >> int(owner[j]) & 1), parts[0])
    return found


def _is_fed(mask: int, allowed: list[set[int]]) -> bool:
    """Whether every layer that writes a group could read some group for it."""
    return all(any(other & mask == mask for other in below) for below in allowed)


def _parts(mask: int) -> list[int]:
    """The proper subsets of a task set, large ones first; single tasks can always be fed."""
    members = tasks_of(mask)
    return [
        mask_of(chosen)
        for size in range(len(members) - 1, 0, -1)
        for chosen in itertools.combinations(members, size)
    ]


def _cover_exclusively(found: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Leaves no task without a channel: it then keeps those of its own network."""
    for task in range(count):
        if not np.any(found >> task & 1):
            found[owner == task] = mask_of([task])
    return found
