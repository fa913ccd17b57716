"""`merge` as a user calls it: what comes back, methods, and what cannot be regrouped."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.merges import TASKS, groups, labelled_pair, members, merge, perceptrons
from tests.small_nets import (
    all_outputs,
    assert_same_weights,
    conv_net,
    images,
    outputs_of,
    plain_conv,
    vectors,
)
from tests.tiers import regular
from tfmot_pam.task_group import TaskGroup

layers = keras.layers


@pytest.fixture(scope="module")
def pair():
    return labelled_pair()


@pytest.fixture(scope="module")
def merged(pair):
    return merge(*pair, rho=0.2, min_group=2)


# --- what comes back ----------------------------------------------------------------------------


def test_the_result_is_a_functional_model_with_outputs_by_task(pair, merged):
    models, (x, _) = pair
    assert isinstance(merged, keras.Model)
    assert merged.name == "merged"
    assert list(merged.output) == list(TASKS)
    assert len(merged.inputs) == 1
    assert merged.inputs[0].shape == (None, 8, 8, 1)
    found = all_outputs(merged, x[:5])
    assert {task: value.shape for task, value in found.items()} == {"zebra": (5, 3), "ant": (5, 2)}
    np.testing.assert_allclose(found["zebra"].sum(axis=1), 1.0, rtol=1e-5)
    assert tfmot_pam.combinations(merged) == [("zebra",), ("ant",), TASKS]


def test_layers_are_wrapped_in_task_groups_and_named_after_their_tasks(merged):
    wrapped = [layer for layer in merged.layers if isinstance(layer, TaskGroup)]
    assert all(isinstance(layer, TaskGroup) for layer in merged.layers if layer.weights)
    assert all(set(layer.tasks) <= set(TASKS) for layer in wrapped)
    for layer in wrapped:
        if layer.name.startswith("conv"):
            assert layer.name.endswith("_shared" if layer.tasks == TASKS else layer.tasks[0])
    assert merged.get_layer("head").tasks == ("zebra",)
    assert merged.get_layer("labels").tasks == ("ant",)


def test_the_plan_names_every_channel_once_and_the_layers_have_its_widths(merged):
    plan = merged.merge_plan
    assert isinstance(plan, tfmot_pam.MergePlan)
    assert (plan.tasks, plan.method, plan.frozen) == (TASKS, "pam", {})
    assert [(space.name, space.widths) for space in plan.spaces] == [
        ("conv0", (8, 6)),
        ("conv1", (10, 12)),
    ]
    for space, sizes in groups(plan).items():
        for tasks, size in sizes.items():
            name = f"{space}_shared" if tasks == TASKS else f"{space}_{tasks[0]}"
            assert merged.get_layer(name).layer.filters == size
    assert plan.options["rho"] == 0.2
    assert 0 < plan.shared < 1


def test_a_group_reads_only_groups_of_a_superset_of_its_tasks(pair, merged):
    """A combination's sub-network computes the same, though all foreign groups are gone."""
    _, (x, _) = pair
    full = all_outputs(merged, x)
    for tasks in tfmot_pam.combinations(merged):
        part = tfmot_pam.select_tasks(merged, tasks)
        wrapped = [layer for layer in part.layers if isinstance(layer, TaskGroup)]
        assert all(set(layer.tasks) & set(tasks) for layer in wrapped)
        for task, value in all_outputs(part, x).items():
            np.testing.assert_allclose(value, full[task], atol=1e-6)


