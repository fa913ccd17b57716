"""Merge methods: which task needs which channel, from relevance paths or by a rule."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable, Mapping

import numpy as np

from tfmot_pam.graph.heads import Inputs
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import everything, free_spaces, tasks_of
from tfmot_pam.merging.relevance import RelevancePath
from tfmot_pam.merging.units import kept_apart, shared_unit, unit_spaces

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
    # A share is searched for by rho.
    return _by_rho(alignment, paths, threshold.rho or 0.0)


def _below(
    alignment: Alignment,
    space: int,
    path: RelevancePath,
    task: str,
    alpha: float | Mapping[str, float],
) -> np.ndarray:
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


def _needed(alignment: Alignment, irrelevant: list[np.ndarray]) -> np.ndarray:
    """S(j) = the tasks whose irrelevant set does not hold channel j (PAM, section 4.3)."""
    masks = np.zeros(len(irrelevant[0]), int)
    for task, found in enumerate(irrelevant):
        masks |= np.where(found, 0, 1 << task)
    return masks


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What a merge method decides on.

    Args:
        alignment: The networks side by side, with the channel spaces of their common trunk.
        paths: Relevance; empty where nothing needs it.
        threshold: What the user wants.
        seed: Seed of everything random.
        inputs: For each network, calibration inputs of its task `[samples, ...]`; of several a
            dict by name.
    """

    alignment: Alignment
    paths: Paths
    threshold: Threshold
    seed: int
    inputs: tuple[Inputs, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class SpaceDecision:
    """What a merge method decides for one space where several channels become one.

    Args:
        masks: The task set of each channel as a bit mask in task order, the first network's
            channels first; 0 drops a channel.
        classes: For each channel a whole number. Channels of one number, of one network or of
            several, become one, which is computed once: the least-squares fit to all of them.
            Channels of one number that have different task sets become one for each set.
        factors: What the one is multiplied by to stand for each channel where layers read it, such
            as ratios of their scales; None for 1.

    Example:
    >>> import numpy as np, tfmot_pam
    >>> def pairs(request):
    ...     return {i: tfmot_pam.SpaceDecision(np.full(sum(space.widths), 3),
    ...                                        np.concatenate([*map(np.arange, space.widths)]))
    ...             for i, space in enumerate(request.alignment.spaces)
    ...             if not space.given and space.frozen is None}
    >>> tfmot_pam.MergeMethod("first-with-first", pairs, own_width=True).name
    'first-with-first'
    """

    masks: np.ndarray
    classes: np.ndarray
    factors: np.ndarray | None = None


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
    found = {
        space: np.full(sum(alignment.spaces[space].widths), everyone)
        for space in free_spaces(alignment)
    }
    for unit in unit_spaces(alignment):
        # Of layers that are taken whole one network's have to do.
        found |= shared_unit(alignment, unit, 0)
    return found


def _separate(request: Request) -> dict[int, np.ndarray]:
    return kept_apart(request.alignment, free_spaces(request.alignment))


@dataclasses.dataclass(frozen=True)
class MergeMethod:
    """A way of merging; `merge(method=)` takes one, and knows some by name.

    Args:
        name: What it is called in plans and messages.
        decide: `decide(request) -> {space: masks}`: for each space of `free_spaces`, the task sets
            of its channels as bit masks in task order, the first network's channels first; 0 drops
            a channel. Layers that are taken whole stay apart, but for those that `shared_unit`
            gives to all tasks. A `SpaceDecision` in the place of masks also says which channels
            become one.
        needs_relevance: Whether it looks at `request.paths`. Small groups are then folded, and
            every task is given a least number of channels.
        own_width: Whether no task gets more channels than its own network has, as it is.
        matches: Whether it looks at `request.inputs` and, of all thresholds, at `share` alone:
            `merge` refuses `rho` and `alpha`, and without `share` the threshold is `share=1`.

    Raises:
        TypeError: `name` is no text or `decide` no function.

    Example:
    >>> import numpy as np, tfmot_pam
    >>> def first_only(request):
    ...     return {i: np.repeat([3, 0], request.alignment.spaces[i].widths)
    ...             for i, space in enumerate(request.alignment.spaces) if not space.given}
    >>> tfmot_pam.MergeMethod("first-only", first_only).name
    'first-only'
    """

    name: str
    decide: Callable[[Request], Mapping[int, np.ndarray | SpaceDecision]]
    needs_relevance: bool = False
    own_width: bool = False
    matches: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not callable(self.decide):
            raise TypeError(
                f"Received name={self.name!r} and decide={self.decide!r}. Expected a name and a "
                "function decide(request) -> {space: masks}. Pass the function itself."
            )


RULES = (
    MergeMethod("pam", _pam, needs_relevance=True),
    MergeMethod("pam-paper", _pam_paper, needs_relevance=True),
    MergeMethod("random", _random, needs_relevance=True),
    MergeMethod("separate", _separate, own_width=True),
    MergeMethod("shared", _shared),
)


def checked(method: MergeMethod) -> MergeMethod:
    """The same method, whose decisions are held to the form that `decide` promises.

    Use it for methods of users: what is wrong with one is told where it comes from.
    """
    return dataclasses.replace(method, decide=lambda request: _decision(method, request))


def _decision(method: MergeMethod, request: Request) -> dict[int, np.ndarray | SpaceDecision]:
    decided = method.decide(request)
    if not isinstance(decided, Mapping):
        raise TypeError(
            f"The merge method {method.name!r} returned {reprlib.repr(decided)} of type "
            f"{type(decided).__name__}. Expected a dict from indices of spaces to masks. Return "
            "such as {index: masks}."
        )
    return {index: _of_space(method, request, index, found) for index, found in decided.items()}


def _of_space(
    method: MergeMethod, request: Request, index: int, found: np.ndarray | SpaceDecision
) -> np.ndarray | SpaceDecision:
    alignment = request.alignment
    known = {i: space for i, space in enumerate(alignment.spaces) if not space.given}
    most = everything(len(alignment.tasks))
    masks = np.asarray(found.masks if isinstance(found, SpaceDecision) else found)
    count = sum(known[index].widths) if index in known else None
    whole = np.issubdtype(masks.dtype, np.integer) and masks.shape == (count,)
    if not whole or masks.min(initial=0) < 0 or masks.max(initial=0) > most:
        raise ValueError(
            f"The merge method {method.name!r} returned {reprlib.repr(masks)} for the space "
            f"{index!r}. Expected a whole number from 0 to {most} for each of the channels: "
            f"{ {i: sum(space.widths) for i, space in known.items()} }. Return one mask a "
            "channel, the first network's channels first."
        )
    if not isinstance(found, SpaceDecision):
        return masks
    classes = np.asarray(found.classes)
    factors = np.ones(len(masks)) if found.factors is None else np.asarray(found.factors)
    if not np.issubdtype(classes.dtype, np.integer) or classes.shape != (count,):
        raise ValueError(
            f"The merge method {method.name!r} returned the classes {reprlib.repr(classes)} for "
            f"the space {index!r}. Expected a whole number for each of its {count} channels. "
            "Give channels that become one the same number, and every other channel its own."
        )
    if factors.shape != (count,) or not np.issubdtype(factors.dtype, np.number):
        raise ValueError(
            f"The merge method {method.name!r} returned the factors {reprlib.repr(factors)} for "
            f"the space {index!r}. Expected a number for each of its {count} channels, or None."
        )
    if not np.isfinite(factors).all():
        raise ValueError(
            f"The merge method {method.name!r} returned factors that are not finite for the space "
            f"{index!r}. Expected finite numbers. Return None for a factor of 1 everywhere."
        )
    return SpaceDecision(masks, classes, None if found.factors is None else factors)
