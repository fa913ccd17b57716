"""Fine-tuning on every form of data: targets for every task, and errors that streams meet."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.tiers import regular
from tests.tuned_nets import TASKS, Recorder, damaged, inputs, network, single, weights_of
from tfmot_pam.data import take_samples
from tfmot_pam.training.feed import Feed
from tfmot_pam.training.fine_tune import fine_tune
from tfmot_pam.training.heads import output_kind
from tfmot_pam.training.objective import Teacher, set_objective


class Stream(keras.utils.PyDataset):
    def __init__(self, *arrays, size=16):
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self):
        return len(self.arrays[0]) // self.size

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return tuple(array[rows] for array in self.arrays)


def training_data():
    x, other = inputs(64), inputs(32, seed=2)
    classes, reals = np.arange(64) % 3, inputs(64)[:, :3]
    as_tf = tf.data.Dataset.from_tensor_slices
    return {
        "arrays": ((x, {"b": classes, "a": reals}), 4),
        "one labelled task": ((x, {"b": classes, "a": None}), 4),
        "tf.data": (as_tf((x, {"b": classes, "a": reals})).batch(16), 4),
        "tf.data of unknown length": (as_tf(x).filter(lambda row: True).batch(16), 4),
        "PyDataset": (Stream(x), 4),
        "per task": ({"b": (x, classes), "a": other}, 4),
        "streams per task": ({"b": Stream(x, classes), "a": as_tf(other).batch(16)}, 4),
        "stream and array": ({"b": Stream(x, classes), "a": (other, other[:, :3])}, 4),
    }


def feed_of(student, data):
    """The feed that `fine_tune` would read from, without training."""
    sample = take_samples(data, TASKS, (5,), samples=256)
    objectives = {
        task: set_objective(
            task,
            sample.by_head[task],
            (3,),
            output_kind(student, task),
            teacher=Teacher(task, single(student)[task]),
        )
        for task in TASKS
    }
    return Feed(objectives, sample, (5,))


@pytest.mark.parametrize("name", regular(training_data(), 5))
def test_every_form_of_data_gives_targets_for_every_task(name):
    data, steps = training_data()[name]
    student = network()
    feed = feed_of(student, data)
    dataset, batches = feed.open([feed.prepare(data, 16)], batch_size=16)
    got = [keras.tree.map_structure(np.asarray, batch) for batch in dataset]
    assert len(got) == steps
    assert batches.steps in (steps, None)
    for x, targets, weights in got:
        predicted = student.predict_on_batch(x)
        own_inputs = isinstance(data, dict)
        assert x.shape == (32 if own_inputs else 16, 5)
        for i, task in enumerate(TASKS):
            rows = slice(16 * i, 16 * i + 16) if own_inputs else slice(None)
            teacher = targets[task][rows, -3:]
            np.testing.assert_allclose(teacher, predicted[task][rows], atol=1e-6)
            assert weights[task].mean() == pytest.approx(1.0)
            assert weights[task][rows].min() == pytest.approx(2.0 if own_inputs else 1.0)
            labelled = targets[task].shape[-1] - 3
            assert labelled in (0, 1 if task == "b" else 3)
            if labelled == 3:
                np.testing.assert_array_equal(targets[task][rows, :3], x[rows, :3])


@pytest.mark.parametrize(
    "name",
    regular(["one labelled task", "streams per task", "tf.data of unknown length", "PyDataset"], 2),
)
def test_arrays_and_streams_train_every_task(name):
    data, steps = training_data()[name]
    teacher = network()
    student, recorder = damaged(teacher), Recorder()
    tuned = fine_tune(
        student,
        data,
        list(single(teacher).values()),
        2,
        batch_size=16,
        callbacks=[recorder],
        validation_data=data,
        verbose=0,
    )
    assert recorder.steps == 2 * steps
    assert recorder.rate < 1e-6
    for key in ("loss", "a_loss", "b_loss", "val_loss", "val_a_loss", "val_b_loss"):
        assert np.isfinite(recorder.logs[-1][key])
    for prefix in ("a_head", "b_head"):
        assert not np.array_equal(weights_of(tuned, prefix), weights_of(student, prefix))


def test_dense_outputs_of_any_size_and_byte_inputs():
    inputs_ = keras.Input((None, None, 3), dtype="uint8")
    features = layers.Conv2D(4, 3, padding="same", activation="relu")(
        layers.Rescaling(1 / 255)(inputs_)
    )
    outputs = {
        "b": layers.Conv2D(3, 1, activation="softmax")(features),
        "a": layers.Conv2D(1, 1)(features),
    }
    model = keras.Model(inputs_, outputs)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (16, 6, 8, 3)).astype("uint8")
    y = {"b": rng.integers(0, 3, (16, 6, 8)), "a": rng.normal(size=(16, 6, 8, 1))}
    student, recorder = damaged(model), Recorder()
    tuned = fine_tune(
        student, (x, y), single(model), 2, batch_size=8, callbacks=[recorder], verbose=0
    )
    assert np.isfinite(recorder.logs[-1]["loss"])
    assert not np.array_equal(tuned.get_weights()[0], student.get_weights()[0])


def test_errors_in_a_stream_arrive_as_themselves():
    x = inputs(320)
    x[310] = np.nan
    with pytest.raises(ValueError, match="batch 19 of data.* has NaN"):
        fine_tune(network(), Stream(x), single(network()), 1, verbose=0)


def test_labels_that_stop_in_a_stream_are_explained():
    student = network()
    x, y = inputs(32), {"b": np.arange(32) % 3, "a": None}
    feed = feed_of(student, (x, y))
    dataset, _ = feed.open([feed.prepare(Pairs([(x, y), (x, None)]), 32)], batch_size=32)
    with pytest.raises(ValueError, match="no labels for the task 'b'"), feed.original_errors():
        list(dataset)


class Pairs(keras.utils.PyDataset):
    def __init__(self, pairs):
        super().__init__()
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]
