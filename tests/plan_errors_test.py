"""Bad merge plans and combinations: what came, what was expected, what to do."""

from __future__ import annotations

import json
import re

import keras
import pytest

import tfmot_pam
from tests.refusals import explain, labelled, models, refuse
from tests.small_nets import dense_net

layers = keras.layers


# --- combinations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "parts"),
    [
        (["c"], ("Unknown tasks: ..c..", "The model's tasks are ..a., .b..", "Choose")),
        ("ab", ("Unknown tasks: ..ab..", "The model's tasks are ..a., .b..", "Choose")),
        ([], ("at least one task", re.escape("Received: ()"), "Choose among")),
        (["a", "a"], ("each of them once", re.escape("Received: ('a', 'a')"), "Choose among")),
    ],
)
def test_unknown_combination(tasks, parts, merged):
    for call in (tfmot_pam.select_tasks, tfmot_pam.cost):
        explain(ValueError, *parts, call=call, model=merged, tasks=tasks)


# --- plans --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged():
    return tfmot_pam.merge(models(), labelled(), compensation=False, min_group=1, verbose=0)


@pytest.fixture
def plan(merged):
    return merged.merge_plan


def damaged(plan, change):
    data = json.loads(plan.to_json())
    change(data)
    return json.dumps(data)


def first_group(data):
    """The channels of one model in some group of the first space."""
    return next(iter(data["spaces"][0]["groups"][0]["channels"].values()))


DAMAGES = {
    "no tasks": (lambda d: d.pop("tasks"), "the entry 'tasks' is missing"),
    "no method": (lambda d: d.pop("method"), "the entry 'method' is missing"),
    "no spaces": (lambda d: d.pop("spaces"), "the entry 'spaces' is missing"),
    "no widths": (lambda d: d["spaces"][0].pop("widths"), "the entry 'widths' is missing"),
    "no groups": (lambda d: d["spaces"][0].pop("groups"), "the entry 'groups' is missing"),
    "a channel twice": (
        lambda d: first_group(d).append(first_group(d)[0]),
        "'fc0' does not place each of the . channels of '.' exactly once",
    ),
    "a channel nowhere": (
        lambda d: first_group(d).pop(),
        "'fc0' does not place each of the . channels of '.' exactly once",
    ),
    "a channel that does not exist": (
        lambda d: first_group(d).append(99),
        "'fc0' does not place each of the . channels of '.' exactly once",
    ),
    "a negative channel": (
        lambda d: first_group(d).append(-1),
        "'fc0' does not place each of the . channels of '.' exactly once",
    ),
    "a channel that is no number": (lambda d: first_group(d).append("x"), "x"),
    "a group of an unknown task": (
        lambda d: d["spaces"][0]["groups"][0]["tasks"].append("c"),
        "unknown tasks ..c..",
    ),
    "channels of an unknown task": (
        lambda d: d["spaces"][0]["groups"][0]["channels"].update(c=[0]),
        "unknown tasks ..c..",
    ),
    "a group without tasks": (
        lambda d: d["spaces"][0]["groups"][0].update(tasks=[]),
        "'fc0' has a group without tasks",
    ),
    "dropped channels of an unknown task": (
        lambda d: d["spaces"][0]["dropped"].update(c=[0]),
        "unknown tasks ..c..",
    ),
    "too few fingerprints": (
        lambda d: d["fingerprints"].pop(),
        "2 tasks and 1 fingerprints do not fit",
    ),
    "a task twice": (lambda d: d.update(tasks=["a", "a"]), ""),
    "widths for other models": (lambda d: d["spaces"][0]["widths"].append(3), ""),
    "a damaged path": (
        lambda d: d["spaces"][0]["paths"]["a"]["order"].append(0),
        "no permutation",
    ),
    "spaces that are none": (lambda d: d.update(spaces=[3]), ""),
    "groups in place of a list": (lambda d: d["spaces"][0].update(groups=3), ""),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_plan(case, plan):
    change, reason = DAMAGES[case]
    explain(
        ValueError,
        "The merge plan is damaged:",
        reason,
        "Expected the JSON text",
        "Merge again",
        call=tfmot_pam.MergePlan.from_json,
        text=damaged(plan, change),
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: "{}",
        lambda text: "7",
    ],
    ids=["truncated", "empty", "a list", "an empty dict", "a number"],
)
def test_a_text_that_is_no_plan(spoil, plan, tmp_path):
    text = spoil(plan.to_json())
    parts = ("no merge plan", "Expected the JSON text that MergePlan.to_json", "Merge again")
    explain(ValueError, *parts, call=tfmot_pam.MergePlan.from_json, text=text)
    (tmp_path / "plan.json").write_text(text, encoding="utf-8")
    explain(ValueError, *parts, call=tfmot_pam.MergePlan.load, path=tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "came"),
    [
        ({"version": 99}, "version 99"),
        ({"version": "1"}, "version '1'"),
        ({"format": "tfmot_pam.Other"}, "format 'tfmot_pam.Other'"),
    ],
)
def test_a_plan_of_another_version_or_format(change, came, plan):
    explain(
        ValueError,
        "Received a file of",
        came,
        "Expected 'tfmot_pam.MergePlan', version 1",
        "Merge again",
        call=tfmot_pam.MergePlan.from_json,
        text=damaged(plan, lambda data: data.update(change)),
    )


