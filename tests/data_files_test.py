"""Data sets named on a command line: every kind of file gives the same arrays."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.mutated_files_test import try_all
from tflite_export.programs.data_files import DataOptions, Wanted, as_data, load_data
from tflite_export.programs.records import read_records
from tflite_export.programs.tables import read_table

TWO = Wanted((2,), {"digit": ("digit",), "speaker": ("speaker",)})
SEVERAL = Wanted(
    {"image": (2, 2, 1), "age": (1,)}, {"detector": ("detector/boxes", "detector/classes")}
)
PICTURES = Wanted((4, 6, 3), {"digit": ("digit",)})
X = np.arange(6.0).reshape(3, 2)
Y, Z = np.array([0, 1, 2]), np.array([1, 0, 1])


# --- what the names of arrays mean ----------------------------------------------------------------


def test_inputs_alone():
    assert as_data({"x": X}, TWO, "f") is X


@pytest.mark.parametrize("prefix", ["", "y_"])
def test_labels_by_task(prefix):
    x, labels = as_data({"x": X, f"{prefix}digit": Y, f"{prefix}speaker": Z}, TWO, "f")
    assert x is X
    assert labels["digit"] is Y
    assert labels["speaker"] is Z


def test_a_task_may_have_no_labels():
    _, labels = as_data({"x": X, "digit": Y}, TWO, "f")
    assert labels["speaker"] is None


def test_weights_of_all_and_of_one():
    arrays = {"x": X, "digit": Y, "speaker": Z, "weight": X[:, 0], "weight_speaker": X[:, 1]}
    _, _, weights = as_data(arrays, TWO, "f")
    assert weights["digit"] is arrays["weight"]
    assert weights["speaker"] is arrays["weight_speaker"]


def test_samples_of_their_own():
    arrays = {"x_digit": X, "digit": Y, "x_speaker": X[:2], "speaker": Z[:2]}
    found = as_data(arrays | {"weight_speaker": X[:2, 0]}, TWO, "f")
    assert found["digit"][0] is X
    assert len(found["digit"]) == 2
    assert found["speaker"][2] == {"speaker": pytest.approx(X[:2, 0])}


def test_several_inputs_and_outputs():
    arrays = {"image": np.zeros((3, 2, 2, 1)), "age": X[:, :1], "detector/boxes": X}
    x, labels = as_data(arrays, SEVERAL, "f")
    assert set(x) == {"image", "age"}
    assert labels["detector"]["boxes"] is X
    assert labels["detector"]["classes"] is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"digit": Y}, "Missing: ['x']"),
        ({"x": X, "x_digit": X}, "Missing: ['x_speaker']"),
        ({"x": X, "mood": Y}, "unknown: ['mood']"),
        ({"x": X, "x_digit": X, "x_speaker": X}, "unknown: ['x']"),
    ],
)
def test_other_names_are_refused(arrays, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        as_data(arrays, TWO, "f")


# --- kinds of files -------------------------------------------------------------------------------


def test_arrays_and_functions(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=X, digit=Y, speaker=Z)
    x, labels = load_data(str(tmp_path / "a.npz"), TWO, DataOptions())
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(labels["speaker"], Z)
    text = "import numpy as np\ndef data():\n    return np.ones((3, 2))\nnumber = 3\n"
    (tmp_path / "own_data_of_test.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_data_of_test:data", f"{tmp_path / 'own_data_of_test.py'}:data"):
        np.testing.assert_array_equal(load_data(name, TWO, DataOptions()), np.ones((3, 2)))
    with pytest.raises(TypeError, match="is of type int. Name a function"):
        load_data("own_data_of_test:number", TWO, DataOptions())
    with pytest.raises(ImportError, match="has no 'other'"):
        load_data("own_data_of_test:other", TWO, DataOptions())


def _picture(seed, height=4, width=6):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype("uint8")


def _png(image):
    return tf.io.encode_png(image).numpy()


def _table(folder, text):
    for seed in range(2):
        (folder / f"{seed}.png").write_bytes(_png(_picture(seed)))
    (folder / "labels.csv").write_text(text)
    return folder


def test_a_table_of_images(tmp_path):
    folder = _table(tmp_path, "file,digit\n0.png,3\n1.png,\n")
    x, labels = load_data(str(folder), PICTURES, DataOptions(pixel_range=(-1.0, 1.0)))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[1], _picture(1) / 127.5 - 1.0, atol=1e-6)
    np.testing.assert_array_equal(labels["digit"], [3, -1])  # An empty cell does not count.


def test_images_are_resized(tmp_path):
    folder = _table(tmp_path, "file,digit\n0.png,3\n1.png,4\n")
    x = read_table(folder / "labels.csv", {"x": (2, 3, 3)}, (0.0, 255.0))["x"]
    expected = tf.image.resize(_picture(0), (2, 3), antialias=True)
    np.testing.assert_allclose(x[0], expected, atol=1e-4)
    grey = read_table(folder / "labels.csv", {"x": (4, 6, 1)}, (0.0, 1.0))["x"]
    assert grey.shape == (2, 4, 6, 1)
    assert 0.0 <= grey.min() < grey.max() <= 1.0


def test_columns_of_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x.0,x.1,age,digit\n0.5,1,,2\n3,4,30.5,1\n", encoding="utf-8-sig")
    found = read_table(path, {"x": (2,)}, (0.0, 255.0))
    np.testing.assert_array_equal(found["x"], [[0.5, 1], [3, 4]])
    np.testing.assert_array_equal(found["digit"], [2, 1])
    assert np.isnan(found["age"][0])
    assert found["age"][1] == 30.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,digit\n", "has 1 rows"),
        ("file,digit\n0.png,1,2\n", "Row 2 of .* has 3 cells"),
        ("file,file\n0.png,0.png\n", "columns of one name"),
        ("file,digit\n9.png,1\n", "There is no image"),
        ("file,digit\nlabels.csv,1\n", "is no image of 3 channels"),
        ("file,digit\n0.png,cat\n", "something else than numbers"),
        ("file,digit.1\n0.png,1\n", r"numbered \[1\]. Expected digit.0"),
    ],
)
def test_tables_that_cannot_be_read(text, message, tmp_path):
    _table(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        load_data(str(tmp_path / "labels.csv"), PICTURES, DataOptions())


def test_images_of_open_size(tmp_path):
    _table(tmp_path, "file\n0.png\n")
    wanted = Wanted((None, None, 3), PICTURES.tasks)
    with pytest.raises(ValueError, match="images need a height, a width and channels"):
        load_data(str(tmp_path), wanted, DataOptions())


SPEC = {
    "x": {"feature": "image", "kind": "image"},
    "digit": {"feature": "label", "kind": "int64"},
    "box": {"feature": "box", "kind": "float", "shape": [4]},
    "mask": {"feature": "mask", "kind": "raw", "dtype": "int16", "shape": [2, 3]},
}


def _records(folder, options=None):
    for part in range(2):
        path = str(folder / f"train-{part}.tfrecord")
        with tf.io.TFRecordWriter(path, options=options) as writer:
            for seed in (2 * part, 2 * part + 1):
                values = {
                    "image": {"bytes_list": {"value": [_png(_picture(seed))]}},
                    "label": {"int64_list": {"value": [seed]}},
                    "box": {"float_list": {"value": [0.0, 1.0, 2.0, seed]}},
                    "mask": {"bytes_list": {"value": [np.full((2, 3), seed, "<i2").tobytes()]}},
                }
                features = {name: tf.train.Feature(**value) for name, value in values.items()}
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
    return folder


@pytest.mark.parametrize("compression", [None, "GZIP"])
def test_records(compression, tmp_path):
    _records(tmp_path, compression)
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    pattern, spec = str(tmp_path / "train-*.tfrecord"), str(tmp_path / "spec.json")
    found = read_records(pattern, spec, PICTURES.named_inputs, (0.0, 255.0))
    assert set(found) == set(SPEC)
    for seed in range(4):
        np.testing.assert_allclose(found["x"][seed], _picture(seed), atol=1e-4)
    np.testing.assert_array_equal(found["digit"], range(4))
    np.testing.assert_array_equal(found["box"][:, 3], range(4))
    np.testing.assert_array_equal(found["mask"][3], np.full((2, 3), 3))


@pytest.mark.parametrize(
    ("spec", "pattern", "message"),
    [
        (None, "train-0.tfrecord", "Pass --data_spec"),
        (SPEC, "test-*.tfrecord", "No file is named like"),
        ({"x": {"feature": "label"}}, "train-0.tfrecord", "kind"),
        ({"x": {"feature": "sound", "kind": "float"}}, "train-0.tfrecord", "does not hold what"),
        ({"x": {"feature": "label", "kind": "float"}}, "train-0.tfrecord", "does not hold what"),
        ({"x": {"feature": "mask", "kind": "raw", "shape": [9]}}, "train-0.tfrecord", "12 bytes"),
        (SPEC, "spec.json", "does not hold what"),
    ],
)
def test_records_that_cannot_be_read(spec, pattern, message, tmp_path):
    _records(tmp_path)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    options = DataOptions(None if spec is None else str(path))
    with pytest.raises(ValueError, match=message):
        load_data(str(tmp_path / pattern), PICTURES, options)


def test_spoilt_specifications(tmp_path):
    _records(tmp_path)
    path = tmp_path / "spec.json"

    def use(content):
        path.write_bytes(content)
        read_records(str(tmp_path / "train-0.tfrecord"), str(path), {"x": (4, 6, 3)}, (0.0, 1.0))

    assert 20 < try_all(40, json.dumps(SPEC), use) <= 40


@pytest.mark.parametrize("source", ["none.npz", "none.csv", "none", "none.py:data", ":data"])
def test_sources_that_are_none(source, tmp_path):
    named = source if source == ":data" else str(tmp_path / source)
    with pytest.raises(ValueError, match=r"There is no file|Expected|names no function"):
        load_data(named, TWO, DataOptions())


def test_folders_without_one_table(tmp_path):
    with pytest.raises(ValueError, match=r"has the tables \[\]"):
        load_data(str(tmp_path), TWO, DataOptions())


def test_broken_arrays(tmp_path):
    (tmp_path / "a.npz").write_text("not an array")
    with pytest.raises(ValueError, match=r"Cannot read .*a.npz"):
        load_data(str(tmp_path / "a.npz"), TWO, DataOptions())
