"""Regrouping leaves no group without something to read: what is demoted or taken whole."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.groupings import AB, A, B, aligned, masks_in, paths_for, request
from tests.small_nets import dense_net
from tfmot_pam.merging.donor import donor_method
from tfmot_pam.merging.grouping import free_spaces
from tfmot_pam.merging.regroup import regroup
from tfmot_pam.merging.units import unit_spaces

layers = keras.layers


def stacked(middle=(), widths=((3, 4), (3, 5))):
    """Two layers with something between them."""
    models = []
    for k, (first, second) in enumerate(widths):
        x = h = keras.Input((6,), name="vector")
        h = layers.Dense(first, name="fc0")(h)
        for make in middle:
            h = make()(h)
        h = layers.Dense(second, name="fc1")(h)
        models.append(keras.Model(x, layers.Dense(2, name=f"head{k}")(h)))
    return aligned(*models)


def test_above_a_frozen_space_nothing_is_shared():
    alignment = stacked([layers.LayerNormalization])
    frozen = {space.name: space.frozen for space in alignment.spaces}
    assert "LayerNormalization" in frozen["fc0"]
    (space,) = [i for i in free_spaces(alignment) if alignment.spaces[i].name == "fc1"]
    wanted = [AB, A, B, 0] + [AB, AB, A, B, 0]
    grouping = regroup(request(alignment, paths_for((space, wanted))), "pam", 1)
    # A shared channel goes to its own network; a channel of the other task is read there.
    assert masks_in(alignment, grouping, space) == [A, A, B, 0] + [B, B, A, B, 0]


def test_what_is_taken_whole_is_shared_whole():
    """One network's layers, those of the first task, do for all; what is above can be shared."""
    alignment = stacked([layers.LayerNormalization])
    grouping = regroup(request(alignment, None), "shared")
    (above,) = free_spaces(alignment)
    assert unit_spaces(alignment) == ((above - 2, above - 1),)
    for index in (above - 2, above - 1):
        assert masks_in(alignment, grouping, index) == [AB] * 3 + [0] * 3
    assert masks_in(alignment, grouping, above) == [AB] * 9


def test_what_is_taken_whole_stays_apart_where_widths_differ():
    alignment = stacked([layers.LayerNormalization], widths=((3, 4), (4, 5)))
    grouping = regroup(request(alignment, None), "shared")
    (above,) = free_spaces(alignment)
    assert unit_spaces(alignment) == ()
    assert masks_in(alignment, grouping, above - 1) == [A] * 3 + [B] * 4
    assert masks_in(alignment, grouping, above) == [A] * 4 + [B] * 5


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, [AB] * 3 + [0] * 3), (0.4, [A] * 3 + [B] * 3)]
)
def test_a_donor_gives_what_is_taken_whole_from_a_half_on(share, expected):
    alignment = stacked([layers.LayerNormalization])
    grouping = regroup(request(alignment, None), donor_method("a", lambda p, n: share, "donor"))
    (above,) = free_spaces(alignment)
    assert masks_in(alignment, grouping, above - 1) == expected


def test_what_is_taken_whole_stays_apart_where_nothing_shared_feeds_it():
    """The recurrent layer would have to read exclusive channels."""

    def net(k):
        x = h = keras.Input((4, 6), name="vector")
        h = layers.LayerNormalization(name="norm")(layers.Dense(3 + k, name="fc0")(h))
        h = layers.SimpleRNN(3, name="state")(h)
        return keras.Model(x, layers.Dense(2, name=f"head{k}")(layers.Dense(4, name="fc1")(h)))

    alignment = aligned(net(0), net(1))
    grouping = regroup(request(alignment, None), "shared")
    names = [space.name for space in alignment.spaces]
    assert unit_spaces(alignment) == ((names.index("state"),),)
    assert masks_in(alignment, grouping, names.index("state")) == [A] * 3 + [B] * 3
    assert masks_in(alignment, grouping, names.index("fc1")) == [A] * 4 + [B] * 4


