"""Copies of models: the same class, layers, weights and functions, and nothing in common."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tfmot_pam.graph.cloning import clone

layers = keras.layers


def halved(value):
    """A layer that holds what `value`, a local name, is."""
    return layers.Lambda(lambda x: x / value)


def classifier(width=4, classes=3, value=2.0) -> keras.Model:
    image = keras.Input((8, 8, 1))
    inner = keras.Sequential([keras.Input((8, 8, 1)), halved(value), layers.Dropout(0.1)])
    h = layers.Conv2D(width, 3, activation="relu")(inner(image))
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(image, layers.Dense(classes)(h))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(48, 8, 8, 1)).astype("float32")


class Own(keras.Model):
    """A functional model of a class of its own."""


def own_class() -> keras.Model:
    plain = classifier()
    return Own(plain.input, plain.output)


def grouped() -> keras.Model:
    vector = keras.Input((4,))
    shared = tfmot_pam.TaskGroup(halved(3.0), ("a", "b"))(vector)
    heads = {"a": layers.Dense(2, name="a"), "b": layers.Dense(3, name="b")}
    return keras.Model(vector, {task: head(shared) for task, head in heads.items()})


def shared_layer() -> keras.Model:
    vector = keras.Input((4,))
    dense = layers.Dense(4)
    return keras.Model(vector, dense(dense(vector)) * 2.0)


@pytest.mark.parametrize(
    "build",
    [
        classifier,
        own_class,
        grouped,
        shared_layer,
        lambda: keras.Sequential([keras.Input((4,)), halved(2.0), layers.Dense(2)]),
    ],
)
def test_a_clone_computes_the_same(build):
    model = build()
    copy = clone(model)
    assert type(copy) is type(model)
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    inputs = np.random.default_rng(1).normal(size=(2, *model.inputs[0].shape[1:])).astype("float32")
    expected, found = (keras.tree.flatten(one(inputs, training=False)) for one in (model, copy))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in copy.weights}


def test_what_is_shared_stays_shared():
    copy = clone(shared_layer())
    assert len(copy.weights) == 2


def test_task_sets_stay():
    copy = clone(grouped())
    (group,) = (layer for layer in copy.layers if isinstance(layer, tfmot_pam.TaskGroup))
    assert group.tasks == ("a", "b")


def test_models_with_functions_of_their_own_are_tuned(x):
    models = {"a": classifier(4, 3), "b": classifier(6, 2)}
    merged = tfmot_pam.merge(models, x, verbose=0)
    tuned = tfmot_pam.fine_tune(merged, x, models, epochs=1, verbose=0)
    assert tuned.predict(x, verbose=0)["a"].shape == (48, 3)


@pytest.mark.slow
def test_models_with_functions_of_their_own_are_compressed(x):
    models = {"a": classifier(4, 3), "b": classifier(6, 2)}
    result = tfmot_pam.compress(
        models, x, 0.9, arms=["trunk"], effort=1, target=0.9, verbose=0, seed=0
    )
    assert result.best.share <= 0.9
