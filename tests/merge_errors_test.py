"""Models and data that `merge` refuses: what came, what was expected, what to do."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from tests.refusals import NAN, explain, labelled, models, refuse
from tests.small_nets import dense_net, vectors

layers = keras.layers


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
