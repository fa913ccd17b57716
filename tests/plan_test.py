"""The merge plan: what it says, its JSON, and its replay."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import (
    all_outputs,
    assert_same_weights,
    conv_net,
    dense_net,
    images,
    outputs_of,
    plain_conv,
    vectors,
)
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.plan import MergePlan, PlannedSpace, fingerprint
from tfmot_pam.merging.relevance import RelevancePath

layers = keras.layers


def merge(models, data, **options):
    return tfmot_pam.merge(models, data, verbose=0, **options)


@pytest.fixture(scope="module")
def three():
    models = {
        "zebra": dense_net(0, (6, 5), 3),
        "ant": dense_net(1, (8, 7), 2, "sigmoid"),
        "bee": dense_net(2, (5, 6), 4, None),
    }
    return models, vectors(128)


@pytest.fixture(scope="module")
def merged(three):
    return merge(*three, rho=0.1, min_group=1)


def hand_made():
    path = RelevancePath(np.array([1, 0, 2]), np.array([0.1, 0.1 + 0.2, 1 / 3]), 1 / 3, 1e-17)
    return MergePlan(
        tasks=("b", "a"),
        method="pam",
        options={"rho": 0.1 + 0.2, "estimator": {"name": "kde", "bandwidth": "scaled"}},
        fingerprints=("x", "y"),
        spaces=(
            PlannedSpace(
                name="conv",
                writers=("conv", "skip"),
                widths=(2, 1),
                frozen=None,
                groups=((("b", "a"), {"b": (1,)}), (("a",), {"a": (0,)})),
                dropped={"b": (0,)},
                paths={"b": path, "a": path},
            ),
            PlannedSpace("odd", ("odd",), (1, 1), "no rule", ((("b",), {"b": (0,)}),), {}, {}),
        ),
    )


def test_shares_and_frozen_spaces():
    plan = hand_made()
    assert plan.shared == 1 / 3
    assert plan.frozen == {"odd": "no rule"}
    assert MergePlan(("a", "b"), "shared", {}, ("x", "y"), ()).shared == 0.0


def test_json_round_trip_of_a_merge(merged):
    plan = merged.merge_plan
    text = plan.to_json()
    again = MergePlan.from_json(text)
    assert again.to_json() == text
    assert (again.tasks, again.method, again.options) == (plan.tasks, plan.method, plan.options)
    assert (again.fingerprints, again.shared) == (plan.fingerprints, plan.shared)
    for one, other in zip(plan.spaces, again.spaces, strict=True):
        assert (one.name, one.writers, one.widths, one.frozen) == (
            other.name,
            other.writers,
            other.widths,
            other.frozen,
        )
        assert (one.groups, one.dropped) == (other.groups, other.dropped)
        assert list(one.paths) == list(other.paths)
        for task, path in one.paths.items():
            np.testing.assert_array_equal(path.order, other.paths[task].order)
            np.testing.assert_array_equal(path.values, other.paths[task].values)
            assert (path.full, path.null) == (other.paths[task].full, other.paths[task].null)


def test_floats_are_exact():
    plan = hand_made()
    data = json.loads(plan.to_json())
    data["spaces"] = data["spaces"][:1]
    again = MergePlan.from_json(json.dumps(data))
    assert again.options["rho"] == 0.1 + 0.2
    path = again.spaces[0].paths["b"]
    np.testing.assert_array_equal(path.values, plan.spaces[0].paths["b"].values)
    assert path.null == 1e-17


def test_options_that_are_numpy_numbers(three):
    models, x = three
    plan = merge(
        models, x, rho=np.float32(0.25), samples=np.int64(50), compensation=False
    ).merge_plan
    options = MergePlan.from_json(plan.to_json()).options
    assert (options["rho"], options["samples"]) == (0.25, 50)


def test_groups_stand_in_the_one_order(merged):
    tasks = merged.merge_plan.tasks
    order = [
        ("zebra", "ant", "bee"),
        ("zebra", "ant"),
        ("zebra", "bee"),
        ("ant", "bee"),
        ("zebra",),
        ("ant",),
        ("bee",),
    ]
    assert tasks == ("zebra", "ant", "bee")
    for space in merged.merge_plan.spaces:
        found = [tasks for tasks, _ in space.groups]
        assert found == [tasks for tasks in order if tasks in found]
    assert max(len(space.groups) for space in merged.merge_plan.spaces) > 3


def test_every_channel_has_one_place(merged):
    for space in merged.merge_plan.spaces:
        parts = [found for _, found in space.groups] + [space.dropped]
        for task, width in zip(merged.merge_plan.tasks, space.widths, strict=True):
            channels = [channel for part in parts for channel in part.get(task, ())]
            assert sorted(channels) == list(range(width))


def test_the_path_shows_what_another_threshold_would_give(three, merged):
    """One greedy run holds the whole trade-off."""
    options = {"rho": 0.4, "min_group": 1, "width": "union", "compensation": False}
    other = merge(*three, **options).merge_plan
    for one, two in zip(merged.merge_plan.spaces, other.spaces, strict=True):
        for task, path in one.paths.items():
            assert path.to_dict() == two.paths[task].to_dict()
    # The first space reads the input, which every group may: no guard takes anything back.
    first = other.spaces[0]
    starts = dict(zip(other.tasks, np.cumsum([0, *first.widths]), strict=False))
    for task, path in merged.merge_plan.spaces[0].paths.items():
        held = {
            int(starts[name]) + channel
            for tasks, found in first.groups
            if task in tasks
            for name, channels in found.items()
            for channel in channels
        }
        assert held == set(np.flatnonzero(~path.irrelevant(path.alpha(0.4))).tolist())


@pytest.mark.parametrize("compensation", [True, False])
def test_replay_gives_the_same_model(three, merged, compensation, tmp_path):
    models, x = three
    first = merge(models, x, rho=0.1, min_group=1, compensation=compensation)
    assert first.merge_plan.to_json() == merged.merge_plan.to_json()
    first.merge_plan.save(tmp_path / "plan.json")
    plan = MergePlan.load(tmp_path / "plan.json")
    again = merge(models, x, plan=plan, method="separate", rho=0.9, compensation=compensation)
    assert_same_weights(again, first)
    assert again.merge_plan.to_json() == plan.to_json()


def test_replay_needs_no_labels_and_takes_other_data(three, merged):
    models, _ = three
    x = vectors(20, seed=5)
    again = merge(models, x, plan=merged.merge_plan, compensation=False)
    assert [w.shape for w in again.weights] == [w.shape for w in merged.weights]


def test_replay_on_models_that_were_saved_and_loaded(three, merged, tmp_path):
    models, x = three
    loaded = {}
    for task, model in models.items():
        model.save(tmp_path / f"{task}.keras")
        loaded[task] = keras.models.load_model(tmp_path / f"{task}.keras")
    again = merge(loaded, x, plan=merged.merge_plan)
    for task, value in all_outputs(again, x).items():
        np.testing.assert_allclose(value, all_outputs(merged, x)[task], atol=1e-5)


def test_replay_of_a_plan_that_was_edited(three, merged):
    """A user may move channels: here everything is kept apart by hand."""
    models, x = three
    data = json.loads(merged.merge_plan.to_json())
    for space in data["spaces"]:
        space["groups"] = [
            {"tasks": [task], "channels": {task: list(range(width))}}
            for task, width in zip(data["tasks"], space["widths"], strict=True)
        ]
        space["dropped"] = {}
    again = merge(models, x, plan=MergePlan.from_json(json.dumps(data)))
    for task, value in all_outputs(again, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)


def test_replay_with_frozen_spaces():
    def block(width, position):
        found = plain_conv(width, position)
        return [*found, layers.LayerNormalization(name="norm")] if position == 0 else found

    models = {
        "zebra": conv_net(0, (5, 8, 6), block=block),
        "ant": conv_net(1, (6, 7, 6), block=block),
    }
    x = images(64)
    merged = merge(models, x, rho=0.1, min_group=2)
    assert list(merged.merge_plan.frozen) == ["conv0", "norm"]
    again = merge(models, x, plan=MergePlan.from_json(merged.merge_plan.to_json()))
    assert_same_weights(again, merged)


def test_a_plan_file_holds_the_json(merged, tmp_path):
    path = tmp_path / "plan.json"
    merged.merge_plan.save(path)
    assert path.read_text(encoding="utf-8") == merged.merge_plan.to_json()
    assert MergePlan.load(str(path)).to_json() == merged.merge_plan.to_json()
    with pytest.raises(FileNotFoundError):
        MergePlan.load(tmp_path / "none.json")


def test_fingerprints_tell_models_apart():
    first = fingerprint(read(dense_net(0)))
    assert fingerprint(read(dense_net(0))) == first
    # Keras numbers unnamed layers anew in every model: names do not count.
    assert fingerprint(read(dense_net(0, name="x"))) == first
    others = [dense_net(1), dense_net(0, (6, 6)), dense_net(0, (6, 5), 4)]
    moved = dense_net(0)
    moved.layers[-1].bias.assign_add([1e-6, 0.0, 0.0])
    found = [fingerprint(read(model)) for model in [*others, moved]]
    assert len({first, *found}) == 5
