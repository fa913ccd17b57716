"""Combinations, and sub-networks that compute what the full network computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests import hand_built
from tfmot_pam.graph.selection import all_combinations, check_tasks
from tfmot_pam.task_group import TaskGroup


def test_combinations_small_ones_first_in_model_order():
    x = keras.Input((2,))
    heads = {name: keras.layers.Dense(1)(x) for name in ("zebra", "ant", "cow")}
    assert tfmot_pam.combinations(keras.Model(x, heads)) == [
        ("zebra",),
        ("ant",),
        ("cow",),
        ("zebra", "ant"),
        ("zebra", "cow"),
        ("ant", "cow"),
        ("zebra", "ant", "cow"),
    ]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_number_of_combinations(count):
    found = all_combinations([f"t{index}" for index in range(count)])
    assert len(set(found)) == 2**count - 1
    assert [len(chosen) for chosen in found] == sorted(len(chosen) for chosen in found)


def test_model_with_one_output_has_one_task_named_like_its_layer():
    x = keras.Input((2,))
    model = keras.Model(x, keras.layers.Dense(1, name="age")(x))
    assert tfmot_pam.combinations(model) == [("age",)]
    selected = tfmot_pam.select_tasks(model, "age")
    data = np.ones((3, 2), "float32")
    np.testing.assert_array_equal(selected(data)["age"], model(data))


def test_list_of_one_output_is_one_task():
    x = keras.Input((2,))
    model = keras.Model([x], [keras.layers.Dense(1, name="age")(x)])
    assert tfmot_pam.combinations(model) == [("age",)]
    data = np.ones((3, 2), "float32")
    (expected,) = keras.tree.flatten(model([data]))
    np.testing.assert_allclose(tfmot_pam.select_tasks(model, "age")(data)["age"], expected)


def test_sequential_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="age")])
    assert tfmot_pam.combinations(model) == [("age",)]


@pytest.mark.parametrize("build", [hand_built.two_task_model, hand_built.three_task_model])
def test_every_combination_computes_what_the_full_model_computes(build):
    model = hand_built.shake(build(), seed=1)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(5, *model.input.shape[1:])).astype("float32")
    full = model(data, training=False)
    for tasks in tfmot_pam.combinations(model):
        selected = tfmot_pam.select_tasks(model, tasks)
        outputs = selected(data, training=False)
        assert tuple(outputs) == tasks
        for task in tasks:
            np.testing.assert_allclose(outputs[task], full[task], atol=1e-6)


def test_sub_network_holds_exactly_the_groups_of_its_tasks():
    model = hand_built.two_task_model()
    selected = tfmot_pam.select_tasks(model, ["b"])
    groups = {layer.name for layer in selected.layers if isinstance(layer, TaskGroup)}
    mixing = {name for name in groups if not name.startswith("re_lu")}
    assert mixing == {"fc1_shared", "fc1_b", "fc2_shared", "fc2_b", "head_b"}
    assert all("b" in selected.get_layer(name).tasks for name in groups)


def test_any_order_of_task_names_gives_model_order():
    selected = tfmot_pam.select_tasks(hand_built.three_task_model(), ["c", "a"])
    assert list(selected.output) == ["a", "c"]


def test_selecting_from_a_selection():
    model = hand_built.shake(hand_built.three_task_model(), seed=2)
    once = tfmot_pam.select_tasks(model, ["a", "b"])
    twice = tfmot_pam.select_tasks(once, "a")
    data = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    np.testing.assert_allclose(twice(data)["a"], model(data)["a"], atol=1e-6)
    assert tfmot_pam.combinations(once) == [("a",), ("b",), ("a", "b")]


def test_the_model_is_left_alone():
    model = hand_built.two_task_model()
    before = [np.array(weight) for weight in model.weights]
    selected = tfmot_pam.select_tasks(model, "a")
    for weight in selected.weights:
        weight.assign(weight + 1)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_saved_selection_loads_and_computes_the_same(tmp_path):
    selected = hand_built.shake(
        tfmot_pam.select_tasks(hand_built.three_task_model(), ["a", "c"]), seed=3
    )
    selected.save(tmp_path / "selected.keras")
    loaded = keras.models.load_model(tmp_path / "selected.keras")
    data = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    for task, value in selected(data).items():
        np.testing.assert_allclose(loaded(data)[task], value, atol=1e-6)


@pytest.mark.parametrize(
    ("tasks", "match"),
    [
        (["a", "z"], r"Unknown tasks: \['z'\].*\['a', 'b'\].*Choose"),
        ("z", r"Unknown tasks: \['z'\]"),
        (["a", "a"], "each of them once.*Received: .'a', 'a'.*Choose"),
        ([], "at least one task.*Received: .*Choose"),
    ],
)
def test_bad_combinations(tasks, match):
    with pytest.raises(ValueError, match=match):
        tfmot_pam.select_tasks(hand_built.two_task_model(), tasks)


def test_subclassed_model():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(TypeError, match="subclassed"):
        tfmot_pam.select_tasks(Subclassed(), "a")


def test_tasks_that_are_no_names():
    with pytest.raises(TypeError, match="Received: 3"):
        check_tasks(3, ("a", "b"))
