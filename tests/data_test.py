"""The user's data in every accepted form."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmot_pam.data import open_batches, read_arrays, synthetic_inputs, take_samples
from tfmot_pam.graph.inputs import Rows

TASKS = ("b", "a")
SHAPE = (4, 3)


def inputs(n=40, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *SHAPE)).astype("float32")


def labels(n=40):
    return {"a": np.arange(n) % 3, "b": np.where(np.arange(n)[:, None] % [2, 5] == 0, 1.0, -1.0)}


class Stream(keras.utils.PyDataset):
    """Batches of anything that can be indexed, as a PyDataset."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches
        self.epochs_ended = 0

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]

    def on_epoch_end(self):
        self.epochs_ended += 1


def every_form():
    x, y = inputs(), labels()
    own = {task: (inputs(seed=i), y[task]) for i, task in enumerate(TASKS)}
    slices = [slice(start, start + 8) for start in range(0, 40, 8)]
    batches = [(x[rows], {task: y[task][rows] for task in TASKS}) for rows in slices]
    as_tf = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    return {
        "arrays": (x, y),
        "tensors": (tf.constant(x), {task: tf.constant(y[task]) for task in TASKS}),
        "x": x,
        "x and None": (x, None),
        "per task": own,
        "per task, x": {task: own[task][0] for task in TASKS},
        "tf.data": as_tf,
        "tf.data, x": tf.data.Dataset.from_tensor_slices(x).batch(8),
        "tf.data, per task": tf.data.Dataset.from_tensor_slices(own).batch(8),
        "PyDataset": Stream(batches),
        "PyDataset, x": Stream([x for x, _ in batches]),
        "streams per task": {
            "a": tf.data.Dataset.from_tensor_slices(own["a"]).batch(8),
            "b": Stream([tuple(part[rows] for part in own["b"]) for rows in slices]),
        },
        "stream and array": {
            "a": own["a"],
            "b": Stream([tuple(part[rows] for part in own["b"]) for rows in slices]),
        },
    }


