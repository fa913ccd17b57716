"""Regrouping: from relevance paths and thresholds to the task set of every channel."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import (
    Grouping,
    everything,
    fixed_masks,
    free_spaces,
    group_order,
    mask_of,
    tasks_of,
)
from tfmot_pam.merging.relevance import RelevancePath

# Halvings of rho in the search for a wanted share: finer than one channel in a million.
_BISECTIONS = 24

# Relevance paths by (index of the trunk space, index of the task). A path's channels are those of
# all networks in the space, the first network's first.
Paths = Mapping[tuple[int, int], RelevancePath]


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What counts as irrelevant; exactly one of the three is set.

    Args:
        rho: Share of each task's measurable relevance, 0 <= rho < 1.
        alpha: Relevance in nats, one for all tasks or one a task.
        share: The wanted share of channels that several tasks need.
    """

    rho: float | None = None
    alpha: float | Mapping[str, float] | None = None
    share: float | None = None


def irrelevant_masks(
    alignment: Alignment, paths: Paths, threshold: Threshold
) -> dict[int, np.ndarray]:
    """For each free space, the tasks that need each of its channels, as masks."""
    if threshold.alpha is not None:
        return {
            space: _needed(
                alignment,
                [
                    _below(alignment, space, paths[space, t], task, threshold.alpha)
                    for t, task in enumerate(alignment.tasks)
                ],
            )
            for space in free_spaces(alignment)
        }
    return _by_rho(alignment, paths, threshold.rho)


def _below(alignment, space: int, path: RelevancePath, task: str, alpha) -> np.ndarray:
    alpha = alpha[task] if isinstance(alpha, Mapping) else alpha
    try:
        return path.irrelevant(alpha)
    except ValueError as error:
        name = alignment.spaces[space].name
        raise ValueError(f"Task {task!r}, channels of '{name}': {error}") from error


def _by_rho(alignment: Alignment, paths: Paths, rho: float) -> dict[int, np.ndarray]:
    result = {}
    for space in free_spaces(alignment):
        found = [paths[space, t] for t in range(len(alignment.tasks))]
        result[space] = _needed(alignment, [path.irrelevant(_level(path, rho)) for path in found])
    return result


def _level(path: RelevancePath, rho: float) -> float:
    """The threshold of rho; from 0 down to -1 it falls on, to where all channels are needed.

    Only the search for a wanted share goes there: chance alone would say that much.
    """
    if rho >= 0:
        return path.alpha(rho)
    null, least = path.alpha(0.0), float(min(path.values.min(), 0.0)) - 1e-9
    return null + rho * (null - least)


def shared_share(decided: Mapping[int, np.ndarray]) -> float:
    """The share of all channels that more than one task needs."""
    values = np.concatenate(list(decided.values())) if decided else np.zeros(1, int)
    return float(np.mean([len(tasks_of(mask)) > 1 for mask in values.tolist()]))


def _needed(alignment: Alignment, irrelevant: list[np.ndarray]) -> np.ndarray:
    """S(j) = the tasks whose irrelevant set does not hold channel j (PAM, section 4.3)."""
    masks = np.zeros(len(irrelevant[0]), int)
    for task, found in enumerate(irrelevant):
        masks |= np.where(found, 0, 1 << task)
    return masks


# --- methods ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What a merge method decides on."""

    alignment: Alignment
    paths: Paths | None
    threshold: Threshold
    seed: int


def _pam(request: Request) -> dict[int, np.ndarray]:
    return irrelevant_masks(request.alignment, request.paths, request.threshold)


def _pam_paper(request: Request) -> dict[int, np.ndarray]:
    """Only exclusive channels and those of all tasks, as published."""
    everyone = everything(len(request.alignment.tasks))
    return {
        space: np.where([len(tasks_of(mask)) > 1 for mask in masks.tolist()], everyone, masks)
        for space, masks in _pam(request).items()
    }


def _random(request: Request) -> dict[int, np.ndarray]:
    """The sizes that `pam` finds, the channels drawn at random."""
    rng = np.random.default_rng(request.seed)
    return {space: rng.permutation(masks) for space, masks in _pam(request).items()}


def _shared(request: Request) -> dict[int, np.ndarray]:
    alignment = request.alignment
    everyone = everything(len(alignment.tasks))
    return {
        space: np.full(sum(alignment.spaces[space].widths), everyone)
        for space in free_spaces(alignment)
    }


