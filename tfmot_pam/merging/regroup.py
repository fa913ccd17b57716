"""Regrouping: the task set of every channel by one method, after the guards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.feeding import owners, placed, readable
from tfmot_pam.merging.fusing import fused
from tfmot_pam.merging.grouping import (
    Grouping,
    free_spaces,
    group_order,
    identical_elsewhere,
    tasks_of,
    with_identical_once,
)
from tfmot_pam.merging.method_table import find_method
from tfmot_pam.merging.methods import MergeMethod, Request, SpaceDecision, Threshold
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
    classes = {index: found.classes for index, found in fusions.items()}
    if width == "own" and not method.own_width:
        free = free_spaces(request.alignment)
        narrower = own_width(request, {index: best[index] for index in free}, classes)
        best = readable(request.alignment, best | narrower, classes)
    grouping = fused(request.alignment, placed(request.alignment, best), fusions)
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
    classes = {index: own.classes for index, own in found.items() if isinstance(own, SpaceDecision)}
    decided = {
        index: own.masks if isinstance(own, SpaceDecision) else own for index, own in found.items()
    }
    if method.needs_relevance:
        for index, masks in decided.items():
            owner = owners(alignment, index)
            # What several networks have in common stays whatever relevance says.
            masks = masks | np.where(identical_elsewhere(alignment, index), 1 << owner, 0)
            covered = _cover(masks, owner, index, request, min_group)
            decided[index] = _fold(covered, min_group)
    return readable(alignment, _once(alignment, decided), classes)


def _once(alignment: Alignment, decided: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """What is decided where of channels that are the same in several networks one stays."""
    masks = with_identical_once(alignment, placed(alignment, decided)).masks
    return {
        index: np.concatenate(
            [own[found] for own, found in zip(masks, alignment.spaces[index].channels, strict=True)]
        )
        for index in decided
    }


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
