"""The layer wrapper: it computes, trains and saves like the layer that it wraps."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfmot_pam
from tests import hand_built
from tfmot_pam.task_group import TaskGroup

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_computes_what_the_layer_computes():
    layer = keras.layers.Conv2D(3, 3, activation="relu")
    data = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")
    group = TaskGroup(layer, ["a", "b"])
    np.testing.assert_array_equal(group(data), layer(data))
    assert group.tasks == ("a", "b")
    assert group.name == layer.name
    assert group.compute_output_shape((None, 6, 6, 2)) == (None, 4, 4, 3)
    assert [weight.path for weight in group.weights] == [weight.path for weight in layer.weights]


@pytest.mark.parametrize(
    "merge", [keras.layers.Add, keras.layers.Concatenate, keras.layers.Multiply]
)
def test_layers_with_several_inputs(merge):
    first, second = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([first, second], TaskGroup(merge(), ("a",))([first, second]))
    left, right = np.ones((2, 3), "float32"), np.full((2, 3), 4.0, "float32")
    np.testing.assert_array_equal(model([left, right]), merge()([left, right]))


def test_training_reaches_the_layer():
    data = np.random.default_rng(0).normal(3.0, 2.0, size=(64, 4)).astype("float32")
    norm = TaskGroup(keras.layers.BatchNormalization(momentum=0.0), ("a",))
    normal = np.array(norm(data, training=True))
    np.testing.assert_allclose(normal.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(norm.layer.moving_mean, data.mean(axis=0), rtol=1e-5)
    drop = TaskGroup(keras.layers.Dropout(0.5, seed=0), ("a",))
    assert np.mean(np.array(drop(data, training=True)) == 0) > 0.3
    np.testing.assert_array_equal(drop(data, training=False), data)


def test_training_reaches_the_layer_through_a_model():
    x = keras.Input((4,))
    model = keras.Model(x, TaskGroup(keras.layers.Dropout(0.5, seed=0), ("a",))(x))
    data = np.ones((16, 4), "float32")
    assert np.any(np.array(model(data, training=True)) == 0)
    np.testing.assert_array_equal(model(data), data)


def test_fit_trains_weights_and_statistics_of_every_group():
    model = hand_built.three_task_model()
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 1.0, size=(32, 8, 8, 2)).astype("float32")
    y = {task: rng.normal(size=(32, 3)) for task in "abc"}
    optimizer = keras.optimizers.Adam(0.03)
    model.compile(optimizer, loss=dict.fromkeys("abc", "mse"), run_eagerly=True)
    before = {weight.path: np.array(weight) for weight in model.weights}
    history = model.fit(x, y, epochs=3, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < history[0]
    still = [weight.path for weight in model.weights if np.array_equal(weight, before[weight.path])]
    assert still == []


def test_frozen_group_is_not_trained():
    group = TaskGroup(keras.layers.Dense(2), ("a",))
    group.build((None, 3))
    group.trainable = False
    assert group.trainable_weights == []
    assert len(group.non_trainable_weights) == 2


def test_mixed_precision_policy_of_the_layer_is_kept():
    group = TaskGroup(keras.layers.Dense(2, dtype="mixed_float16"), ("a",))
    x = keras.Input((3,))
    assert group(x).dtype == "float16"


def test_config_round_trip():
    group = TaskGroup(keras.layers.Dense(2, name="inner"), ("b", "a"), name="outer")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(group))
    assert (again.name, again.layer.name, again.tasks) == ("outer", "inner", ("b", "a"))
    assert again.get_config() == group.get_config()


def test_cloned_model_keeps_its_groups():
    clone = keras.models.clone_model(hand_built.two_task_model())
    assert clone.get_layer("fc2_shared").tasks == ("a", "b")
    assert clone.get_layer("head_b").tasks == ("b",)


SCRIPT = """
import sys
import keras, numpy as np, tfmot_pam
model = keras.models.load_model(sys.argv[1])
outputs = model(np.load(sys.argv[2]), training=False)
np.savez(sys.argv[3], **keras.tree.map_structure(keras.ops.convert_to_numpy, outputs))
selected = tfmot_pam.select_tasks(model, "c")
print([layer.name for layer in selected.layers if layer.name.startswith("conv1")])
print(list(model.output), tfmot_pam.cost(model, "c").macs)
"""


@pytest.mark.slow
def test_saved_model_loads_in_a_fresh_process(tmp_path):
    model = hand_built.shake(hand_built.three_task_model(), seed=1)
    data = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype("float32")
    paths = [str(tmp_path / name) for name in ("model.keras", "data.npy", "out.npz")]
    model.save(paths[0])
    np.save(paths[1], data)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(paths[2]) as found:
        for task, value in model(data, training=False).items():
            np.testing.assert_allclose(found[task], value, atol=1e-6)
    groups, outputs = done.stdout.splitlines()[-2:]
    assert groups == "['conv1_shared', 'conv1_b_c', 'conv1_c']"
    assert outputs == f"['a', 'b', 'c'] {tfmot_pam.cost(model, 'c').macs}"


@pytest.mark.parametrize(
    ("layer", "tasks", "error", "match"),
    [
        ("dense", ("a",), TypeError, "must be a Keras layer.*Received: 'dense'.*Pass the layer"),
        (keras.layers.Dense, ("a",), TypeError, "must be a Keras layer"),
        (None, "digit", TypeError, "sequence of task names.*Received: 'digit'.*Pass a tuple"),
        (None, (1, 2), TypeError, "sequence of task names"),
        (None, (), ValueError, "at least one task"),
        (None, ("a", "b", "a"), ValueError, "each of them once.*repeated"),
    ],
)
def test_bad_arguments(layer, tasks, error, match):
    with pytest.raises(error, match=match):
        TaskGroup(keras.layers.Dense(2) if layer is None else layer, tasks)


def test_tasks_that_are_no_sequence():
    with pytest.raises(TypeError, match="sequence of task names.*Received: 3"):
        TaskGroup(keras.layers.Dense(2), 3)


@pytest.mark.filterwarnings("error:Layer .* was passed an input with a mask")
def test_masks_pass_through_without_a_warning():
    tokens = keras.Input((4,))
    embedded = keras.layers.Embedding(10, 3, mask_zero=True)(tokens)
    pooling = keras.layers.GlobalAveragePooling1D()
    plain = keras.Model(tokens, pooling(keras.layers.ReLU()(embedded)))
    grouped = keras.Model(tokens, pooling(TaskGroup(keras.layers.ReLU(), ("a",))(embedded)))
    data = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    np.testing.assert_allclose(grouped(data), plain(data), atol=1e-6)
