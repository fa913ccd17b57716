"""`merge` as a user calls it: methods, data, options, kinds of models, and what comes back."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmot_pam
from tests.small_nets import (
    all_outputs,
    assert_same_weights,
    classes,
    conv_net,
    dense_net,
    images,
    outputs_of,
    plain_conv,
    vectors,
)
from tests.tiers import regular
from tfmot_pam.task_group import TaskGroup

layers = keras.layers
# Not in alphabetical order, as a user's tasks may be.
TASKS = ("zebra", "ant")


def merge(models, data, **options):
    return tfmot_pam.merge(models, data, verbose=0, **options)


def groups(plan):
    """The number of channels of each task set, by space."""
    return {
        space.name: {tasks: sum(map(len, found.values())) for tasks, found in space.groups}
        for space in plan.spaces
    }


def members(plan):
    """Which channels each group holds, by space."""
    return {space.name: (dict(space.groups), space.dropped) for space in plan.spaces}


def perceptrons(count=2):
    widths, outputs = ((6, 5), (8, 7), (5, 6)), (3, 2, 4)
    names = (*TASKS, "bee")
    return {names[i]: dense_net(i, widths[i], outputs[i]) for i in range(count)}


@pytest.fixture(scope="module")
def pair():
    """Two convolutional models of different widths and heads, and labelled images."""

    def sigmoids():
        return [layers.Flatten(), layers.Dense(2, activation="sigmoid", name="labels")]

    models = {"zebra": conv_net(0), "ant": conv_net(1, (6, 12), sigmoids)}
    x = images(96)
    attributes = np.stack([classes(x, 2, seed) for seed in (1, 2)], axis=1)
    return models, (x, {"zebra": classes(x, 3), "ant": attributes})


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


# --- models -------------------------------------------------------------------------------------


def test_a_list_of_models_takes_the_names_of_their_heads():
    models = [dense_net(0, name="zebra"), dense_net(1, outputs=2, name="ant")]
    merged = merge(models, vectors(64), compensation=False)
    assert list(merged.output) == list(TASKS)
    named = merge(dict(zip(TASKS, models, strict=True)), vectors(64), compensation=False)
    assert_same_weights(merged, named)


def test_sequential_models():
    models = {
        task: keras.Sequential(
            [keras.Input((6,)), layers.Dense(4 + seed, activation="tanh"), layers.Dense(2)]
        )
        for seed, task in enumerate(TASKS)
    }
    x = vectors(64)
    merged = merge(models, x, method="separate")
    for task, value in all_outputs(merged, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)


def test_one_model_for_two_tasks():
    model, x = dense_net(0), vectors(64)
    merged = merge({"a": model, "b": model}, x, method="shared", width="union")
    for value in all_outputs(merged, x).values():
        np.testing.assert_allclose(value, outputs_of(model, x), atol=1e-5)


def test_heads_of_different_kinds():
    def head(*found):
        return lambda: found

    models = {
        "digit": conv_net(0),
        "attributes": conv_net(
            1,
            (6, 8),
            head(layers.GlobalMaxPooling2D(), layers.Dense(4, activation="sigmoid")),
        ),
        "age": conv_net(2, (8, 6), head(layers.Flatten(), layers.Dense(5), layers.Dense(1))),
        "pixels": conv_net(3, (7, 9), head(layers.Conv2D(3, 1, activation="softmax"))),
    }
    x = images(64)
    labels = {
        "digit": keras.utils.to_categorical(classes(x, 3), 3),
        "attributes": np.stack([classes(x, 2, seed) for seed in range(4)], axis=1) * 2 - 1,
        "age": x.mean(axis=(1, 2)) * 10,
        "pixels": np.digitize(x[..., 0], [-0.5, 0.5]),
    }
    separate = merge(models, (x, labels), method="separate")
    merged = merge(models, (x, labels), rho=0.1)
    assert list(merged.output) == list(models)
    for task, model in models.items():
        expected = outputs_of(model, x)
        np.testing.assert_allclose(all_outputs(separate, x)[task], expected, atol=1e-5)
        found = all_outputs(merged, x)[task]
        assert found.shape == expected.shape
        # Not a constant: the head reads what its trunk tells apart.
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.5
    sets = {tasks for sizes in groups(merged.merge_plan).values() for tasks in sizes}
    assert any(1 < len(tasks) < 4 for tasks in sets)


@pytest.mark.parametrize(
    "labels",
    [
        False,
        True,
    ],
)
def test_the_result_of_a_selection_is_merged_again(pair, labels):
    models, (x, _) = pair
    merged = merge(models, x, method="separate")
    third = conv_net(5, (5, 7))
    again = {"zebra": tfmot_pam.select_tasks(merged, "zebra"), "bee": third}
    data = (x, {"zebra": classes(x, 3), "bee": classes(x, 3, 1)}) if labels else x
    assert list(merge(again, data, rho=0.1).output) == ["zebra", "bee"]
    apart = merge(again, x, method="separate")
    found = all_outputs(apart, x)
    np.testing.assert_allclose(found["zebra"], outputs_of(models["zebra"], x), atol=1e-5)
    np.testing.assert_allclose(found["bee"], outputs_of(third, x), atol=1e-5)


def test_the_selections_of_a_grouped_model_are_merged_again(merged, pair):
    """Their trunks hold groups and concatenations, which correspond where they are alike."""
    _, (x, _) = pair
    parts = {task: tfmot_pam.select_tasks(merged, task) for task in TASKS}
    again = merge(parts, x, method="separate")
    for task, value in all_outputs(again, x).items():
        np.testing.assert_allclose(value, all_outputs(merged, x)[task], atol=1e-5)


def test_bytes_as_inputs():
    def net(seed, width):
        scaled = [layers.Rescaling(1 / 255, name="scale")]
        return conv_net(seed, (width, 8), front=scaled, dtype="uint8")

    models = {"zebra": net(0, 8), "ant": net(1, 6)}
    x = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    x //= np.arange(1, 65, dtype=np.uint8)[:, None, None, None]
    assert merge(models, x).inputs[0].dtype == "uint8"
    found = all_outputs(merge(models, x, method="separate"), x)
    for task, model in models.items():
        np.testing.assert_allclose(found[task], outputs_of(model, x), atol=1e-5)


@pytest.mark.parametrize(
    "dtype",
    [
        "uint8",
        "float64",
    ],
)
def test_data_of_another_type_than_the_inputs(dtype):
    """The models take floats; whatever numbers they are trained on may be given."""
    models = {"zebra": conv_net(0, (5, 6)), "ant": conv_net(1, (6, 5))}
    x = np.random.default_rng(0).integers(0, 4, (48, 8, 8, 1)).astype(dtype)
    merged = merge(models, x, rho=0.1, min_group=1)
    exact = merge(models, x.astype("float32"), rho=0.1, min_group=1)
    for task, value in all_outputs(merged, x.astype("float32")).items():
        np.testing.assert_allclose(value, all_outputs(exact, x.astype("float32"))[task], atol=1e-3)


def test_every_model_keeps_its_own_preprocessing():
    models = {
        "zebra": conv_net(0, front=[layers.Rescaling(1 / 255)]),
        "ant": conv_net(1, front=[layers.Rescaling(1 / 127.5, offset=-1.0)]),
    }
    x = 127.5 + 40 * images(64)
    for method, least in (("separate", 0.99999), ("pam", 0.9)):
        found = all_outputs(merge(models, x, method=method, width="union"), x)
        for task, model in models.items():
            expected = outputs_of(model, x)
            assert np.corrcoef(found[task].ravel(), expected.ravel())[0, 1] > least
    scales = [
        layer.layer.scale if isinstance(layer, TaskGroup) else layer.scale
        for layer in merge(models, x, method="shared", width="union").layers
        if "rescaling" in layer.name
    ]
    assert sorted(scales) == pytest.approx([1 / 255, 1 / 127.5])


@pytest.mark.parametrize("method", ["separate", "shared"])
def test_separable_convolutions_of_the_input(method):
    """Each network has its own depthwise kernel for the channels that all networks read."""

    def block(width, position):
        return [layers.SeparableConv2D(width, 3, activation="relu", name=f"conv{position}")]

    models = {task: conv_net(seed, (4, 5), block=block) for seed, task in enumerate(TASKS)}
    x = images(32)
    merged = merge(models, x, method=method, width="union", compensation=False)
    for task, value in all_outputs(merged, x).items():
        np.testing.assert_allclose(value, outputs_of(models[task], x), atol=1e-5)


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