def test_a_plan_of_other_tasks(plan):
    by_task = {"a": dense_net(0), "c": dense_net(1, (8, 7), 2)}
    x, y = labelled()
    refuse(
        ValueError,
        "belongs to other models",
        re.escape("the tasks ['a', 'b'], the models are for ['a', 'c']"),
        "Pass the models of the plan",
        by_task=by_task,
        data=x,
        plan=plan,
    )


def test_a_plan_of_the_same_tasks_in_another_order(plan):
    by_task = dict(reversed(models().items()))
    refuse(ValueError, "belongs to other models", "order", by_task=by_task, plan=plan)


def moved():
    model = dense_net(1, (8, 7), 2)
    model.layers[-1].bias.assign_add([0.0, 1e-6])
    return model


@pytest.mark.parametrize(
    "other",
    [moved, lambda: dense_net(1, (8, 9), 2), lambda: dense_net(1, (8, 7, 4), 2)],
    ids=["other weights", "other widths", "more layers"],
)
def test_a_plan_of_other_weights_or_widths(other, plan):
    refuse(
        ValueError,
        "belongs to other models",
        re.escape("the structure or the weights of ['b']"),
        "Pass the original models, or merge without `plan`",
        by_task=models(b=other()),
        plan=plan,
    )


def test_a_plan_of_models_with_another_activation(plan):
    """The same weights, but the trunk ends earlier."""
    x = h = keras.Input((6,), name="vector")
    for name, width, activation in (("fc0", 8, "relu"), ("fc1", 7, "tanh")):
        h = layers.Dense(width, activation=activation, name=name)(h)
    other = keras.Model(x, layers.Dense(2, activation="softmax", name="head")(h))
    other.set_weights(models()["b"].get_weights())
    refuse(
        ValueError,
        "belongs to other models",
        re.escape("the structure or the weights of ['b']"),
        "Pass the original models",
        by_task=models(b=other),
        plan=plan,
    )


def test_something_else_than_a_plan():
    refuse(TypeError, "plan", "MergePlan", plan="plan.json")


def test_a_plan_file_that_exists_is_kept(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("mine", encoding="utf-8")
    parts = (re.escape(str(path)), "exists", "Expected a new path", "overwrite=True")
    explain(ValueError, *parts, call=plan.save, path=path)
    assert path.read_text(encoding="utf-8") == "mine"
    plan.save(path, overwrite=True)
    assert tfmot_pam.MergePlan.load(path).to_json() == plan.to_json()
