"""`merge` of every kind of model: heads, inputs, preprocessing, selections of merged models."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.merges import TASKS, groups, labelled_pair, merge
from tests.small_nets import (
    all_outputs,
    assert_same_weights,
    classes,
    conv_net,
    dense_net,
    images,
    outputs_of,
    vectors,
)
from tfmot_pam.task_group import TaskGroup

layers = keras.layers


@pytest.fixture(scope="module")
def pair():
    return labelled_pair()


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