NAMES = list(every_form())
OWN_INPUTS = [
    "per task",
    "per task, x",
    "tf.data, per task",
    "streams per task",
    "stream and array",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_form_gives_the_same_samples(name):
    samples = take_samples(every_form()[name], TASKS, SHAPE)
    assert list(samples.by_head) == list(TASKS)
    assert samples.shared is (name not in OWN_INPUTS)
    assert (samples.by_head["a"].x is samples.by_head["b"].x) is samples.shared
    labelled = name not in ("x", "x and None", "per task, x", "tf.data, x", "PyDataset, x")
    for i, task in enumerate(TASKS):
        np.testing.assert_array_equal(
            samples.by_head[task].x, inputs(seed=0 if samples.shared else i)
        )
        if labelled:
            np.testing.assert_array_equal(samples.by_head[task].y, labels()[task])
        else:
            assert samples.by_head[task].y is None


@pytest.mark.parametrize("name", NAMES)
def test_every_form_gives_batches_with_all_tasks(name):
    batches = open_batches(every_form()[name], TASKS, SHAPE, batch_size=8, seed=0)
    got = list(batches.epoch(0))
    assert batches.steps == len(got) == 5
    for i, task in enumerate(TASKS):
        x = np.concatenate([batch.by_head[task].x for batch in got])
        want = inputs(seed=i if name in OWN_INPUTS else 0)
        np.testing.assert_array_equal(np.sort(x, axis=0), np.sort(want, axis=0))


def test_only_arrays_are_read_completely():
    forms = every_form()
    whole = read_arrays(forms["arrays"], TASKS, SHAPE)
    assert whole.by_head["a"].x is forms["arrays"][0]
    assert whole.shared
    assert read_arrays(forms["tf.data"], TASKS, SHAPE) is None
    assert read_arrays(forms["stream and array"], TASKS, SHAPE) is None


def test_one_array_given_for_each_task_is_shared():
    x = inputs()
    assert take_samples({"a": x, "b": x}, TASKS, SHAPE, samples=5).shared


def test_a_single_task_takes_plain_labels():
    y = np.arange(40) % 2
    samples = take_samples((inputs(), y), ["a"], SHAPE)
    np.testing.assert_array_equal(samples.by_head["a"].y, y)


def test_none_stands_for_a_task_without_labels():
    samples = take_samples((inputs(), {"a": np.arange(40), "b": None}), TASKS, SHAPE)
    assert samples.by_head["b"].y is None
    assert samples.by_head["a"].y is not None


def test_types_are_kept():
    x = np.arange(40 * 12).reshape(40, *SHAPE).astype("uint8")
    samples = take_samples((x, {"a": np.arange(40, dtype="int8")}), ["a"], SHAPE, samples=7)
    assert samples.by_head["a"].x.dtype == np.uint8
    assert samples.by_head["a"].y.dtype == np.int8


def test_unknown_sizes_match_anything():
    assert take_samples(inputs(), ["a"], (None, 3), samples=2).by_head["a"].x.shape == (2, *SHAPE)


def test_the_draw_is_seeded():
    draw = [
        take_samples(inputs(), TASKS, SHAPE, samples=9, seed=s).by_head["a"].x for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_rare_values_of_every_label_are_drawn(sign):
    n = 2000
    matrix = np.full((n, 3), sign)
    matrix[[5, 900, 901], [0, 0, 1]] = 1.0  # Column 2 is constant in the full data.
    classes = np.zeros(n, int)
    classes[[17, 1500]] = 1, 2
    x = np.zeros((n, 1), "float32")
    samples = take_samples((x, {"a": matrix, "b": classes}), TASKS, (1,), samples=50)
    assert len(samples.by_head["a"].x) == 50
    assert (samples.by_head["a"].y[:, :2].max(axis=0) == 1).all()
    assert (samples.by_head["a"].y[:, :2].min(axis=0) == sign).all()
    assert set(samples.by_head["b"].y) == {0, 1, 2}


def test_rare_classes_of_dense_maps_are_drawn():
    maps = np.zeros((500, 4, 4), int)
    maps[123, 2, 2], maps[7, 0, 1] = 1, 2
    x = np.zeros((500, 1), "float32")
    one_hot = np.eye(3)[maps]
    samples = take_samples((x, {"a": maps, "b": one_hot}), TASKS, (1,), samples=20)
    assert set(np.unique(samples.by_head["a"].y)) == {0, 1, 2}
    alone = take_samples((x, {"b": one_hot}), ["b"], (1,), samples=20)
    assert (alone.by_head["b"].y.max(axis=(0, 1, 2)) == 1).all()


def test_more_classes_than_samples():
    y = np.arange(300) % 100
    samples = take_samples((np.zeros((300, 1)), {"a": y}), ["a"], (1,), samples=30)
    assert len(set(samples.by_head["a"].y)) == 30


def test_real_targets_are_drawn_without_strata():
    y = np.random.default_rng(0).normal(size=(300, 2))
    samples = take_samples((np.zeros((300, 1)), {"a": y}), ["a"], (1,), samples=30)
    assert samples.by_head["a"].y.shape == (30, 2)


def test_lazy_samples_are_the_same_and_read_when_they_are_asked_for(tmp_path):
    np.save(tmp_path / "x.npy", inputs())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")
    data = {"b": (mapped, labels()["b"]), "a": (inputs(9, seed=1), None)}
    drawn, lazy = (
        take_samples(data, TASKS, SHAPE, samples=12, lazy=lazy) for lazy in (False, True)
    )
    assert len(lazy.inputs) == 12 + 9
    for task in TASKS:
        np.testing.assert_array_equal(lazy.by_head[task].x[:], drawn.by_head[task].x)
    every, some = drawn.inputs, np.array([20, 3, 13])
    np.testing.assert_array_equal(lazy.inputs[5:17], every[5:17])
    halves = Rows.all_of(lazy.inputs).astype("float16")
    np.testing.assert_array_equal(halves[some], every[some].astype("float16"))
    mapped[:] = 7.0
    assert (lazy.by_head["b"].x[2:5] == 7.0).all()


def test_lazy_samples_of_a_stream_are_in_memory():
    stream = tf.data.Dataset.from_tensor_slices(inputs()).batch(8)
    drawn = take_samples(stream, ["a"], SHAPE, samples=8, lazy=True).by_head["a"].x
    np.testing.assert_array_equal(drawn, inputs()[:8])
    assert isinstance(drawn, np.ndarray)


def test_only_the_head_of_an_endless_stream_is_read():
    def batches():
        for start in itertools.count(step=10):
            index = np.arange(start, start + 10)
            yield np.repeat(index[:, None], 2, 1).astype("float32"), {"a": index % 7}

    spec = (tf.TensorSpec((None, 2)), {"a": tf.TensorSpec((None,), tf.int64)})
    stream = tf.data.Dataset.from_generator(batches, output_signature=spec)
    samples = take_samples(stream, ["a"], (2,), samples=20)
    assert len(samples.by_head["a"].x) == 20
    assert set(samples.by_head["a"].y) == set(range(7))
    np.testing.assert_array_equal(samples.by_head["a"].x[:, 0] % 7, samples.by_head["a"].y)
    assert samples.by_head["a"].x.max() < 4 * 20


def test_epochs_shuffle_anew_and_repeat_with_the_seed():
    def order(seed, epoch):
        batches = open_batches(inputs(), ["a"], SHAPE, batch_size=16, seed=seed)
        return np.concatenate([batch.by_head["a"].x for batch in batches.epoch(epoch)])

    np.testing.assert_array_equal(order(3, 1), order(3, 1))
    assert not np.array_equal(order(3, 1), order(3, 2))
    assert not np.array_equal(order(3, 1), order(4, 1))
    np.testing.assert_array_equal(order(None, 0), inputs())


def test_labels_stay_with_their_inputs():
    x = np.arange(40, dtype="float32")[:, None]
    for batch in open_batches((x, {"a": x[:, 0]}), ["a"], (1,), batch_size=7).epoch(0):
        np.testing.assert_array_equal(batch.by_head["a"].x[:, 0], batch.by_head["a"].y)


def test_shorter_data_sets_start_again():
    long, short = inputs(20), Stream([inputs(4, seed=1), inputs(4, seed=2)])
    batches = open_batches({"b": long, "a": short}, TASKS, SHAPE, batch_size=4)
    assert batches.steps == len(list(batches.epoch(0))) == 5
    assert short.epochs_ended == 2


def test_unknown_length():
    stream = tf.data.Dataset.from_tensor_slices(inputs()).filter(lambda x: True).batch(8)
    batches = open_batches(stream, TASKS, SHAPE)
    assert batches.steps is None
    assert len(list(batches.epoch(0))) == 5


def with_value(array, value):
    array = np.array(array, "float32")
    array[3] = value
    return array


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"a": inputs(), "b": inputs(), "c": inputs()}, ValueError, r"unknown tasks \['c'\]"),
        ({"a": inputs()}, ValueError, r"nothing for the tasks \['b'\]"),
        ({"b": Stream([inputs()])}, ValueError, r"nothing for the tasks \['a'\]"),
        ({"image": inputs()}, ValueError, r"unknown tasks \['image'\]"),
        ((inputs(), {"a": np.arange(40)}), ValueError, r"for the tasks \['b'\].*or None"),
        ((inputs(), {**labels(), "z": np.arange(40)}), ValueError, r"unknown tasks \['z'\]"),
        ((inputs(), np.arange(40)), ValueError, "labels in `data` are one ndarray"),
        ((inputs(), labels(), None, None), ValueError, "tuple of 4 elements"),
        ((inputs(), labels(), np.ones(39)), ValueError, r"shape \(39,\); expected \(40,\)"),
        ((inputs(), labels(), -np.ones(40)), ValueError, "negative or not finite"),
        ((inputs(), labels(), {"z": np.ones(40)}), ValueError, r"unknown tasks \['z'\]"),
        (
            Stream([(inputs(), labels(), np.ones(40)), (inputs(), labels())]),
            ValueError,
            "have sample weights for the task 'b' and batch 1 has none",
        ),
        (inputs(0), ValueError, "is empty"),
        (with_value(inputs(), np.nan), ValueError, "x in `data` has NaN .* row 3"),
        (with_value(inputs(), np.inf), ValueError, "NaN or infinite"),
        (
            (inputs(), {"a": with_value(np.arange(40), np.inf), "b": None}),
            ValueError,
            "labels of 'a'` has infinite values, first in row 3.*put NaN",
        ),
        (np.zeros((40, 4, 2)), ValueError, r"shape \(40, 4, 2\); expected \(n, 4, 3\)"),
        (np.zeros(SHAPE), ValueError, "put them into batches"),
        ((inputs(), {"a": np.arange(39), "b": None}), ValueError, "39 rows, but x has 40"),
        ((inputs(), {"a": np.float32(1), "b": None}), ValueError, "0 rows, but x has 40"),
        (inputs().tolist(), TypeError, "type list.*tf.data.Dataset"),
        ("digits.npz", TypeError, "type str"),
        ((row for row in inputs()), TypeError, "type generator"),
        (np.full((40, *SHAPE), "x"), TypeError, "must hold numbers"),
        (Stream([]), ValueError, "yields nothing"),
        (Stream([inputs(), np.zeros((2, 5))]), ValueError, "batch 1 of data"),
        (
            tf.data.Dataset.from_tensor_slices(inputs(0)).batch(4),
            ValueError,
            r"yields nothing \(a _BatchDataset\)",
        ),
        (tf.data.Dataset.from_tensor_slices(inputs()), ValueError, "put them into batches"),
        (
            Stream([(inputs(), labels()), (inputs(), None)]),
            ValueError,
            "batch 1 has none",
        ),
    ],
)
def test_bad_data_is_explained(data, error, message):
    with pytest.raises(error, match=message):
        take_samples(data, TASKS, SHAPE)


def test_bad_numbers_are_explained():
    with pytest.raises(ValueError, match="`samples` must be at least 1. Received: 0"):
        take_samples(inputs(), TASKS, SHAPE, samples=0)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1. Received: 0"):
        open_batches(inputs(), TASKS, SHAPE, batch_size=0)
    with pytest.raises(ValueError, match=r"Received: \(None, 3\)"):
        synthetic_inputs((None, 3))
    with pytest.raises(ValueError, match="`samples` must be at least 1"):
        synthetic_inputs((3,), samples=0)


def test_endless_streams_cannot_be_trained_on():
    endless = tf.data.Dataset.from_tensor_slices(inputs()).batch(8).repeat()
    with pytest.raises(ValueError, match="never ends"):
        open_batches(endless, TASKS, SHAPE)
