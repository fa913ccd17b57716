"""Tests of what the export refuses: folders appear whole or not at all."""

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from tests.exported_nets import small_model


class _Forgetful(layers.Layer):
    """Multiplies by the number of its calls: no file can agree with it."""

    calls = 0

    def call(self, inputs):
        self.calls += 1
        return inputs * self.calls


class _Unsupported(layers.Layer):
    """Uses an operation that TFLite lacks."""

    def call(self, inputs):
        import tensorflow as tf

        return tf.math.betainc(inputs, inputs, inputs)


def _plain_model(layer):
    signal = keras.Input((6,), name="signal")
    return keras.Model(signal, layer(signal))


def test_failed_export_leaves_the_old_folder(tmp_path):
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "manifest.json").write_text('{"files": [{"file": "old.tflite"}]}')
    (directory / "old.tflite").write_text("old")
    model = _plain_model(_Forgetful(name="digit"))
    message = r"digit\.tflite disagrees .* 'digit': its largest error over 16 inputs is \d.*0\.0001"
    with pytest.raises(ValueError, match=message):
        tflite_export.export(model, directory, overwrite=True, verbose=0)
    assert (directory / "old.tflite").read_text() == "old"
    with pytest.raises(ValueError, match=message):
        tflite_export.export(model, tmp_path / "new" / "out", verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_foreign_files_are_never_deleted(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds \['notes.txt'\], which no export wrote"):
        tflite_export.export(small_model(), tmp_path, overwrite=True, verbose=0)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_refuses_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; expected a directory"):
        tflite_export.export(small_model(), tmp_path / "file", verbose=0)
    with pytest.raises(ValueError, match=r"Cannot write into .*Choose a directory"):
        tflite_export.export(small_model(), tmp_path / "file" / "out", verbose=0)


def test_missing_operation_is_named_with_its_layer(tmp_path):
    model = _plain_model(_Unsupported(name="odd_one"))
    samples = np.full((1, 6), 0.5)
    with pytest.raises(ValueError, match=r"odd_one\.tflite .* no operation for Betainc.*odd_one"):
        tflite_export.export(model, tmp_path / "out", samples=samples, verbose=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"quantization": "int3"}, ValueError, r"'int3'\. Expected one of: \['none', 'float16"),
        ({"mode": "file"}, ValueError, r"'file'\. Expected one of: \['both', 'files', 'signat"),
        ({"integer_io": True}, ValueError, "needs quantization='int8' or 'int16x8'.*'none'"),
        ({"accuracy": {"mood": 1.0}}, ValueError, r"keyed by tasks.*Received: \['mood'\]"),
        ({"quantization": "int8"}, ValueError, "needs `representative_data`. Received: None"),
        (
            {"quantization": "int8", "representative_data": np.ones((15, 6))},
            ValueError,
            "at least 16 samples. Received: 15. Pass 100 or more",
        ),
        (
            {"quantization": "int16x8", "representative_data": np.ones((20, 5))},
            ValueError,
            r"`representative_data` must be an array of shape \(n, 6\).*shape \(20, 5\)",
        ),
        ({"combinations": ["mood"]}, ValueError, r"\['mood'\] are unknown.*'digit', 'speaker'"),
        ({"combinations": [("digit", "mood")]}, ValueError, r"\['mood'\] are unknown"),
        ({"combinations": [[]]}, ValueError, "must name tasks.*Received: \\[\\]"),
        ({"combinations": []}, ValueError, "`combinations` is empty"),
        ({"combinations": "digit"}, TypeError, r"must be 'all' or a list.*\['digit'\]"),
        ({"combinations": [3]}, TypeError, "A combination must be a sequence.*Received: 3"),
        ({"samples": np.zeros((4, 5))}, ValueError, r"\(n, 6\).*Received: shape \(4, 5\)"),
        ({"samples": np.zeros((0, 6))}, ValueError, r"n >= 1. Received: shape \(0, 6\)"),
        ({"samples": np.full((2, 6), np.nan)}, ValueError, "`samples` must be finite"),
        ({"samples": np.zeros((2, 6), complex)}, TypeError, "float32. Received: complex128"),
    ],
)
def test_bad_arguments(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        tflite_export.export(small_model(), tmp_path / "out", verbose=0, **arguments)
    assert list(tmp_path.iterdir()) == []


def _diverged_model():
    model = small_model()
    kernel, bias = model.layers[1].get_weights()
    kernel[2, 1] = np.nan
    model.layers[1].set_weights([kernel, bias])
    return model


def _named_input(name):
    signal = keras.Input((6,), name=name)
    return keras.Model(signal, layers.Dense(3)(signal))


def _unknown_size():
    signal = keras.Input((None, 6))
    return keras.Model(signal, layers.Conv1D(3, 1)(signal))


class _Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (_diverged_model, ValueError, r"NaN or infinity in 'dense\w*/kernel'"),
        (lambda: _named_input("my signal"), ValueError, "Received: 'my signal'. Use letters"),
        (_unknown_size, ValueError, r"fixed but for the batch. Received: \(None, None, 6\)"),
        (lambda: keras.Sequential([layers.Dense(2)]), ValueError, "must be built"),
        (_Subclassed, TypeError, "functional or sequential"),
        (lambda: "model.keras", TypeError, "must be a keras.Model.*'model.keras'"),
    ],
)
def test_models_that_cannot_be_exported(tmp_path, build, error, message):
    with pytest.raises(error, match=message):
        tflite_export.export(build(), tmp_path / "out", verbose=0)
    assert list(tmp_path.iterdir()) == []


def test_model_whose_own_output_is_not_finite(tmp_path):
    model = _plain_model(layers.Lambda(lambda x: keras.ops.log(x) * 0, name="digit"))
    samples = -np.ones((2, 6))
    with pytest.raises(ValueError, match="own output for 'digit' holds NaN"):
        tflite_export.export(model, tmp_path / "out", samples=samples, verbose=0)


def test_head_that_was_never_trained(tmp_path):
    model = small_model()
    head = model.get_layer(model.output["digit"]._keras_history.operation.name)
    kernel, bias = head.get_weights()
    head.set_weights([kernel, 0 * bias])
    with pytest.warns(UserWarning, match="last layer of task 'digit', is zero throughout"):
        tflite_export.export(model, tmp_path / "out", verbose=0)
    head.set_weights([0 * kernel, bias])
    with pytest.raises(ValueError, match="output for 'digit' is the same for all 16 inputs"):
        tflite_export.export(model, tmp_path / "other", verbose=0)
    assert not (tmp_path / "other").exists()
