"""Tests of which tasks stay out of merged networks."""

import itertools

import pytest

from tfmot_pam.graph.selection import all_combinations
from tfmot_pam.pipeline.apart import tasks_apart


def _expected(alone, apart, usage):
    """What a merged network of the other tasks and theirs side by side cost, written out."""
    together = max(cost for task, cost in alone.items() if task not in apart)
    total = 0.0
    for chosen, share in usage.items():
        own = sum(alone[task] for task in chosen if task in apart)
        total += share * (own + together * any(task not in apart for task in chosen))
    return total


@pytest.mark.parametrize(
    "costs", [(1.0, 1.0, 1.0), (0.05, 0.6, 1.1), (0.01, 0.02, 0.5, 1.0), (0.3, 0.2, 0.001, 1.0)]
)
def test_no_other_choice_costs_less(costs):
    alone = {f"t{place}": cost for place, cost in enumerate(costs)}
    combinations = all_combinations(tuple(alone))
    usage = dict.fromkeys(combinations, 1.0 / len(combinations))
    found = tasks_apart(alone)
    least = min(
        _expected(alone, apart, usage)
        for count in range(len(alone) - 1)
        for apart in itertools.combinations(alone, count)
    )
    assert _expected(alone, found, usage) == pytest.approx(least)


def test_two_tasks_are_never_taken_apart():
    assert tasks_apart({"digit": 1e-6, "speaker": 1.0}) == ()


def test_a_task_that_never_runs_without_the_others_costs_least_in_their_network():
    alone = {"activity": 0.05, "subject": 0.6, "height": 1.1}
    assert tasks_apart(alone) == ("activity",)
    assert tasks_apart(alone, {("activity", "subject", "height"): 1.0}) == ()


def test_tasks_that_run_alone_stay_alone():
    alone = {"a": 0.8, "b": 0.9, "c": 1.0}
    usage = {("a",): 0.98, ("b", "c"): 0.02}
    assert tasks_apart(alone) == ()
    assert tasks_apart(alone, usage) == ("a",)
