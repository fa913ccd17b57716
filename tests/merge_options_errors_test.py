"""Thresholds and options that `merge` refuses: what came, what was expected, what to do."""

from __future__ import annotations

import re

import pytest

import tfmot_pam
from tests.refusals import NAN, labelled, models, refuse
from tests.small_nets import dense_net, vectors


@pytest.mark.parametrize("alpha", [1e3, {"a": -1.0, "b": 1e3}, {"a": -1.0, "b": NAN}])
def test_alpha_above_the_ceiling_names_task_and_channels(alpha):
    task = "b" if isinstance(alpha, dict) else "a"
    refuse(
        ValueError,
        f"Task '{task}', channels of 'fc0': Received alpha=",
        "expected less than the ceiling of .* nats",
        "Lower alpha",
        alpha=alpha,
    )


def test_alpha_at_the_ceiling_is_refused_and_just_below_it_is_not():
    options = {"compensation": False, "min_group": 1, "verbose": 0}
    plan = tfmot_pam.merge(models(), labelled(), **options).merge_plan
    ceiling = plan.spaces[0].paths["a"].full
    lower = min(path.full for space in plan.spaces for path in space.paths.values())
    refuse(ValueError, "Task 'a', channels of 'fc0'", "ceiling", alpha={"a": ceiling, "b": 0.0})
    tfmot_pam.merge(models(), labelled(), alpha=lower * 0.999, **options)


@pytest.mark.parametrize("alpha", [{"a": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.1}, {"a": 0.1, "c": 1}])
def test_alpha_for_other_tasks(alpha):
    refuse(
        ValueError,
        re.escape(f"`alpha` has the tasks {sorted(alpha)}"),
        re.escape("each of ['a', 'b']"),
        "Add the missing tasks and take out the unknown ones",
        alpha=alpha,
    )


@pytest.mark.parametrize("rho", [-0.1, 1.0, 1.5, NAN])
def test_rho_out_of_range(rho):
    refuse(ValueError, f"Received rho={rho}", "Expected 0 <= rho < 1", "Choose", rho=rho)


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.2, NAN])
def test_share_out_of_range(share):
    parts = (f"Received share={share}", "Expected 0 < share <= 1", "method='separate'")
    refuse(ValueError, *parts, share=share)


@pytest.mark.parametrize(
    "given", [{"rho": 0.1, "alpha": 0.2}, {"alpha": 0.2, "share": 0.5}, {"rho": 0.1, "share": 0.5}]
)
def test_several_thresholds(given):
    refuse(
        ValueError,
        "several thresholds: " + re.escape(str(given)),
        "Expected at most one of `rho`, `alpha` and `share`",
        "Drop the others",
        **given,
    )


@pytest.mark.parametrize("bad", [{"min_group": 0}, {"samples": 1}, {"samples": -5}])
def test_counts_out_of_range(bad):
    ((name, value),) = bad.items()
    refuse(ValueError, f"{name}={value}", "Expected at least 1", "Use the defaults", **bad)


def test_unknown_method_lists_what_exists():
    refuse(
        ValueError,
        "Unknown `method`: 'pram'",
        re.escape("['mtz', 'pam', 'pam-paper', 'random', 'separate', 'shared', 'zip']"),
        "Choose one",
        method="pram",
    )


@pytest.mark.parametrize("estimator", ["mine", {"name": "mine"}])
def test_unknown_estimator_lists_what_exists(estimator):
    refuse(
        ValueError,
        "estimator='mine'",
        re.escape("expected one of ['gaussian', 'kde']"),
        "Choose one",
        estimator=estimator,
    )


def test_unknown_option_of_an_estimator():
    refuse(
        TypeError,
        re.escape("Received options ['bandwith'] for the 'kde' estimator"),
        "expected some of .*bandwidth",
        "Remove the others",
        estimator={"name": "kde", "bandwith": 0.1},
    )


@pytest.mark.parametrize("estimator", [{"ridge": 0.1}, {}])
def test_an_estimator_without_its_name(estimator):
    refuse(ValueError, "estimator", "name", estimator=estimator)


@pytest.mark.parametrize("estimator", [None, 3])
def test_an_estimator_of_another_type(estimator):
    refuse(TypeError, "estimator", repr(estimator), estimator=estimator)


def test_unknown_reduction_lists_what_exists():
    refuse(
        ValueError,
        "Unknown `reduction`: 'min'",
        re.escape("Expected one of ['max', 'max+mean', 'mean']"),
        reduction="min",
    )


def test_kde_needs_labels_or_decisions():
    regression = dense_net(1, (8, 7), 2, activation=None)
    refuse(
        ValueError,
        "Received linear outputs .* for task 'b'",
        "expected softmax or sigmoid",
        "Give the task class labels, or use estimator='gaussian'",
        by_task=models(b=regression),
        data=vectors(48),
        estimator="kde",
    )
