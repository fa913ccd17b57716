"""What a search does next, from its rounds alone; and problems of some of the tasks."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tfmot_pam.pipeline.result import Round
from tfmot_pam.pipeline.steering import loss_weights, urgency
from tfmot_pam.pipeline.strategy import Action, allot, next_action


def round_of(number, stage, parent, *, epochs=0, share=1.0, ratio=0.0, accepted=True):
    return Round(
        number=number,
        stage=stage,
        parent=parent,
        cost=share,
        macs=share,
        share=share,
        accuracy={},
        lost={},
        ratio=ratio,
        accepted=accepted,
        epochs=epochs,
        training_macs=0.0,
        task_weights={},
    )


def play(allotment, judge, target=None):
    """Plays a search whose networks are judged by `judge(share, stage) -> (ratio, accepted)`."""
    rounds = []
    while (action := next_action(rounds, allotment, target)) is not None:
        share = 1.0 if action.parent is None else rounds[action.parent].share
        share *= 1.0 - action.fraction
        ratio, accepted = judge(share, action.stage)
        found = round_of(
            len(rounds),
            action.stage,
            action.parent,
            epochs=action.epochs,
            share=share,
            ratio=ratio,
            accepted=accepted,
        )
        rounds.append(found)
        assert len(rounds) < 100
    return rounds


def cliff(at):
    """Networks above a share lose nothing; those below it lose more, and tails recover a half."""

    def judge(share, stage):
        lost = max(0.0, 12.0 * (at - share) / at) * (1.0 if stage == "cut" else 0.5)
        return lost, lost <= 1.0

    return judge


@pytest.mark.parametrize("total", [1, 2, 5, 24, 48, 300])
@pytest.mark.parametrize("merged", [False, True])
def test_the_epochs_are_spent_and_not_exceeded(total, merged):
    allotment = allot(total, merged)
    rounds = play(allotment, cliff(0.3))
    assert sum(found.epochs for found in rounds) <= allotment.total <= total + 2
    assert [found.stage for found in rounds[: 1 + merged * (allotment.warm > 0)]] == [
        "start",
        "warm",
    ][: 1 + merged * (allotment.warm > 0)]
    assert any(found.stage == "tail" for found in rounds)
    assert rounds == play(allotment, cliff(0.3))


def test_epochs_that_a_start_has_had_count():
    fresh, later = allot(72, True), allot(72, True, inherited=18)
    assert (later.total, later.inherited) == (72, 18)
    shorter = allot(54, True)
    assert (later.warm, later.path, later.tail) == (shorter.warm, shorter.path, shorter.tail)
    assert later.level > fresh.level * later.path / fresh.path
    rounds = play(later, cliff(0.3))
    assert rounds[0].epochs == 18
    assert [found.stage for found in rounds[:3]] == ["start", "warm", "cut"]
    assert 72 - later.tail < sum(found.epochs for found in rounds) <= 72


def test_tails_of_small_efforts_are_no_shorter_than_two_epochs():
    tails = {total: allot(total, False).tail for total in (1, 2, 4, 14, 16, 24, 36)}
    assert tails == {1: 1, 2: 1, 4: 2, 14: 2, 16: 2, 24: 2, 36: 4}


def test_a_search_goes_on_from_any_of_its_rounds():
    allotment = allot(48, True)
    rounds = play(allotment, cliff(0.2))
    for count in range(len(rounds)):
        action = next_action(rounds[:count], allotment, None)
        following = rounds[count]
        assert (action.stage, action.parent) == (following.stage, following.parent)
        assert action.epochs == following.epochs


def test_shares_removed_fall_with_the_loss():
    allotment = allot(100, False)
    fractions = []
    for ratio in (0.0, 1.5, 3.0):
        rounds = [round_of(0, "start", None, ratio=ratio)]
        fractions.append(next_action(rounds, allotment, None).fraction)
    assert fractions == sorted(fractions, reverse=True)
    assert len(set(fractions)) == 3


@pytest.mark.parametrize(
    ("ratios", "stage"),
    [
        ((2.5,), "cut"),
        ((0.5, 2.5), "cut"),
        ((0.5, 2.5, 2.0), "tail"),
        ((0.5, 2.5, 1.9), "cut"),
        # These recover from what training did to them, and not what was removed.
        ((8.0, 6.0), "cut"),
        ((8.0, 6.1), "tail"),
        ((8.0, 6.0, 4.5), "cut"),
        ((8.0, 6.0, 5.0), "tail"),
    ],
)
def test_a_path_ends_where_two_in_a_row_have_lost_too_much(ratios, stage):
    path = [round_of(0, "start", None)]
    for number, ratio in enumerate(ratios, 1):
        path.append(round_of(number, "cut", number - 1, epochs=1, ratio=ratio, accepted=ratio <= 1))
    assert next_action(path, allot(100, False), None).stage == stage
    # What did not hold before it was trained is not disturbed by that.
    path[0] = dataclasses.replace(path[0], ratio=20.0, accepted=False)
    lost = min((20.0, *ratios)[-2:]) >= 2.0
    assert next_action(path, allot(100, False), None).stage == ("tail" if lost else "cut")


def test_a_path_ends_at_its_target_and_where_nothing_can_go():
    allotment = allot(100, False)
    rounds = [round_of(0, "start", None, share=0.5)]
    action = next_action(rounds, allotment, 0.4)
    assert action.fraction == pytest.approx(0.2)
    reached = [*rounds, round_of(1, "cut", 0, epochs=1, share=0.4)]
    assert next_action(reached, allotment, 0.4).stage == "tail"
    assert next_action(rounds, allotment, 0.4, {rounds[-1].number: 0.3}).stage == "tail"


def test_tails_go_back_on_the_path_until_one_holds():
    allotment = dataclasses.replace(allot(600, False), tail=40)

    def judge(share, stage):
        # Networks look well on the path, but few of them hold in the end.
        return (1.2, False) if stage == "cut" else (1.6 * (share < 0.4), share >= 0.4)

    rounds = play(allotment, judge)
    tails = [found for found in rounds if found.stage == "tail"]
    shares = [rounds[found.parent].share for found in tails]
    assert len(tails) > 1
    assert shares == sorted(shares)
    assert [found.accepted for found in tails] == [False] * (len(tails) - 1) + [True]
    assert all(found.stage == "trim" for found in rounds[tails[-1].number + 1 :])


def test_trims_find_the_boundary():
    allotment = dataclasses.replace(allot(1200, False), tail=40)
    rounds = play(allotment, cliff(0.15))
    # Networks hold down to a loss of one tolerance after a tail.
    boundary = 0.15 * (1 - 1 / 6)
    # The last trim that was refused removed less than twice the smallest.
    smallest = min(found.share for found in rounds if found.accepted)
    assert smallest < boundary / (1 - 2 * 0.02)


def test_trims_start_from_the_best_network_grow_and_shrink_when_refused():
    allotment = dataclasses.replace(allot(1200, False), tail=40)

    def judge(share, stage):
        lost = 2.0 * (share < (0.7 if stage == "cut" else 0.3))
        return lost, not lost

    trims = [(f, p) for p in [play(allotment, judge)] for f in p if f.stage == "trim"]
    removed = []
    for found, rounds in trims:
        held = [f for f in rounds[: found.number] if f.accepted]
        parent = min(held, key=lambda f: (f.share, -f.number))
        assert found.parent == parent.number
        removed.append(1 - found.share / parent.share)
    accepted = [found.accepted for found, _ in trims]
    refused = accepted.index(False)
    assert refused > 1
    assert removed[: refused + 1] == pytest.approx(
        [min(0.3 * 1.4**count, 0.4) for count in range(refused + 1)]
    )
    for place in range(refused, len(trims) - 1):
        factor = 1.0 if accepted[place] else 0.5
        assert removed[place + 1] == pytest.approx(removed[place] * factor)


@pytest.mark.parametrize(("ratio", "fraction"), [(0.0, 0.3), (0.5, 0.2), (1.0, 0.1), (-2.0, 0.4)])
def test_a_trim_removes_more_where_more_is_left_of_the_tolerances(ratio, fraction):
    allotment = allot(200, False)
    path = [round_of(0, "start", None), round_of(1, "cut", 0, epochs=60, share=0.5, ratio=0.4)]
    held = round_of(2, "tail", 1, epochs=allotment.tail, share=0.5, ratio=ratio)
    action = next_action([*path, held], allotment, None)
    assert (action.stage, action.parent) == ("trim", 2)
    assert action.fraction == pytest.approx(fraction)


def test_a_trim_that_cannot_go_is_halved_until_it_can():
    allotment = allot(200, False)
    path = [round_of(0, "start", None), round_of(1, "cut", 0, epochs=60, share=0.5, ratio=0.4)]
    rounds = [*path, round_of(2, "tail", 1, epochs=allotment.tail, share=0.5, ratio=0.5)]
    # That a smaller network cannot lose more says nothing of the best one.
    for unreachable, fraction in (({}, 0.2), ({1: 0.1}, 0.2), ({2: 0.2}, 0.1), ({2: 0.08}, 0.05)):
        action = next_action(rounds, allotment, None, unreachable)
        assert (action.stage, action.parent) == ("trim", 2)
        assert action.fraction == pytest.approx(fraction)
    assert next_action(rounds, allotment, None, {2: 0.02}) is None


@pytest.mark.parametrize("stage", ["tail", "trim"])
def test_a_refusal_by_little_counts_after_another_try_only(stage):
    allotment = allot(200, False)
    cut = round_of(1, "cut", 0, epochs=60, share=0.5, ratio=1.4, accepted=False)
    rounds = [round_of(0, "start", None), cut]
    if stage == "trim":
        rounds.append(round_of(2, "tail", 1, epochs=23, share=0.5, ratio=1.0))
    narrow = round_of(len(rounds), stage, 1, epochs=23, share=0.4, ratio=1.2, accepted=False)
    wide = dataclasses.replace(narrow, ratio=1.6)
    retry = next_action([*rounds, narrow], allotment, None)
    assert retry == Action("retry", narrow.number, allotment.tail)
    assert next_action([*rounds, wide], allotment, None).stage != "retry"

    again = round_of(narrow.number + 1, "retry", narrow.number, epochs=23, share=0.4, ratio=1.1)
    held = next_action([*rounds, narrow, again], allotment, None)
    worse = dataclasses.replace(again, ratio=1.2, accepted=False)
    refused = next_action([*rounds, narrow, worse], allotment, None)
    # It got better, and is close: that is worth one more.
    better = dataclasses.replace(again, accepted=False)
    assert next_action([*rounds, narrow, better], allotment, None) == Action(
        "retry", again.number, allotment.tail
    )
    # What holds in the end was not refused.
    last = dataclasses.replace(again, number=again.number + 1, parent=again.number)
    then = next_action([*rounds, narrow, better, last], allotment, None)
    assert then == dataclasses.replace(held, parent=last.number)
    far = dataclasses.replace(better, ratio=1.3)
    assert next_action([*rounds, wide, far], allotment, None).stage != "retry"
    assert (held.stage, held.parent) == ("trim", again.number)
    assert (refused.stage, refused.parent) == ("trim", 2 if stage == "trim" else 0)
    if stage == "trim":
        assert refused.fraction < held.fraction


def test_of_one_structure_the_longest_trained_goes_on():
    rounds = [
        round_of(0, "start", None),
        round_of(1, "cut", 0, epochs=60, share=0.5),
        round_of(2, "tail", 1, epochs=23, share=0.5),
    ]
    assert next_action(rounds, allot(200, False), None).parent == 2


def test_where_nothing_is_hopeful_the_best_network_gets_the_tail():
    rounds = [
        round_of(0, "start", None, ratio=30.0, accepted=False),
        round_of(1, "warm", 0, epochs=10, ratio=5.0, accepted=False),
    ]
    allotment = allot(48, True)
    assert next_action(rounds, allotment, None) == Action("tail", 1, allotment.tail)
    refused = round_of(2, "tail", 1, epochs=allotment.tail, ratio=5.0, accepted=False)
    assert next_action([*rounds, refused], allotment, None) == Action("tail", 0, allotment.tail)


def test_where_nothing_trained_holds_one_network_gets_a_long_tail_then_all_that_is_left():
    allotment = allot(24, False)
    for accepted in (True, False):

        def judge(share, stage, accepted=accepted):
            if stage == "start":
                return (0.0, True) if accepted else (9.0, False)
            return (4.0 - share if stage == "cut" else 5.0), False

        rounds = play(allotment, judge)
        path = [found for found in rounds if found.stage in ("start", "cut")]
        *_, patient, last = rounds
        assert (patient.stage, last.stage, last.parent) == ("tail", "retry", patient.number)
        ratios = [found.ratio for found in path]
        assert patient.parent == (1 if accepted else ratios.index(min(ratios)))
        assert patient.epochs > 2 * allotment.tail
        assert sum(found.epochs for found in rounds) == allotment.total


def test_a_long_tail_that_is_refused_gets_all_that_is_left_and_one_that_holds_trims():
    allotment = allot(24, False)
    rounds = [
        round_of(0, "start", None),
        round_of(1, "cut", 0, epochs=2, share=0.8, ratio=4.0, accepted=False),
        round_of(2, "cut", 1, epochs=2, share=0.7, ratio=5.0, accepted=False),
        round_of(3, "tail", 0, epochs=2, ratio=3.0, accepted=False),
        round_of(4, "trim", 0, epochs=2, share=0.9, ratio=4.0, accepted=False),
    ]
    patient = next_action(rounds, allotment, None)
    assert patient == Action("tail", 1, 8)
    narrow = round_of(5, "tail", 1, epochs=8, share=0.8, ratio=1.2, accepted=False)
    left = allotment.total - 8 - 8
    for refused in (narrow, dataclasses.replace(narrow, ratio=3.0)):
        assert next_action([*rounds, refused], allotment, None) == Action("retry", 5, left)
    held = round_of(5, "tail", 1, epochs=8, share=0.8)
    action = next_action([*rounds, held], allotment, None)
    assert (action.stage, action.parent, action.epochs) == ("trim", 5, allotment.tail)


TOLERANCES = {"digit": 0.01, "speaker": 0.02}


def steered(number, stage, lost, weights=(1.0, 1.0)):
    tasks = tuple(TOLERANCES)
    return dataclasses.replace(
        round_of(number, stage, number - 1 if number else None),
        lost=dict(zip(tasks, lost, strict=True)),
        task_weights=dict(zip(tasks, weights, strict=True)),
    )


@pytest.mark.parametrize("steer", [loss_weights, urgency])
def test_a_start_that_was_not_trained_steers_nothing(steer):
    assert steer([], TOLERANCES) == {"digit": 1.0, "speaker": 1.0}
    assert steer([steered(0, "start", (0.3, 0.0))], TOLERANCES) == {"digit": 1.0, "speaker": 1.0}


def test_losses_count_in_units_of_their_tolerances():
    even = [steered(0, "warm", (0.005, 0.01))]
    for steer in (loss_weights, urgency):
        assert steer(even, TOLERANCES) == pytest.approx({"digit": 1.0, "speaker": 1.0})
    # Half a tolerance more than the mean, and half less.
    found = loss_weights([steered(0, "warm", (0.01, 0.0))], TOLERANCES)
    assert found["digit"] / found["speaker"] == pytest.approx(math.e)
    # A quarter of a tolerance is left at least, two at most.
    found = urgency([steered(0, "warm", (0.02, -0.04))], TOLERANCES)
    assert found["digit"] / found["speaker"] == pytest.approx(8.0)
    assert sum(found.values()) == pytest.approx(2.0)


def test_the_latest_round_steers_and_loss_weights_add_up():
    rounds = [steered(0, "tail", (0.0, 0.02)), steered(1, "trim", (0.02, 0.0), (0.5, 1.5))]
    found = loss_weights(rounds, TOLERANCES)
    # One tolerance more and less than the mean of one; what is farther counts no more.
    assert found["digit"] / found["speaker"] == pytest.approx(0.5 / 1.5 * math.e**2)
    far = [dataclasses.replace(rounds[-1], lost={"digit": 0.2, "speaker": 0.0})]
    assert loss_weights(far, TOLERANCES) == found


def test_loss_weights_stay_within_bounds():
    rounds = [steered(0, "cut", (0.05, 0.0))]
    for number in range(1, 12):
        weights = loss_weights(rounds, TOLERANCES)
        rounds.append(steered(number, "cut", (0.05, 0.0), tuple(weights.values())))
    assert 1.0 < weights["digit"] / weights["speaker"] <= 16.0 + 1e-9
