"""Tests of the export program: flags, exit codes, and one run as users run it."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras
from absl import flags
from keras import layers

import tfmot_pam
from tflite_export import verify
from tflite_export.programs import export


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    signal = keras.Input((6,), name="signal")
    tasks = ("digit", "speaker")
    hidden = tfmot_pam.TaskGroup(layers.Dense(5, activation="relu"), tasks)(signal)
    heads = {
        task: tfmot_pam.TaskGroup(layers.Dense(3, bias_initializer="ones"), (task,))(hidden)
        for task in tasks
    }
    path = tmp_path_factory.mktemp("model") / "m.keras"
    keras.Model(signal, heads).save(path)
    return path


def _main(*arguments, left_over=()):
    values = flags.FlagValues()
    export.define_flags(values)
    values(["tflite-export", *arguments])
    return export.main(["tflite-export", *left_over], values)


def _process(*arguments):
    command = [sys.executable, "-m", "tflite_export.programs.export", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_program_exports_and_prints_a_table(saved_model, tmp_path):
    output, samples = tmp_path / "out", tmp_path / "x.npz"
    np.savez(samples, x=np.random.default_rng(0).normal(size=(4, 6)))
    result = _process(
        f"--model={saved_model}",
        f"--output_dir={output}",
        "--combinations=speaker,digit+speaker",
        "--quantization=dynamic",
        f"--samples={samples}",
    )
    assert result.returncode == 0, result.stderr
    assert {path.name for path in output.iterdir()} == {
        "speaker.tflite",
        "digit+speaker.tflite",
        "all_combinations.tflite",
        "manifest.json",
        "README.md",
    }
    assert "speaker.tflite" in result.stdout
    assert result.stderr == ""
    x = {"signal": np.ones((1, 6), "float32")}
    assert set(verify.run_file(output / "digit+speaker.tflite", x)) == {"digit", "speaker"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir=out"], "--model must have a value"),
        (["--model=m.keras"], "--output_dir must have a value"),
        (
            ["--model=m.keras", "--output_dir=out", "--quantization=int3"],
            "<none|float16|dynamic|int8|int16x8>",
        ),
        (["--model=m.keras", "--output_dir=out", "--nonsense=1"], "nonsense"),
    ],
)
def test_bad_flags_end_the_program(arguments, message):
    result = _process(*arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_bad_values_are_explained(saved_model, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("not an array")
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    model, output = f"--model={saved_model}", f"--output_dir={tmp_path / 'out'}"
    cases = [
        ([f"--model={tmp_path / 'none.keras'}", output], "There is no file"),
        ([f"--model={tmp_path / 'notes.txt'}", output], "notes.txt"),
        ([model, output, "--combinations=digit,singer"], "['singer'] are unknown"),
        ([model, output, f"--samples={tmp_path / 'none.npz'}"], "Cannot read"),
        ([model, output, f"--samples={tmp_path / 'notes.txt'}"], "Cannot read"),
        ([model, output, f"--samples={tmp_path / 'two.npz'}"], "dict of arrays for the inputs"),
        ([model, output, "--quantization=int8"], "needs `representative_data`"),
        ([model, output, f"--representative_data={tmp_path / 'none.npy'}"], "Cannot read"),
        ([model, output, "--input_shape=6,x"], "Expected whole numbers separated by commas"),
        ([model, output, "--input_shape=7"], "its own where they are fixed"),
        ([model, f"--output_dir={tmp_path}"], "exists and is not empty"),
    ]
    for arguments, message in cases:
        assert _main(*arguments) == 2
        assert message in capsys.readouterr().err
    assert _main(model, output, left_over=["stray"]) == 2
    assert "Unexpected arguments. Received: ['stray']" in capsys.readouterr().err


def test_models_of_any_size_are_exported_at_one(tmp_path):
    signal = keras.Input((None, 2), name="signal")
    h = layers.GlobalMaxPooling1D()(layers.Conv1D(3, 3, bias_initializer="ones")(signal))
    keras.Model(signal, {"a": layers.Dense(2, name="a")(h)}).save(tmp_path / "m.keras")
    arguments = [f"--model={tmp_path / 'm.keras'}", f"--output_dir={tmp_path / 'out'}"]
    assert _main(*arguments) == 2
    assert _main(*arguments, "--input_shape=16,2") == 0
    assert (tmp_path / "out" / "a.tflite").exists()


@pytest.mark.slow
def test_all_combinations_and_overwrite_from_npy(saved_model, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones((2, 6)))
    arguments = [
        f"--model={saved_model}",
        f"--output_dir={tmp_path / 'out'}",
        f"--samples={tmp_path / 'x.npy'}",
    ]
    assert _main(*arguments, "--combinations=digit") == 0
    assert _main(*arguments, "--overwrite") == 0
    assert len(list((tmp_path / "out").glob("*.tflite"))) == 4
    assert "digit+speaker.tflite" in capsys.readouterr().out


def _aware_model():
    image = tf_keras.Input((8, 8, 1), name="image")
    x = tf_keras.layers.Conv2D(4, 3, activation="relu")(image)
    # TFMOT cannot quantise this layer; quantize_model then quantises its outputs.
    x = tf_keras.layers.Flatten()(tf_keras.layers.LayerNormalization()(x))
    heads = {task: tf_keras.layers.Dense(3, name=task)(x) for task in ("digit", "speaker")}
    model = tfmot_pam.quantize_model(tf_keras.Model(image, heads))
    model.compile("adam", {task: "mse" for task in heads})
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    model.fit(x, {task: x[:, 0, :3, 0] for task in heads}, verbose=0)
    return model, x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5", "ignore:quantize_model")
def test_saved_tf_keras_models_in_fresh_processes(tmp_path, capsys):
    model, x = _aware_model()
    model.save(tmp_path / "aware.h5")
    np.save(tmp_path / "x.npy", x)
    options = [f"--output_dir={tmp_path / 'out'}", "--quantization=int8"]
    options += [f"--samples={tmp_path / 'x.npy'}"]
    result = _process(f"--model={tmp_path / 'aware.h5'}", *options)
    assert result.returncode == 0, result.stderr
    expected = model(x, training=False)
    for name in ("digit", "speaker", "digit+speaker"):
        found = verify.run_file(tmp_path / "out" / f"{name}.tflite", {"image": x})
        for task, values in found.items():
            assert verify.rms_error(values, expected[task]) < 0.2
    model.save(tmp_path / "aware.keras")
    assert _main(f"--model={tmp_path / 'aware.keras'}", *options, "--overwrite") == 2
    assert "TFMOT's layers load from an .h5 file only" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_plain_tf_keras_models(ending, tmp_path):
    signal = tf_keras.Input((6,), name="signal")
    head = tf_keras.layers.Dense(2, name="digit", bias_initializer="ones")
    path = tmp_path / f"plain.{ending}"
    tf_keras.Model(signal, {"digit": head(signal)}).save(path)
    assert _main(f"--model={path}", f"--output_dir={tmp_path / 'out'}") == 0
    assert (tmp_path / "out" / "digit.tflite").exists()


def test_integers_in_one_file(saved_model, tmp_path, capsys):
    data = tmp_path / "x.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(20, 6)))
    arguments = ["--quantization=int8", "--integer_io", "--mode=signatures"]
    paths = [f"--model={saved_model}", f"--output_dir={tmp_path / 'out'}"]
    assert _main(*paths, *arguments, f"--representative_data={data}") == 0
    (path,) = (tmp_path / "out").glob("*.tflite")
    tensor = verify.describe_file(path)["digit+speaker"]["outputs"]["speaker"]
    assert (tensor["dtype"], tensor["shape"]) == ("int8", [1, 3])
    assert tensor["scale"] > 0
    assert "all_combinations.tflite" in capsys.readouterr().out


def test_installed_script_explains_itself():
    program = "from tflite_export.programs.export import run; run()"
    command = [sys.executable, "-c", program, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Exports a saved multi-head Keras model" in result.stdout
    for flag in (
        "--model",
        "--mode: <both|files|signatures>",
        "--quantizer: <converter|ai-edge-quantizer>",
        "--representative_data",
    ):
        assert flag in result.stdout
