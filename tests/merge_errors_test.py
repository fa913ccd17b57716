"""Bad input to `merge`: what came, what was expected, what to do."""

from __future__ import annotations

import json
import re

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import classes, dense_net, vectors

layers = keras.layers

NAN = float("nan")


def models(**changes):
    found = {"a": dense_net(0), "b": dense_net(1, (8, 7), 2), **changes}
    return {task: model for task, model in found.items() if model is not None}


def labelled(count=48):
    x = vectors(count)
    return x, {"a": classes(x, 3), "b": classes(x, 2, seed=1)}


def explain(error, *parts, call=tfmot_pam.merge, **options):
    """Runs a bad call; its message holds all parts, in this order."""
    pattern = "(?s)" + ".*".join(parts)
    with pytest.raises(error, match=pattern):
        call(**options)


def refuse(error, *parts, by_task=None, data=None, **options):
    by_task = models() if by_task is None else by_task
    data = labelled() if data is None else data
    explain(error, *parts, models=by_task, data=data, verbose=0, **options)


# --- models -------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def built(shape):
    model = Subclassed()
    model(np.zeros(shape, "float32"))
    return model


def two_inputs():
    x, y = keras.Input((6,)), keras.Input((6,))
    return keras.Model([x, y], layers.Dense(2)(layers.Add()([x, y])))


def broken():
    model = dense_net(0)
    kernel = model.layers[1].kernel
    kernel.assign(np.full(kernel.shape, NAN))
    return model


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("form", [list, dict])
def test_fewer_than_two_models(count, form):
    given = form(list({"a": dense_net(0)}.items())[:count])
    given = [model for _, model in given] if form is list else given
    refuse(ValueError, "at least two models", f"Received: {count}", "prune", by_task=given)


@pytest.mark.parametrize("given", [7, "models", None])
def test_models_in_no_collection(given):
    explain(
        TypeError,
        "must be a dict of models by task name, or a list",
        f"Received: {given!r} of type {type(given).__name__}",
        "Pass",
        models=given,
        data=labelled(),
    )


def test_a_single_model_without_a_collection():
    refuse(TypeError, "must be a dict of models", "Received", "Pass", by_task=dense_net(0))


@pytest.mark.parametrize("name", [1, "", None])
def test_a_task_name_that_is_no_name(name):
    given = {"a": dense_net(0), name: dense_net(1)}
    refuse(TypeError, "non-empty strings", f"Received: {name!r}", "Rename", by_task=given)


@pytest.mark.parametrize(
    ("make", "error", "parts"),
    [
        (
            lambda: built((1, 6)),
            TypeError,
            (
                "The model of 'b' must be a functional or sequential model",
                "Received: the subclassed model",
                "Subclassed",
                "Rebuild it with the functional API",
            ),
        ),
        (
            lambda: keras.Sequential([layers.Dense(3)], name="raw"),
            ValueError,
            ("The model of 'b' must be built", "unbuilt sequential model 'raw'", "keras.Input"),
        ),
        (
            lambda: "model.keras",
            TypeError,
            ("must be a keras.Model of Keras 3", "Received: 'model.keras'", "load_model"),
        ),
        (
            two_inputs,
            ValueError,
            ("inputs of different shapes", "names that Keras gave", "keras.Input.shape, name="),
        ),
        (
            broken,
            ValueError,
            ("model of 'b' returns NaN", "Expected finite outputs", "Check its weights"),
        ),
    ],
    ids=["subclassed", "unbuilt", "path", "two inputs", "NaN weights"],
)
def test_a_model_of_the_wrong_kind(make, error, parts):
    refuse(error, *parts, by_task=models(b=make()))


def test_a_tf_keras_model_among_others():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(6,))])
    refuse(
        ValueError,
        "`models` mixes the two generations of Keras",
        "Received:",
        "The model of 'b'",
        "Expected all of one",
        "tfmot_pam.from_tf_keras",
        by_task=models(b=model),
    )


def test_different_input_shapes():
    refuse(
        ValueError,
        "inputs of different shapes",
        "'a': .'vector': .6,.*'b': .'vector': .4,.*'vector'. differ",
        "Expected inputs of one shape",
        "Train",
        by_task=models(b=dense_net(1, inputs=4)),
    )


