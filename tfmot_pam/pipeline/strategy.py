"""What a search does next: a path of cuts, a tail at fixed structure, then trims.

A path removes a share of the expected cost again and again, larger shares while no task has lost
much. Before the rate has fallen to 0 networks look worse than they are, so a path goes on somewhat
beyond the tolerances. A tail takes a network of the path and trains it on while the rate falls; if
it does not hold then, bisection decides which network is next. All effort that is left goes into
trims, the steps that spend it best: a little more is removed from the best network, which then gets
a tail of its own, so that one network gets all of the training. (A trim to widths that were refused
goes on from that network.) A tail or trim that is refused by little gets another tail before the
refusal counts: rounds are noisy, and of a merged network all tasks have to hold in the same one.
The mean of such tries counts where it is better (`averaging`). Where nothing that was trained
holds, what is left becomes one long tail. What comes next follows from the rounds so far alone, so
that a search can go on from them at any time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tfmot_pam.graph.network import MaybeNone
from tfmot_pam.pipeline.result import Round

# The largest loss in units of its tolerance, and the share that a path removes below it.
_STEPS = ((0.25, 0.35), (0.5, 0.25), (1.0, 0.15), (math.inf, 0.1))
_HOPELESS = 2.0  # a path ends at a loss of so many tolerances, twice in a row
_RECOVERS = 0.75  # but not where the second loss is so much smaller, as a share of the first
_HOPEFUL = 1.5  # a network with a smaller loss is worth a tail, or another one
_CLOSE = 1.2  # so close to its tolerance, a network that gets better is not given up
# Shares that trims remove: larger where much of the tolerances is left and from trim to trim, and
# halved by every one that is refused.
_TRIM, _SLACK, _GROWTH = 0.1, 0.2, 1.4
_SMALLEST_TRIM, _LARGEST_TRIM = 0.02, 0.4


@dataclasses.dataclass(frozen=True)
class Allotment:
    """How the epochs of a search are spent.

    Args:
        warm: Epochs before anything is removed.
        path: Epochs of all cuts.
        level: Epochs after each cut.
        tail: Epochs of each tail or trim.
        total: All epochs.
        inherited: Those of them that the start has had already.
    """

    warm: int
    path: int
    level: int
    tail: int
    total: int
    inherited: int = 0


def allot(total: int, merged: bool, inherited: int = 0) -> Allotment:
    """Divides epochs: a merged network first learns to serve all tasks, a single one does.

    A start that was pruned before needs fewer cuts, and each gets more training. Where epochs are
    few there are fewer tails, of two: each comes with a cut, which takes longer in large networks.
    """
    own = total - inherited
    warm = round(0.2 * own) if merged else 0
    path = max(1, round(0.3 * own))
    own = max(own, warm + path + 1)
    rest = own - warm - path
    tail = max(min(2, rest), rest // 6)
    level = max(1, round(path / (7 if inherited else 12)))
    return Allotment(warm, path, level, tail, own + inherited, inherited)


@dataclasses.dataclass(frozen=True)
class Action:
    """What a search does next.

    Args:
        stage: `start`, `warm`, `cut`, `tail`, `trim` or `retry`.
        parent: The number of the round whose network is taken, None of a start.
        epochs: Epochs of training; of a start those that its networks have had.
        fraction: Share of the expected cost that is removed first.
    """

    stage: str
    parent: int | MaybeNone
    epochs: int
    fraction: float = 0.0


def next_action(
    rounds: Sequence[Round],
    allotment: Allotment,
    target: float | None,
    unreachable: Mapping[int, float] = MappingProxyType({}),
) -> Action | None:
    """What comes after some rounds; None where the search is over.

    Args:
        rounds: All rounds so far.
        allotment: How epochs are spent.
        target: The share of the originals' computation to stop at, or None.
        unreachable: The least share that was found to be more than can go, by numbers of rounds.
    """
    if not rounds:
        return Action("start", None, allotment.inherited)
    path = [found for found in rounds if found.stage in ("start", "warm", "cut")]
    last, spent = path[-1], sum(found.epochs for found in path) - allotment.inherited
    if last.stage == "start" and allotment.warm:
        return Action("warm", last.number, allotment.warm)
    on_path = len(path) == len(rounds) and _is_hopeful(path) and last.number not in unreachable
    going_on = spent + allotment.level <= allotment.warm + allotment.path
    if on_path and going_on and not _reached(last, target):
        fraction = next(share for ratio, share in _STEPS if last.ratio <= ratio)
        return Action("cut", last.number, allotment.level, _up_to(fraction, last, target))
    left = allotment.total - sum(found.epochs for found in rounds)
    if left < allotment.tail:
        return None
    # What is left over after this one would not do for another.
    epochs = left if left < 2 * allotment.tail else allotment.tail
    latest = rounds[-1]
    if not latest.accepted and latest.ratio <= _patience(rounds, latest):
        return Action("retry", latest.number, left if _is_long(latest, allotment) else epochs)
    place = _next_place(path, [found for found in rounds if found.stage in ("tail", "retry")])
    if place is not None:
        return Action("tail", path[place].number, epochs)
    futile = not any(found.accepted and found.stage != "start" for found in rounds)
    if futile and (latest.stage == "trim" or not path[0].accepted or _is_long(latest, allotment)):
        return _patient_tail(path, latest, left, allotment)
    return _next_trim(rounds, epochs, target, unreachable)


def _is_hopeful(path: Sequence[Round]) -> bool:
    """Whether one of the last two networks of a path has not lost too much, or the last recovers.

    Training disturbs some networks that hold without it, at first and whatever is removed.
    """
    before, last = path[-2:][0].ratio, path[-1].ratio
    return min(before, last) < _HOPELESS or (path[0].accepted and last <= _RECOVERS * before)


def _patient_tail(
    path: Sequence[Round], latest: Round, left: int, allotment: Allotment
) -> Action | None:
    """Where nothing that was trained has held: half of what is left for one network, then all.

    A short tail can disturb a network more than it mends: an original lost three times its
    tolerance by two epochs that removed nothing. It is the first cut's turn, or, where not even
    the start holds, that of the best network.
    """
    if _is_long(latest, allotment):
        return Action("retry", latest.number, left)
    able = [found for found in path if found.stage != "start"] if path[0].accepted else path
    if not able:
        return None
    chosen = able[0] if path[0].accepted else min(able, key=lambda found: found.ratio)
    return Action("tail", chosen.number, left // 2 if left // 2 > allotment.tail else left)


def _is_long(found: Round, allotment: Allotment) -> bool:
    """Whether a round is one of `_patient_tail`; others are as long only where nothing is left."""
    return found.stage in ("tail", "retry") and found.epochs > allotment.tail


def _patience(rounds: Sequence[Round], refused: Round) -> float:
    """The largest loss, in units of the tolerance, at which a refused round is trained on.

    A further try is worth another one where it was better and has come close.
    """
    if refused.stage in ("tail", "trim"):
        return _HOPEFUL
    better = refused.stage == "retry" and refused.ratio < rounds[refused.parent].ratio
    return _CLOSE if better else -math.inf


def _reached(found: Round, target: float | None) -> bool:
    return target is not None and found.share <= target + 1e-9


def _up_to(fraction: float, found: Round, target: float | None) -> float:
    return fraction if target is None else min(fraction, 1.0 - target / found.share)


def _next_place(path: Sequence[Round], tails: Sequence[Round]) -> int | None:
    """The place on the path that the next tail starts from; None once one held, or none is left.

    Args:
        path: The rounds of the path.
        tails: All tails, and further tries.
    """
    if any(found.accepted for found in tails):
        return None
    places = {found.number: place for place, found in enumerate(path)}
    if not tails:
        hopeful = [place for place, found in enumerate(path) if found.ratio <= _HOPEFUL]
        return max(hopeful, default=min(places.values(), key=lambda place: path[place].ratio))
    low = max((places[found.number] for found in path if found.accepted), default=-1)
    high = min(places[found.parent] for found in tails if found.stage == "tail")
    return (low + high) // 2 if high - low > 1 else None


def best_round(rounds: Sequence[Round]) -> Round | None:
    """The accepted round of least expected cost; of several with one structure the last trained."""
    held = [found for found in rounds if found.accepted]
    return min(held, key=lambda found: (found.cost, -found.number), default=None)


def _next_trim(
    rounds: Sequence[Round], epochs: int, target: float | None, unreachable: Mapping[int, float]
) -> Action | None:
    """Removes a little more from the best network, half as much where so much cannot go."""
    best = best_round(rounds)
    if best is None:
        return None
    retried = {tries_of(rounds, found)[0].number for found in rounds if found.accepted}
    trims = [found for found in rounds if found.stage == "trim"]
    verdicts = [found.accepted or found.number in retried for found in trims]
    before = verdicts.index(False) if False in verdicts else len(verdicts)
    first = _TRIM + _SLACK * max(0.0, 1.0 - best.ratio)
    fraction = min(first * _GROWTH**before, _LARGEST_TRIM) * 0.5 ** verdicts.count(False)
    while fraction >= unreachable.get(best.number, math.inf):
        fraction /= 2
    if _reached(best, target) or fraction < _SMALLEST_TRIM:
        return None
    return Action("trim", best.number, epochs, _up_to(fraction, best, target))


def tries_of(rounds: Sequence[Round], found: Round) -> list[Round]:
    """The tries of a round's structure up to the round: a tail or trim, and what retried it."""
    before = tries_of(rounds, rounds[found.parent]) if found.stage == "retry" else []
    return [*before, found]
