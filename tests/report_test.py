"""Reports: values counted by hand, notes, and every form of the arguments."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest

import tfmot_pam
from tests import hand_built
from tests.hand_counted import (
    AB,
    MACS,
    ORIGINAL_MACS,
    UNITS,
    A,
    B,
    full_report,
    single,
    two_originals,
)
from tfmot_pam.reporting.report import report
from tfmot_pam.task_group import TaskGroup


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return hand_built.two_task_model()


@pytest.fixture(scope="module")
def originals() -> dict[str, keras.Model]:
    return two_originals()


@pytest.fixture(scope="module")
def full(model, originals):
    return full_report(model, originals)


# --- values -------------------------------------------------------------------------------------


def test_costs_of_every_combination(model):
    found = report(model)
    assert [row.tasks for row in found.rows] == [A, B, AB]
    for row in found.rows:
        assert row.macs == MACS[row.tasks]
        assert row.parameters == MACS[row.tasks] + UNITS[row.tasks]
        assert row.flops == 2 * MACS[row.tasks] - UNITS[row.tasks]
        assert row.probability == pytest.approx(1 / 3)
        assert (row.original_macs, row.ratio, row.latency_ms, row.file_bytes) == (None,) * 4
        assert (row.accuracy, row.original_accuracy) == ({}, {})
    assert [row.groups for row in found.rows] == [4, 4, 6]
    assert found.expected_macs == pytest.approx(sum(MACS.values()) / 3)
    assert found.expected_original_macs is None
    assert (found.tasks, found.unsupported, found.frozen) == (AB, {}, {})


def test_groups_by_layer_largest_task_set_first(model):
    found = report(model).groups
    assert found == {"fc1": {AB: 4, A: 2, B: 3}, "fc2": {AB: 2, A: 3, B: 1}}
    assert list(found["fc1"]) == [AB, A, B]


def test_groups_of_task_sets_between_one_and_all():
    found = report(hand_built.three_task_model())
    abc, ab, bc = ("a", "b", "c"), ("a", "b"), ("b", "c")
    assert list(found.groups) == ["conv1", "conv2"]
    assert list(found.groups["conv1"]) == [abc, ab, bc, ("a",), ("b",), ("c",)]
    assert found.groups["conv2"][bc] == 2
    # Task a runs the groups of all, of a and b, and its own, in two layers.
    assert [row.groups for row in found.rows] == [6, 8, 6, 10, 10, 10, 12]


def test_originals_are_run_one_by_one(full):
    a, b, both = full.rows
    assert (a.original_macs, b.original_macs) == (ORIGINAL_MACS[A], ORIGINAL_MACS[B])
    assert both.original_macs == ORIGINAL_MACS[A] + ORIGINAL_MACS[B]
    assert both.original_parameters == both.original_macs + (5 + 3 + 2) + (6 + 4 + 4)
    assert both.original_flops == 2 * both.original_macs - (5 + 3 + 2) - (6 + 4 + 4)
    assert a.ratio == MACS[A] / ORIGINAL_MACS[A]


def test_originals_as_a_list_in_task_order(model, originals, full):
    found = report(model, originals=[originals["a"], originals["b"]])
    assert [row.original_macs for row in found.rows] == [row.original_macs for row in full.rows]


def test_expected_costs_under_usage(full):
    assert full.expected_macs == pytest.approx((MACS[A] + MACS[AB]) / 2)
    expected = (2 * ORIGINAL_MACS[A] + ORIGINAL_MACS[B]) / 2
    assert full.expected_original_macs == pytest.approx(expected)
    assert [row.probability for row in full.rows] == [0.5, 0.0, 0.5]


def test_measured_values_belong_to_their_combination(full):
    a, b, both = full.rows
    assert (a.latency_ms, b.latency_ms, both.latency_ms) == (0.5, 0.25, 0.625)
    assert (a.file_bytes, b.file_bytes, both.file_bytes) == (1000, 2000, 3_400_000)
    assert (a.accuracy, both.accuracy) == ({"a": 0.9}, {"a": 0.9, "b": 0.8})
    assert both.original_accuracy == {"a": 0.95, "b": 0.85}


def test_accuracy_by_combination(model):
    measured = {"a": {"a": 0.7}, ("b", "a"): {"a": np.float32(0.5), "b": 1}}
    a, b, both = report(model, accuracy=measured).rows
    assert (a.accuracy, b.accuracy, both.accuracy) == ({"a": 0.7}, {}, {"a": 0.5, "b": 1.0})


def test_chosen_combinations_do_not_change_the_expected_cost(model):
    found = report(model, combinations=[("b", "a"), "a"])
    assert [row.tasks for row in found.rows] == [AB, A]
    assert found.expected_macs == report(model).expected_macs


def test_model_without_task_groups():
    x = keras.Input((4,))
    hidden = keras.layers.Dense(3)(x)
    found = report(keras.Model(x, keras.layers.Dense(2, name="age")(hidden)))
    assert [(row.tasks, row.macs, row.groups) for row in found.rows] == [(("age",), 18, 0)]
    assert (found.groups, found.expected_macs) == ({}, 18)
    assert "groups" not in str(found)


def test_selection_keeps_its_groups(model):
    found = report(tfmot_pam.select_tasks(model, "b"))
    assert [(row.tasks, row.macs, row.groups) for row in found.rows] == [(B, MACS[B], 4)]
    assert found.groups == {"fc1": {AB: 4, B: 3}, "fc2": {AB: 2, B: 1}}


def test_heads_are_no_groups():
    x = keras.Input((4,))
    shared = TaskGroup(keras.layers.Dense(3, name="trunk"), AB)(x)
    hidden = TaskGroup(keras.layers.Dense(5, name="own"), A)(shared)
    softmax = TaskGroup(keras.layers.Dense(2, name="out_a"), A)(hidden)
    heads = {"a": keras.layers.Softmax()(softmax), "b": keras.layers.Dense(1)(shared)}
    assert report(keras.Model(x, heads)).groups == {"trunk": {AB: 3}}


def test_heads_of_one_name_are_no_groups():
    assert "head" not in report(hand_built.two_task_model()).groups


def test_outputs_read_off_the_trunk_leave_its_groups_whole():
    x = keras.Input((4,))
    h = hand_built.mix(x, "trunk", {AB: 3, A: 1, B: 2}, keras.layers.Dense, AB)
    heads = {task: keras.layers.ReLU()(hand_built.side_by_side(h, (task,))) for task in AB}
    assert report(keras.Model(x, heads)).groups == {"trunk": {AB: 3, A: 1, B: 2}}


def test_what_cannot_be_counted_is_named_with_its_model(originals):
    class Odd(keras.layers.Layer):
        def call(self, inputs):
            return inputs + 1

    x = keras.Input((6,))
    heads = {"a": keras.layers.Dense(2)(Odd(name="odd")(x)), "b": keras.layers.Dense(2)(x)}
    model = keras.Model(x, heads)
    own = keras.Sequential([keras.Input((6,)), Odd(name="strange"), keras.layers.Dense(2)])
    found = report(model, originals={"a": own, "b": originals["b"]})
    reason = "there is no rule for Odd"
    assert found.unsupported == {"odd": reason, "strange (original of a)": reason}
    assert f"Not counted: odd: {reason}" in str(found)
    assert any("could not be counted" in note for note in found.notes)


def test_frozen_spaces_come_from_the_merge_plan():
    model = hand_built.two_task_model()
    model.merge_plan = types.SimpleNamespace(frozen={"lstm": "its state reads all channels"})
    found = report(model)
    assert found.frozen == {"lstm": "its state reads all channels"}
    assert "Not regrouped: lstm: its state reads all channels" in str(found)


# --- notes --------------------------------------------------------------------------------------


def test_dense_sharing_that_costs_more_is_said(full):
    (note,) = full.notes
    assert note.startswith("1 of 3 combinations cost more")
    assert "(a: 1.41 times as much)" in note
    assert "pays after pruning and fine-tuning" in note
    assert "pays after pruning" in str(full).replace("\n", " ")


def test_sharing_without_originals_asks_for_them(model):
    (note,) = report(model).notes
    assert "Pass originals= to compare" in note


def test_nothing_to_say_where_sharing_pays(model):
    wide = {task: single(50, 50, 2) for task in AB}
    assert report(model, originals=wide).notes == ()


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"originals": [1]}, ValueError, "one model a task.*1 models"),
        ({"originals": {"a": 1}}, ValueError, r"has the tasks \['a'\].*\['a', 'b'\].*missing"),
        ({"originals": {"a": 1, "b": 2}}, TypeError, "must be a keras.Model.*Received: 1"),
        ({"originals": 3}, TypeError, "`originals` must be a dict.*Received: 3"),
        ({"accuracy": 0.9}, TypeError, "`accuracy` must be a dict.*Received: 0.9"),
        ({"accuracy": {"z": 0.9}}, ValueError, "`accuracy` has the unknown task 'z'"),
        ({"accuracy": {"a": 97.1}}, ValueError, "97.1 for 'a'.*divide percentages by 100"),
        ({"accuracy": {"a": float("nan")}}, ValueError, "nan for 'a'"),
        ({"accuracy": {"a": "good"}}, TypeError, "must hold numbers.*'good'"),
        ({"accuracy": {"a": {"b": 0.5}}}, ValueError, r"unknown task 'b'.*\['a'\]"),
        ({"accuracy": {"a": {"a": 1}, ("a",): {"a": 0}}}, ValueError, "twice"),
        ({"original_accuracy": {"z": 0.9}}, ValueError, "`original_accuracy`.*'z'"),
        ({"latency": {"z": 1}}, ValueError, r"In `latency`: Unknown tasks: \['z'\]"),
        ({"latency": {"a": -1}}, ValueError, "`latency` has the value -1.*at least 0"),
        ({"latency": {"a": float("inf")}}, ValueError, "`latency` has the value inf"),
        ({"latency": {"a": True}}, TypeError, "must hold numbers.*True"),
        ({"latency": {("a", "b"): 1, ("b", "a"): 2}}, ValueError, "twice"),
        ({"latency": {3: 1}}, TypeError, "`latency` must name combinations.*Received: 3"),
        ({"file_bytes": [10]}, TypeError, "`file_bytes` must be a dict by combination"),
        ({"usage": {"z": 1.0}}, ValueError, "`usage` names the combination 'z'"),
        ({"usage": {"a": 0.4}}, ValueError, "sum to 0.4.*must sum to 1"),
        ({"usage": {"a": 1.5, "b": -0.5}}, ValueError, "-0.5.*must be 0 or more"),
        ({"combinations": "a"}, TypeError, "list of combinations.*Received: 'a'"),
        ({"combinations": [("a", "z")]}, ValueError, "In `combinations`: Unknown tasks"),
        ({"combinations": [("a", "b"), ("b", "a")]}, ValueError, "each of them once"),
        ({"combinations": []}, ValueError, "at least one combination"),
    ],
)
def test_bad_arguments(model, arguments, error, match):
    with pytest.raises(error, match=match):
        report(model, **arguments)


def test_bad_models():
    with pytest.raises(TypeError, match="must be a keras.Model"):
        report("merged.keras")
