"""`merge` with every form of data and every option."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmot_pam
from tests.merges import TASKS, groups, labelled_pair, members, merge, perceptrons
from tests.small_nets import (
    all_outputs,
    assert_same_weights,
    classes,
    dense_net,
    outputs_of,
    vectors,
)

# --- data ---------------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __init__(self, x, labels):
        super().__init__()
        self.x, self.labels = x, labels

    def __len__(self):
        return 4

    def __getitem__(self, index):
        part = slice(index * 16, index * 16 + 16)
        return self.x[part], {task: y[part] for task, y in self.labels.items()}


def labelled():
    x = vectors(64)
    return x, {"zebra": classes(x, 3), "ant": classes(x, 2, seed=1)}


FORMS = {
    "tf.data": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
    "PyDataset": Batches,
    "by task": lambda x, y: {task: (x, y[task]) for task in y},
    "one-hot": lambda x, y: (x, {task: keras.utils.to_categorical(y[task]) for task in y}),
    "tf.data by task": lambda x, y: {
        task: tf.data.Dataset.from_tensor_slices((x, y[task])).batch(10) for task in y
    },
}


@pytest.fixture(scope="module")
def pair():
    return labelled_pair()


@pytest.fixture(scope="module")
def from_arrays():
    return merge(perceptrons(), labelled(), rho=0.1, min_group=1)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_data_gives_the_same_merge(form, from_arrays):
    merged = merge(perceptrons(), FORMS[form](*labelled()), rho=0.1, min_group=1)
    assert members(merged.merge_plan) == members(from_arrays.merge_plan)
    if form != "tf.data by task":  # There the inputs count twice: once a task.
        assert_same_weights(merged, from_arrays)


def test_labels_change_what_is_relevant(from_arrays):
    x, labels = labelled()
    unlabelled = merge(perceptrons(), x, rho=0.1, min_group=1)
    assert members(unlabelled.merge_plan) != members(from_arrays.merge_plan)
    by_task = merge(perceptrons(), {"zebra": x, "ant": x}, rho=0.1, min_group=1)
    assert_same_weights(unlabelled, by_task)
    half = merge(perceptrons(), (x, {**labels, "ant": None}), rho=0.1, min_group=1)
    paths = [[s.paths["ant"].to_dict() for s in m.merge_plan.spaces] for m in (half, unlabelled)]
    assert paths[0] == paths[1]


def test_a_data_set_of_its_own_for_each_task():
    x, labels = labelled()
    models = perceptrons()
    for data in (
        {"zebra": x[:24], "ant": x[24:]},
        {"zebra": (x[:40], labels["zebra"][:40]), "ant": (x[20:], labels["ant"][20:])},
        {"zebra": (x[:40], labels["zebra"][:40]), "ant": x},
    ):
        merged = merge(models, data, rho=0.1, min_group=1)
        assert list(merged.output) == list(TASKS)
        assert all(np.isfinite(value).all() for value in all_outputs(merged, x).values())
    separate = merge(models, data, method="separate")
    for task, value in all_outputs(separate, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)


def test_a_task_s_relevance_is_measured_on_its_own_data():
    x, labels = labelled()
    data = {"zebra": (x[:40], labels["zebra"][:40]), "ant": (x[30:], labels["ant"][30:])}
    other = {**data, "ant": (x[20:60], labels["ant"][20:60])}
    plans = [merge(perceptrons(), d, compensation=False).merge_plan for d in (data, other)]
    for one, two in zip(*(plan.spaces for plan in plans), strict=True):
        assert one.paths["zebra"].to_dict() == two.paths["zebra"].to_dict()
        assert one.paths["ant"].to_dict() != two.paths["ant"].to_dict()


def test_no_data_warns_and_draws_random_inputs():
    models = perceptrons()
    with pytest.warns(UserWarning, match="no data.*Pass inputs of the training split"):
        merged = tfmot_pam.merge(models, method="separate", samples=32, verbose=0)
    x = vectors(16)
    for task, value in all_outputs(merged, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)
    with pytest.warns(UserWarning, match="no data"):
        merged = tfmot_pam.merge(models, rho=0.1, samples=64, verbose=0)
    assert merged.merge_plan.method == "pam"


# --- options ------------------------------------------------------------------------------------


def test_higher_rho_never_shares_more():
    models, x = perceptrons(), vectors(128)
    shares = [
        merge(models, x, rho=rho, min_group=1, compensation=False).merge_plan.shared
        for rho in (0.0, 0.1, 0.3, 0.9)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


@pytest.mark.parametrize(
    "wanted",
    [
        0.1,
        0.5,
        1.0,
    ],
)
def test_the_wanted_share(wanted):
    """Widths are whole numbers, and two tasks may lose channels at one value of rho."""
    models = {"zebra": dense_net(0, (24, 20)), "ant": dense_net(1, (20, 24), 4)}
    options = {"share": wanted, "min_group": 1, "compensation": False}
    merged = merge(models, vectors(400), width="union", **options)
    assert merged.merge_plan.shared == pytest.approx(wanted, abs=0.06)


def test_alpha_in_nats_for_all_tasks_or_one_a_task():
    models, x = perceptrons(), vectors(200)
    options = {"min_group": 1, "compensation": False}
    lowest = min(
        path.full
        for space in merge(models, x, **options).merge_plan.spaces
        for path in space.paths.values()
    )
    alpha = lowest / 2
    common = merge(models, x, alpha=alpha, **options).merge_plan
    by_task = merge(models, x, alpha=dict.fromkeys(TASKS, alpha), **options).merge_plan
    assert members(common) == members(by_task)
    for space in common.spaces:
        for index, task in enumerate(TASKS):
            owned = {
                (name, channel)
                for tasks, found in space.groups
                if task in tasks
                for name, channels in found.items()
                for channel in channels
            }
            needed = ~space.paths[task].irrelevant(alpha)
            starts = np.cumsum([0, *space.widths])
            expected = {
                (TASKS[k], int(channel))
                for k in range(2)
                for channel in np.flatnonzero(needed[starts[k] : starts[k + 1]])
            }
            assert owned == expected, (space.name, index)


def test_small_groups_are_folded():
    models, x = perceptrons(3), vectors(200)
    options = {"rho": 0.1, "width": "union", "compensation": False}
    fine, coarse = (merge(models, x, min_group=n, **options).merge_plan for n in (1, 3))
    assert min(n for sizes in groups(fine).values() for n in sizes.values()) < 3
    everyone = tuple(models)
    for sizes in groups(coarse).values():
        for tasks, size in sizes.items():
            # What is left small has no superset to go to.
            assert size >= 3 or not any(set(tasks) < set(o) for o in sizes), (tasks, everyone)


@pytest.mark.parametrize(
    "estimator",
    [
        "kde",
        {"name": "kde", "standardize": True, "bandwidth": "scaled", "leave_one_out": True},
        {"name": "gaussian", "ridge": 0.3},
    ],
)
def test_estimators_and_their_options(estimator, from_arrays):
    merged = merge(perceptrons(), labelled(), estimator=estimator, rho=0.1)
    again = tfmot_pam.MergePlan.from_json(merged.merge_plan.to_json())
    assert again.options["estimator"] == estimator
    default = from_arrays.merge_plan
    for space, other in zip(merged.merge_plan.spaces, default.spaces, strict=True):
        for task in TASKS:
            assert space.paths[task].full != other.paths[task].full


def test_kde_without_labels_uses_the_models_decisions():
    models, x = perceptrons(), vectors(96)
    decisions = {task: outputs_of(model, x).argmax(axis=1) for task, model in models.items()}
    options = {"estimator": "kde", "compensation": False}
    assert_same_weights(merge(models, x, **options), merge(models, (x, decisions), **options))


def test_reductions_see_different_things(pair):
    models, data = pair
    paths = {}
    for reduction in ("max", "mean", "max+mean"):
        plan = merge(models, data, reduction=reduction, compensation=False).merge_plan
        paths[reduction] = plan.spaces[0].paths["zebra"]
        assert plan.options["reduction"] == reduction
    assert paths["max"].full != paths["mean"].full
    # Two numbers a channel say at least as much as one of them.
    assert paths["max+mean"].full > max(paths["max"].full, paths["mean"].full) - 0.05


def test_samples_bound_what_is_looked_at():
    models, (x, labels) = perceptrons(), labelled()
    plan = merge(models, (x, labels), samples=20, compensation=False).merge_plan
    assert plan.options["samples"] == 20
    whole = merge(models, (x, labels), samples=1000, compensation=False).merge_plan
    assert plan.spaces[0].paths["zebra"].full != whole.spaces[0].paths["zebra"].full


def test_progress_is_shown_and_can_be_silenced(capsys):
    models, x = perceptrons(), vectors(32)
    tfmot_pam.merge(models, x, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["merge: activations: seen", "merge: relevance: known", "merge: fitting: done"]
    tfmot_pam.merge(models, x, verbose=0)
    assert capsys.readouterr().out == ""