def _separate(request: Request) -> dict[int, np.ndarray]:
    alignment = request.alignment
    return {
        space: np.repeat(1 << np.arange(len(alignment.tasks)), alignment.spaces[space].widths)
        for space in free_spaces(alignment)
    }


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of merging: its decision, and whether it looks at relevance."""

    decide: Callable[[Request], dict[int, np.ndarray]]
    needs_relevance: bool


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "pam": Method(_pam, True),
        "pam-paper": Method(_pam_paper, True),
        "random": Method(_random, True),
        "separate": Method(_separate, False),
        "shared": Method(_shared, False),
    }
)


def regroup(request: Request, method: str, min_group: int = 4) -> Grouping:
    """The task set of every channel by one method, after the guards.

    Args:
        request: Alignment, relevance and thresholds.
        method: A key of `METHODS`.
        min_group: Smaller groups are folded into the cheapest group that exists with a superset
            of their tasks.

    Returns:
        A grouping from which a network can be assembled.
    """
    wanted = request.threshold.share
    if wanted is None or not METHODS[method].needs_relevance:
        return _placed(request.alignment, _guarded(request, method, min_group))
    best: dict[int, np.ndarray] = {}
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        rho = (low + high) / 2
        tried = dataclasses.replace(request, threshold=Threshold(rho=rho))
        found = _guarded(tried, method, min_group)
        share = shared_share(found)
        if not best or abs(share - wanted) < abs(shared_share(best) - wanted):
            best = found
        low, high = (rho, high) if share > wanted else (low, rho)
    return _placed(request.alignment, best)


def _guarded(request: Request, method: str, min_group: int) -> dict[int, np.ndarray]:
    """What a method decides, after the guards, by index of the trunk space."""
    alignment = request.alignment
    owners = {
        index: np.repeat(np.arange(len(alignment.tasks)), space.widths)
        for index, space in enumerate(alignment.spaces)
    }
    decided = METHODS[method].decide(request)
    if METHODS[method].needs_relevance:
        for index, found in decided.items():
            covered = _cover(found.copy(), owners[index], index, request, min_group)
            decided[index] = _fold(covered, min_group)
    return _readable(alignment, decided, owners)


def _placed(alignment: Alignment, decided: Mapping[int, np.ndarray]) -> Grouping:
    """The masks of the spaces, written to the channels of the networks."""
    masks = [mask.copy() for mask in fixed_masks(alignment).masks]
    for index, found in decided.items():
        space = alignment.spaces[index]
        for k, part in enumerate(np.split(found, np.cumsum(space.widths)[:-1])):
            masks[k][space.channels[k]] = part
    return Grouping(tuple(masks))


def _cover(found, owner, index: int, request: Request, least: int) -> np.ndarray:
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
    graph, result = alignment.graphs[0], {}
    by_channel = {
        int(channel): index
        for index, space in enumerate(alignment.spaces)
        for channel in space.channels[0]
    }
    for index, space in enumerate(alignment.spaces):
        result[index] = []
        for name in space.writers:
            node = graph.network.node(name)
            if graph.roles[name] == "mixing":
                labels = np.unique(graph.labels[node.inputs[0]])
                result[index].append(sorted({by_channel[int(label)] for label in labels}))
    return result


def _allowed(alignment, masks, inputs: list[list[int]]) -> list[set[int]]:
    """For each layer that writes a space, the masks of the groups it may read."""
    result = []
    for spaces in inputs:
        found: set[int] = set()
        for space in spaces:
            for k, channels in enumerate(alignment.spaces[space].channels):
                found |= set(masks[k][channels].tolist())
        result.append(found - {0})
    return result


def _readable(
    alignment: Alignment, decided: dict[int, np.ndarray], owners: Mapping[int, np.ndarray]
) -> dict[int, np.ndarray]:
    """Demotes groups that no group below could feed to the largest part that one can.

    This happens above frozen layers, where every channel is exclusive. A demotion may leave others
    without an input, so it is repeated until all groups can be read.
    """
    inputs = _inputs_of_spaces(alignment)
    decided = {index: found.copy() for index, found in decided.items()}
    changed = True
    while changed:
        changed = False
        for index, found in decided.items():
            allowed = _allowed(alignment, _placed(alignment, decided).masks, inputs[index])
            demoted = _demote(found, owners[index], allowed)
            demoted = _cover_exclusively(demoted, owners[index], len(alignment.tasks))
            changed |= not np.array_equal(found, demoted)
            decided[index] = demoted
    return decided


def _demote(found: np.ndarray, owner: np.ndarray, allowed: list[set[int]]) -> np.ndarray:
    found = found.copy()
    for mask in set(found.tolist()) - {0}:
        if _is_fed(mask, allowed):
            continue
        parts = [part for part in _parts(mask) if _is_fed(part, allowed)]
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


def _cover_exclusively(found, owner, count: int) -> np.ndarray:
    """Leaves no task without a channel: it then keeps those of its own network."""
    for task in range(count):
        if not np.any(found >> task & 1):
            found[owner == task] = mask_of([task])
    return found
