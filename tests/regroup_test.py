"""Regrouping on hand-made relevance paths: every task set is known beforehand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.groupings import (
    AB,
    ABC,
    AC,
    BC,
    A,
    B,
    C,
    masks_in,
    only,
    path,
    paths_for,
    perceptrons,
    request,
)
from tests.small_nets import vectors
from tfmot_pam.merging.grouping import (
    everything,
    fixed_masks,
    free_spaces,
    group_order,
    mask_of,
    tasks_of,
)
from tfmot_pam.merging.method_table import METHODS
from tfmot_pam.merging.methods import Threshold
from tfmot_pam.merging.regroup import regroup, shared_share
from tfmot_pam.merging.relevance import RelevancePath

# --- masks --------------------------------------------------------------------------------------


def test_masks_and_their_one_order():
    assert everything(3) == ABC
    assert [tasks_of(mask) for mask in range(8)] == [
        (),
        (0,),
        (1,),
        (0, 1),
        (2,),
        (0, 2),
        (1, 2),
        (0, 1, 2),
    ]
    assert all(mask_of(tasks_of(mask)) == mask for mask in range(64))
    assert sorted(range(1, 8), key=group_order) == [ABC, AB, AC, BC, A, B, C]


def test_what_nobody_chooses():
    """The input belongs to all; hidden channels and heads to their own network's task."""
    alignment = perceptrons((3, 2), (4, 2))
    for k, graph in enumerate(alignment.graphs):
        masks = fixed_masks(alignment).masks[k]
        for space in graph.spaces:
            expected = AB if space.given else (A, B)[k]
            assert set(masks[space.channels].tolist()) == {expected}
    assert [alignment.spaces[space].name for space in free_spaces(alignment)] == ["fc0", "fc1"]


# --- task sets ----------------------------------------------------------------------------------


def test_two_tasks():
    """E_A = I_B - I_A, E_B = I_A - I_B, shared: in neither, dropped: in both."""
    alignment = perceptrons((4,), (3,))
    irrelevant = {0: [5, 0, 2], 1: [2, 6]}
    space = only(alignment)
    paths = {(space, task): path(found, 7) for task, found in irrelevant.items()}
    found = masks_in(alignment, regroup(request(alignment, paths), "pam", 1), space)
    assert {j for j in range(7) if found[j] == A} == {6}
    assert {j for j in range(7) if found[j] == B} == {0, 5}
    assert {j for j in range(7) if found[j] == AB} == {1, 3, 4}
    assert {j for j in range(7) if found[j] == 0} == {2}


def test_every_subset_of_three_tasks():
    alignment = perceptrons((3,), (3,), (2,))
    wanted = [ABC, AB, AC, BC, A, B, C, 0]
    paths = paths_for((only(alignment), wanted), tasks=3)
    grouping = regroup(request(alignment, paths), "pam", 1)
    assert masks_in(alignment, grouping, only(alignment)) == wanted


def test_the_paper_knows_only_one_and_all():
    alignment = perceptrons((3,), (3,), (2,))
    paths = paths_for((only(alignment), [ABC, AB, AC, BC, A, B, C, 0]), tasks=3)
    grouping = regroup(request(alignment, paths), "pam-paper", 1)
    assert masks_in(alignment, grouping, only(alignment)) == [ABC, ABC, ABC, ABC, A, B, C, 0]