def test_a_shared_group_needs_a_shared_group_below():
    """Nothing forbids a decision that shares nothing in a lower layer and all in a higher one."""
    alignment = stacked()
    low, high = free_spaces(alignment)
    paths = paths_for((low, [A, A, B] + [B, A, B]), (high, [AB] * 9))
    grouping = regroup(request(alignment, paths), "pam", 1)
    assert masks_in(alignment, grouping, low) == [A, A, B] + [B, A, B]
    assert masks_in(alignment, grouping, high) == [A] * 4 + [B] * 5


def test_an_exclusive_group_reads_any_group_of_its_task():
    alignment = stacked()
    low, high = free_spaces(alignment)
    for below, above in itertools.product(([AB] * 6, [A, AB, B] * 2), ([A, B, AB] * 3, [A, B] * 4)):
        above = [*above, AB][:9]
        grouping = regroup(request(alignment, paths_for((low, below), (high, above))), "pam", 1)
        assert masks_in(alignment, grouping, low) == below
        assert masks_in(alignment, grouping, high) == above


def test_demotion_goes_up_layer_by_layer():
    models = [dense_net(k, (3, 3, 3)) for k in range(2)]
    alignment = aligned(*models)
    first, *others = free_spaces(alignment)
    paths = paths_for((first, [A, B] * 3), *((space, [AB] * 6) for space in others))
    grouping = regroup(request(alignment, paths), "pam", 1)
    for space in others:
        assert masks_in(alignment, grouping, space) == [A] * 3 + [B] * 3


def test_every_layer_that_writes_a_residual_space_needs_a_group_to_read():
    """One branch reads a space without shared channels: the sum cannot be shared."""
    models = []
    for k in range(2):
        x = keras.Input((6,), name="vector")
        left = layers.Dense(4, activation="relu", name="left")(x)
        right = layers.Dense(4, activation="relu", name="right")(x)
        total = layers.Add(name="sum")(
            [layers.Dense(4, name="up")(left), layers.Dense(4, name="down")(right)]
        )
        models.append(keras.Model(x, layers.Dense(2, name=f"head{k}")(total)))
    alignment = aligned(*models)
    names = {alignment.spaces[i].name: i for i in free_spaces(alignment)}
    assert set(names) == {"left", "right", "up"}
    for right, expected in (([A, B] * 4, [A] * 4 + [B] * 4), ([AB] * 8, [AB] * 8)):
        paths = paths_for(
            (names["left"], [AB] * 8), (names["right"], right), (names["up"], [AB] * 8)
        )
        grouping = regroup(request(alignment, paths), "pam", 1)
        assert masks_in(alignment, grouping, names["up"]) == expected


def test_a_part_of_a_concatenation_whose_tasks_find_nothing_to_read():
    """Both parts are of one space; only the second would be shared, and reads the first alone."""

    def own(seed):
        keras.utils.set_random_seed(seed)
        image = keras.Input((8, 8, 1))
        first = keras.layers.Conv2D(3, 3, padding="same", name="first")(image)
        second = keras.layers.Conv2D(3, 3, padding="same", name="second")(first)
        whole = keras.layers.Conv2D(6, 3, padding="same", name="whole")(image)
        h = keras.layers.Add()([keras.layers.Concatenate()([first, second]), whole])
        h = keras.layers.GlobalAveragePooling2D()(h)
        return keras.Model(image, keras.layers.Dense(3, name="head")(h))

    def decide(request):
        return {1: np.repeat([1, 3, 2, 3], 3)}

    method = tfmot_pam.MergeMethod("late", decide, own_width=True)
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
    model = tfmot_pam.merge({"a": own(0), "b": own(1)}, x, method=method, verbose=0)
    names = [layer.name for layer in model.layers]
    assert {"second_a", "second_b"} <= set(names)
    assert "second_shared" not in names