def test_inputs_are_left_unchanged(pair):
    models, (x, labels) = pair
    weights = {task: model.get_weights() for task, model in models.items()}
    configs = {task: model.to_json() for task, model in models.items()}
    arrays = [x.copy(), *(y.copy() for y in labels.values())]
    merged = merge(models, (x, labels))
    for weight in merged.weights:
        weight.assign(weight + 1)
    for task, model in models.items():
        assert model.to_json() == configs[task]
        for old, new in zip(weights[task], model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    for old, new in zip(arrays, [x, *labels.values()], strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_same_seed_gives_the_same_weights():
    models, x = perceptrons(), vectors(200)
    one, same = (merge(models, x, samples=100, method="random", seed=3) for _ in range(2))
    other = merge(models, x, samples=100, method="random", seed=4)
    assert one.merge_plan.to_json() == same.merge_plan.to_json()
    assert_same_weights(one, same)
    assert members(one.merge_plan) != members(other.merge_plan)


def test_the_merged_model_can_be_trained_and_run_as_any_keras_model(merged, pair):
    _, (x, labels) = pair
    model = keras.models.clone_model(merged)
    model.compile("sgd", {"zebra": "sparse_categorical_crossentropy", "ant": "binary_crossentropy"})
    history = model.fit(x, labels, batch_size=32, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert list(model.predict(x[:3], verbose=0)) == list(TASKS)


LOAD = """
import sys
import keras, numpy as np
import tfmot_pam
folder = sys.argv[1]
model = keras.models.load_model(folder + "/merged.keras")
found = model(np.load(folder + "/x.npy"), training=False)
np.savez(folder + "/found.npz", **{task: np.array(value) for task, value in found.items()})
print(",".join(found), tfmot_pam.combinations(model)[-1])
"""


@pytest.mark.slow
def test_a_saved_model_computes_the_same_in_a_fresh_process(merged, pair, tmp_path):
    _, (x, _) = pair
    merged.save(tmp_path / "merged.keras")
    np.save(tmp_path / "x.npy", x[:8])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "zebra,ant ('zebra', 'ant')"
    found = np.load(tmp_path / "found.npz")
    for task, value in all_outputs(merged, x[:8]).items():
        np.testing.assert_allclose(found[task], value, atol=1e-6)


def test_the_selections_of_a_grouped_model_are_merged_again(merged, pair):
    """Their trunks hold groups and concatenations, which correspond where they are alike."""
    _, (x, _) = pair
    parts = {task: tfmot_pam.select_tasks(merged, task) for task in TASKS}
    again = merge(parts, x, method="separate")
    for task, value in all_outputs(again, x).items():
        np.testing.assert_allclose(value, all_outputs(merged, x)[task], atol=1e-5)


# --- methods ------------------------------------------------------------------------------------


def test_separate_reproduces_the_models(pair):
    models, (x, _) = pair
    merged = merge(models, x, method="separate")
    for task, value in all_outputs(merged, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)
    assert merged.merge_plan.shared == 0
    assert all(space.paths == {} for space in merged.merge_plan.spaces)


def test_shared_puts_every_channel_into_one_group_and_reproduces_the_models(pair):
    """Trained weights within the networks, zeros across: nothing is cut."""
    models, (x, _) = pair
    merged = merge(models, x, method="shared", width="union", compensation=False)
    assert groups(merged.merge_plan) == {"conv0": {TASKS: 14}, "conv1": {TASKS: 22}}
    assert merged.merge_plan.shared == 1
    for task, value in all_outputs(merged, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)


def test_random_has_the_sizes_of_pam():
    models, x = perceptrons(3), vectors(128)
    options = {"rho": 0.1, "min_group": 1, "width": "union", "compensation": False}
    pam, drawn = (merge(models, x, method=m, **options).merge_plan for m in ("pam", "random"))
    assert groups(drawn) == groups(pam)
    assert members(drawn) != members(pam)


def test_paper_mode_has_no_sets_between_one_and_all():
    models, x = perceptrons(3), vectors(128)
    options = {"rho": 0.1, "min_group": 1, "width": "union", "compensation": False}
    pam, paper = (merge(models, x, method=m, **options).merge_plan for m in ("pam", "pam-paper"))
    everyone = tuple(models)
    collapsed = {}
    for space, sizes in groups(pam).items():
        found = {}
        for tasks, size in sizes.items():
            tasks = everyone if len(tasks) > 1 else tasks
            found[tasks] = found.get(tasks, 0) + size
        collapsed[space] = found
    assert any(1 < len(tasks) < 3 for sizes in groups(pam).values() for tasks in sizes)
    assert groups(paper) == collapsed


def test_channels_that_say_nothing_about_a_task_are_not_given_to_it():
    """One half of the input tells the one task's labels, the other half the other's."""

    def net(columns):
        model = keras.Sequential(
            [keras.Input((6,)), layers.Dense(3, name="fc"), layers.Dense(1, name="out")]
        )
        kernel = np.zeros((6, 3))
        kernel[columns, [0, 1, 2]] = 1.0
        model.set_weights([kernel, np.zeros(3), np.ones((3, 1)), np.zeros(1)])
        return model

    models = {"zebra": net([0, 1, 2]), "ant": net([3, 4, 5])}
    x = vectors(512)
    labels = {"zebra": x[:, :3].sum(axis=1), "ant": x[:, 3:].sum(axis=1)}
    merged = merge(models, (x, labels), rho=0.05, min_group=1)
    assert members(merged.merge_plan) == {
        "fc": ({("zebra",): {"zebra": (0, 1, 2)}, ("ant",): {"ant": (0, 1, 2)}}, {})
    }
    for task, value in all_outputs(merged, x).items():
        np.testing.assert_allclose(value[:, 0], labels[task], atol=1e-4)


# --- what cannot be regrouped -------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="merge_test")
class Mirror(layers.Layer):
    """Without a rule: nobody knows that it reverses the channels."""

    def call(self, x):
        return x[..., ::-1]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Mirror, "Mirror 'odd': there is no rule for this kind of layer"),
        *regular(
            [
                (layers.Softmax, "Softmax 'odd': it normalises over the channels"),
                (layers.LayerNormalization, "LayerNormalization 'odd': its statistics are of all"),
            ],
            several=True,
        ),
    ],
)
def test_a_layer_that_is_not_understood_freezes_its_space_and_no_more(make, reason):
    def block(width, position):
        found = plain_conv(width, position)
        return [*found, make(name="odd")] if position == 1 else found

    models = {
        "zebra": conv_net(0, (8, 10, 8), block=block),
        "ant": conv_net(1, (8, 9, 8), block=block),
    }
    x = images(64)
    separate = merge(models, x, method="separate")
    for task, value in all_outputs(separate, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)
    merged = merge(models, x, method="shared", width="union")
    frozen = merged.merge_plan.frozen
    assert "conv1" in frozen
    assert reason in frozen["conv1"]
    found = groups(merged.merge_plan)
    assert found["conv0"] == {TASKS: 16}
    assert found["conv1"] == {("zebra",): 10, ("ant",): 9}
    # Nothing that both tasks need could be read from a frozen space.
    assert found["conv2"] == {("zebra",): 8, ("ant",): 8}
    for task, value in all_outputs(merged, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)
    pam = merge(models, x, rho=0.1)
    assert pam.merge_plan.frozen == frozen
    assert pam.merge_plan.shared > 0