def test_random_keeps_the_sizes_and_takes_the_seed():
    alignment = perceptrons((10,), (10,))
    wanted = [AB] * 8 + [A] * 5 + [B] * 4 + [0] * 3
    paths = paths_for((only(alignment), wanted))
    drawn = [
        masks_in(
            alignment, regroup(request(alignment, paths, seed=s), "random", 1), only(alignment)
        )
        for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != wanted
    assert all(sorted(found) == sorted(wanted) for found in drawn)


def test_shared_and_separate_need_no_paths():
    alignment = perceptrons((3, 2), (4, 5))
    for method, expected in (
        ("shared", {"fc0": [AB] * 7, "fc1": [AB] * 7}),
        ("separate", {"fc0": [A] * 3 + [B] * 4, "fc1": [A] * 2 + [B] * 5}),
    ):
        assert not METHODS[method].needs_relevance
        grouping = regroup(request(alignment, None), method, 4)
        for space in free_spaces(alignment):
            name = alignment.spaces[space].name
            assert masks_in(alignment, grouping, space) == expected[name]


def test_input_and_heads_keep_their_masks_whatever_the_method():
    alignment = perceptrons((3,), (4,))
    paths = paths_for((only(alignment), [AB, B, A, 0, AB, A, B]))
    fixed = fixed_masks(alignment)
    own = dataclasses.replace(request(alignment, paths), inputs=(vectors(16),) * 2)
    for method in METHODS:
        grouping = regroup(own, method, 1)
        for k in range(2):
            outside = np.ones(len(fixed.masks[k]), bool)
            outside[alignment.spaces[only(alignment)].channels[k]] = False
            np.testing.assert_array_equal(
                grouping.masks[k][outside], fixed.masks[k][outside], err_msg=method
            )


# --- thresholds ---------------------------------------------------------------------------------


def straight(alignment, channels):
    """Task a loses the channels from the front, task b from the back, one at a time."""
    space = only(alignment)
    values = np.arange(1, channels + 1) / channels
    return {
        (space, task): RelevancePath(order, values, full=1.0, null=0.0)
        for task, order in enumerate((np.arange(channels), np.arange(channels)[::-1]))
    }


@pytest.mark.parametrize("lost", range(6))
def test_rho_is_a_share_of_the_measurable_relevance(lost):
    alignment = perceptrons((5,), (5,))
    asked = request(alignment, straight(alignment, 10), Threshold(rho=lost / 10 + 0.05))
    found = masks_in(alignment, regroup(asked, "pam", 1), only(alignment))
    assert found == [B] * lost + [AB] * (10 - 2 * lost) + [A] * lost


def test_rho_counts_from_the_null_level():
    alignment = perceptrons((5,), (5,))
    paths = {
        key: dataclasses.replace(found, null=0.35) for key, found in straight(alignment, 10).items()
    }
    # alpha = 0.35 + 0.1 (1 - 0.35) = 0.415: four steps of 0.1 stay below.
    found = regroup(request(alignment, paths, Threshold(rho=0.1)), "pam", 1)
    assert masks_in(alignment, found, only(alignment)) == [B] * 4 + [AB] * 2 + [A] * 4


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.2, [B] * 2 + [AB] * 6 + [A] * 2),
        ({"a": 0.3, "b": 0.05}, [B] * 3 + [AB] * 7),
        (-1.0, [AB] * 10),
    ],
)
def test_alpha_in_nats(alpha, expected):
    alignment = perceptrons((5,), (5,))
    asked = request(alignment, straight(alignment, 10), Threshold(alpha=alpha))
    assert masks_in(alignment, regroup(asked, "pam", 1), only(alignment)) == expected


def test_alpha_at_the_ceiling_names_the_task_and_the_channels():
    alignment = perceptrons((5,), (5,))
    asked = request(alignment, straight(alignment, 10), Threshold(alpha={"a": 0.1, "b": 1.0}))
    with pytest.raises(ValueError, match=r"Task 'b', channels of 'fc0': .*alpha=1.0.*ceiling of 1"):
        regroup(asked, "pam", 1)


@pytest.mark.parametrize("method", ["pam", "pam-paper", "random"])
@pytest.mark.parametrize("shared", [2, 8, 14, 18])
def test_the_wanted_share_is_found(method, shared):
    alignment = perceptrons((10,), (10,))
    asked = request(alignment, straight(alignment, 20), Threshold(share=shared / 20))
    found = masks_in(alignment, regroup(asked, method, 1), only(alignment))
    assert found.count(AB) == shared
    assert found.count(A) == found.count(B) == (20 - shared) // 2


def test_the_wanted_share_between_two_steps_is_met_as_closely_as_possible():
    alignment = perceptrons((10,), (10,))
    for wanted, shared in ((0.54, 10), (0.57, 12), (0.01, 0)):
        asked = request(alignment, straight(alignment, 20), Threshold(share=wanted))
        found = masks_in(alignment, regroup(asked, "pam", 1), only(alignment))
        assert found.count(AB) == shared