def test_no_common_trunk():
    x = keras.Input((6,))
    tanh = layers.Dense(5, activation="tanh", name="first")(x)
    other = keras.Model(x, layers.Dense(2)(tanh))
    refuse(
        ValueError,
        "no common trunk",
        "'a': Dense 'fc0'; 'b': Dense 'first'",
        "Layers are alike if",
        "Train the models with the same first layers",
        by_task=models(b=other),
    )


def test_no_trunk_because_the_first_layer_writes_the_output():
    refuse(
        ValueError,
        "no common trunk",
        "'b': Dense 'head' .which already writes the output.",
        by_task=models(b=dense_net(1, ())),
    )


def test_two_heads_with_one_name():
    refuse(
        ValueError,
        "Two models have a head named 'head'",
        "Expected one name a task",
        "Pass a dict of models by task name, or name the output layers",
        by_task=[dense_net(0), dense_net(1)],
    )


# --- data ---------------------------------------------------------------------------------------


def with_nan(array):
    array = array.astype("float32")
    array[3] = NAN
    return array


DATA = {
    "labels of an unknown task": (
        lambda x, y: (x, {**y, "c": y["a"]}),
        ("unknown tasks ..c..", "the tasks are ..a., .b..", "rename or leave out"),
    ),
    "labels missing for a task": (
        lambda x, y: (x, {"a": y["a"]}),
        ("nothing for the tasks ..b..", "it has ..a..", "Add"),
    ),
    "data of an unknown task": (
        lambda x, y: {"a": x, "b": x, "c": x},
        ("unknown tasks ..c..", "the tasks are", "rename or leave out"),
    ),
    "data missing for a task": (
        lambda x, y: {"b": (x, y["b"])},
        ("nothing for the tasks ..a..", "it has ..b..", "Add"),
    ),
    "empty": (lambda x, y: x[:0], ("x in `data` is empty", "Pass at least one")),
    "empty for a task": (
        lambda x, y: {"a": x, "b": x[:0]},
        (re.escape("data['b']"), "is empty", "Pass at least one"),
    ),
    "NaN inputs": (
        lambda x, y: with_nan(x),
        ("x in `data` has NaN", "row 3", "Remove or repair"),
    ),
    "infinite labels": (
        lambda x, y: (x, {**y, "b": with_nan(y["b"]) * 0 + np.inf}),
        ("labels of 'b'` has infinite values", "row 0", "Remove or repair"),
    ),
    "another shape": (
        lambda x, y: x[:, :4],
        (re.escape("shape (48, 4); expected (n, 6)"), "Reshape"),
    ),
    "one sample without its batch": (
        lambda x, y: x[0],
        (re.escape("shape (6,); expected (n, 6)"), "batches"),
    ),
    "labels of another length": (
        lambda x, y: (x, {**y, "a": y["a"][:5]}),
        ("labels of 'a'` has 5 rows, but x has 48", "Pass one label per sample"),
    ),
    "labels for no task": (
        lambda x, y: (x, y["a"]),
        ("labels in `data` are one ndarray, but there are 2 tasks", "Pass"),
    ),
    "labels constant in the sample": (
        lambda x, y: (x, {**y, "b": np.zeros(48, int)}),
        ("task 'b' constant over the 48 samples", "expected", "drop the constant labels"),
    ),
    "one label constant in the sample": (
        lambda x, y: (x, {**y, "b": np.stack([y["b"], np.ones(48, int)], axis=1)}),
        ("labels .1. of task 'b' constant", "expected", "drop the constant labels"),
    ),
    "several inputs": (
        lambda x, y: (x, x, y, np.ones(48)),
        ("tuple of 4 elements; expected", "Several inputs are a dict of arrays by name"),
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used(case):
    change, parts = DATA[case]
    refuse(ValueError, *parts, data=change(*labelled()))


def test_data_of_no_known_form():
    refuse(TypeError, "of type str", "accepted forms", "Convert", data="images/")


def test_a_data_set_that_yields_nothing():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(vectors(4)).batch(2).take(0)
    refuse(ValueError, "`data` yields nothing", "at least one batch", "Check", data=data)


# --- thresholds and options ---------------------------------------------------------------------


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
