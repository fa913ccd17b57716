"""Streams in `compress`: read once, in one order, as far as they fit."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmot_pam
from tests.small_nets import classes, dense_net, vectors
from tfmot_pam.data import read_all

X = vectors(56)
Y = {"a": classes(X, 3, seed=1), "b": classes(X, 3, seed=2)}
WEIGHTS = np.arange(56.0)


class Batches(keras.utils.PyDataset):
    """Batches of 8 samples; `length=None` never ends."""

    def __init__(self, arrays, length: int | None = 7):
        super().__init__()
        self.arrays, self.length = arrays, length

    @property
    def num_batches(self):
        return self.length

    def __getitem__(self, index):
        rows = slice(8 * index % 56, 8 * index % 56 + 8)
        return keras.tree.map_structure(lambda array: array[rows], self.arrays)


def tf_stream(arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(8)


def endless():
    while True:
        yield X[:8]


STREAMS = {"tf.data": tf_stream, "PyDataset": Batches}


@pytest.mark.parametrize("kind", list(STREAMS))
def test_streams_are_read_as_arrays(kind):
    found = read_all(STREAMS[kind]((X, Y, WEIGHTS)), ["a", "b"], (6,))
    assert found.shared
    for task, own in found.by_head.items():
        np.testing.assert_array_equal(own.x, X)
        np.testing.assert_array_equal(own.y, Y[task])
        np.testing.assert_array_equal(own.weight, WEIGHTS)
    assert found.by_head["a"].x is found.by_head["b"].x


def test_streams_of_one_task_beside_arrays():
    found = read_all({"a": (X, Y["a"]), "b": tf_stream((X, Y["b"]))}, ["a", "b"], (6,))
    assert not found.shared
    assert found.by_head["a"].x is X
    np.testing.assert_array_equal(found.by_head["b"].y, Y["b"])


def test_what_runs_in_parallel_is_read_in_order():
    stream = tf.data.Dataset.from_tensor_slices(X).batch(1)
    stream = stream.map(lambda x: x, num_parallel_calls=4, deterministic=None)
    options = tf.data.Options()
    options.deterministic = False
    found = read_all(stream.with_options(options), ["a"], (6,))
    np.testing.assert_array_equal(found.by_head["a"].x, X)


@pytest.mark.parametrize(
    ("stream", "options", "message"),
    [
        (tf_stream(X).repeat(), {}, r"`data` is a stream that never ends.*\.take\(steps\)"),
        (Batches(X, None), {}, "never ends"),
        ({"a": tf_stream(X).repeat()}, {}, r"`data\['a'\]` is a stream that never ends"),
        (
            tf.data.Dataset.from_generator(
                endless, output_signature=tf.TensorSpec((None, 6), "float32")
            ),
            {"limit": 1000, "name": "validation_data"},
            "`validation_data` is a stream of more than .* GiB, after 6 batches: it never ends, or",
        ),
        (tf_stream((X[:0],)), {}, "yields nothing"),
    ],
)
def test_streams_that_cannot_be_kept_are_explained(stream, options, message):
    with pytest.raises(ValueError, match=message):
        read_all(stream, ["a"], (6,), **options)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A compression of arrays that keeps checkpoints, and the same call again."""
    models = {"a": dense_net(0), "b": dense_net(1)}
    folder = tmp_path_factory.mktemp("streams")

    def run(data, directory=None, **options):
        settings = {"arms": ["separate"], "effort": 1, "target": 0.95, "verbose": 0, **options}
        return tfmot_pam.compress(models, data, 0.9, directory=directory or folder, **settings)

    return run, run((X, Y)), folder


@pytest.mark.filterwarnings("ignore:The model of:UserWarning")
@pytest.mark.parametrize("kind", list(STREAMS))
def test_a_stream_is_the_same_data_as_its_arrays(compressed, kind):
    run, result, folder = compressed
    kept = sorted(path.stat().st_mtime_ns for path in folder.rglob("state.json"))
    again = run(STREAMS[kind]((X, Y)))
    assert again.best.rounds == result.best.rounds
    assert kept == sorted(path.stat().st_mtime_ns for path in folder.rglob("state.json"))


@pytest.mark.filterwarnings("ignore:The model of:UserWarning")
@pytest.mark.slow
def test_a_stream_in_another_order_goes_on_by_its_name(compressed, tmp_path):
    run, _, folder = compressed
    stream = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(56).batch(8)
    with pytest.raises(ValueError, match="with other data.*data_name='...'"):
        run(stream)
    first = run(stream, tmp_path, data_name="vectors, 2024")
    again = run(stream, tmp_path, data_name="vectors, 2024")
    assert again.best.rounds == first.best.rounds
    with pytest.raises(ValueError, match="with other data"):
        run(stream, tmp_path, data_name="vectors, 2025")
    with pytest.raises(TypeError, match="`data_name` must be a text"):
        run(stream, tmp_path, data_name=2025)
    assert list(folder.rglob("state.json"))


@pytest.mark.filterwarnings("ignore:The model of:UserWarning")
@pytest.mark.slow
def test_validation_data_may_be_a_stream(compressed, tmp_path):
    run, *_ = compressed
    plain = run((X[:40], {t: y[:40] for t, y in Y.items()}), tmp_path, validation_data=(X, Y))
    streamed = run(
        tf_stream((X[:40], {t: y[:40] for t, y in Y.items()})),
        tmp_path,
        validation_data=tf_stream((X, Y)),
    )
    assert streamed.best.rounds == plain.best.rounds
    with pytest.raises(ValueError, match="`validation_data` is a stream that never ends"):
        run((X, Y), tmp_path, validation_data=tf_stream((X, Y)).repeat())