def test_the_share_of_channels_that_several_tasks_need():
    assert shared_share({0: np.array([AB, A, B, 0]), 3: np.array([ABC, C])}) == 2 / 6
    assert shared_share({}) == 0.0


# --- guards -------------------------------------------------------------------------------------


def guarded(alignment, wanted, min_group):
    """The masks after the guards; an alignment may be given by its widths."""
    if isinstance(alignment, tuple):
        alignment = perceptrons(*((width,) for width in alignment))
    space = only(alignment)
    paths = paths_for((space, wanted), tasks=len(alignment.tasks))
    return masks_in(alignment, regroup(request(alignment, paths), "pam", min_group), space)


def test_small_groups_go_to_the_cheapest_superset_that_exists():
    """Of {a,b} and {a,b,c}, the one fewer tasks run."""
    wanted = [ABC] * 4 + [AB] * 4 + [A] * 2 + [C] * 4
    assert guarded((5, 5, 4), wanted, 3) == [ABC] * 4 + [AB] * 6 + [C] * 4


def test_small_groups_of_equal_price_go_by_task_order():
    wanted = [AC] * 4 + [AB] * 4 + [A] * 2
    assert guarded((4, 3, 3), wanted, 3) == [AC] * 4 + [AB] * 6


def test_small_groups_without_a_superset_stay():
    wanted = [A] * 4 + [B] * 3 + [AB] * 2
    assert guarded((5, 4), wanted, 4) == [A] * 4 + [AB] * 5
    wanted = [A] * 6 + [B] * 3 + [AB] * 2
    assert guarded((6, 5), wanted, 3) == wanted


def test_small_groups_may_meet_on_the_way():
    """{a} goes to {a,b}, which is then large enough to stay."""
    wanted = [ABC] * 6 + [AB] * 2 + [A] * 2
    assert guarded((4, 3, 3), wanted, 4) == [ABC] * 6 + [AB] * 4
    assert guarded((4, 3, 3), wanted, 5) == [ABC] * 10


def test_no_fold_changes_what_is_dropped_or_takes_a_channel_from_a_task():
    rng = np.random.default_rng(0)
    alignment = perceptrons((8,), (8,), (8,))
    for _ in range(20):
        wanted = rng.integers(0, 8, 24).tolist()
        for least in (1, 3, 6):
            found = guarded(alignment, wanted, least)
            for task in range(3):
                assert sum(m >> task & 1 for m in found) >= min(8, least)
            for old, new in zip(wanted, found, strict=True):
                assert new & old == old
            sizes = {mask: found.count(mask) for mask in set(found) - {0}}
            for mask, size in sizes.items():
                larger = [m for m in sizes if m != mask and m & mask == mask]
                assert size >= least or not larger


def test_every_task_keeps_its_most_relevant_channels():
    """All but one channel are irrelevant to b: it gets back those that left its path last."""
    alignment = perceptrons((4,), (4,))
    space = only(alignment)
    order = np.array([3, 0, 6, 1, 7, 2, 5, 4])
    values = np.array([0.1] * 7 + [1.0])
    paths = {
        (space, 0): path([], 8),
        (space, 1): RelevancePath(order, values, full=1.0, null=0.0),
    }
    for least, kept in ((1, [4]), (2, [4, 5]), (4, [4, 5, 2, 7])):
        grouping = regroup(request(alignment, paths), "pam", least)
        found = masks_in(alignment, grouping, space)
        assert [j for j in range(8) if found[j] & B] == sorted(kept)
        assert all(mask & A for mask in found)


def test_dropped_channels_come_back_only_where_a_task_would_be_left_with_too_few():
    wanted = [A] * 4 + [0] * 4
    found = guarded((4, 4), wanted, 3)
    assert found[:4].count(AB) + found.count(B) == 3
    assert found.count(0) >= 1


def test_no_task_is_asked_for_more_channels_than_it_came_with():
    """A network of two channels keeps two, though the least size is four."""
    wanted = [A] * 6 + [0] * 2
    found = guarded((6, 2), wanted, 4)
    assert sum(bool(mask & B) for mask in found) == 2
