"""The program `tfmot-pam`: every command as it is called, what it leaves, what it refuses."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras
from absl import flags

import tfmot_pam
from tests.small_nets import classes, dense_net, vectors
from tflite_export.programs import compress, merge, pam, report
from tflite_export.verify import run_file

COMMANDS = {"merge": merge, "compress": compress, "report": report}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two trained models, a third, and data for all."""
    folder = tmp_path_factory.mktemp("programs")
    x = vectors(140)
    arrays = {"x": x}
    for seed, (task, number) in enumerate({"a": 3, "b": 2, "c": 2}.items()):
        arrays[task] = classes(x, number, seed=seed)
        model = dense_net(seed, (12, 10), number, name=task)
        model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
        model.jit_compile = False
        model.fit(x, arrays[task], epochs=10, verbose=0)
        model.save(folder / f"{task}.keras")
    np.savez(folder / "train.npz", **{name: arrays[name] for name in ("x", "a", "b")})
    np.savez(folder / "three.npz", **arrays)
    np.savez(folder / "other.npz", x=x[:, :3], a=arrays["a"])
    return folder


def _call(command, *arguments):
    values = flags.FlagValues()
    COMMANDS[command].define_flags(values)
    values([command, *map(str, arguments)])
    return COMMANDS[command].main([command], values)


def _models(folder, *tasks, flag="model"):
    return [f"--{flag}={task}={folder / f'{task}.keras'}" for task in tasks]


@pytest.fixture(scope="module")
def merged(folder):
    arguments = [f"--data={folder / 'train.npz'}", f"--output_dir={folder / 'merged'}"]
    assert _call("merge", *_models(folder, "a", "b"), *arguments, "--verbose=0") == 0
    return folder / "merged"


def test_merging(folder, merged):
    assert {path.name for path in merged.iterdir()} == {
        *("model.keras", "plan.json", "report.json", "report.csv")
    }
    model = keras.saving.load_model(merged / "model.keras")
    originals = {t: keras.saving.load_model(folder / f"{t}.keras") for t in ("a", "b")}
    with np.load(folder / "train.npz") as arrays:
        data = (arrays["x"], {task: arrays[task] for task in originals})
    expected = tfmot_pam.merge(originals, data, verbose=0)
    for task, values in expected(data[0]).items():
        np.testing.assert_allclose(model(data[0])[task], values, atol=1e-5)
    assert tfmot_pam.MergePlan.load(merged / "plan.json").tasks == ("a", "b")


def test_replaying_a_plan(folder, merged, tmp_path):
    arguments = [f"--data={folder / 'train.npz'}", f"--output_dir={tmp_path}", "--verbose=0"]
    plan = f"--plan={merged / 'plan.json'}"
    assert _call("merge", *_models(folder, "a", "b"), *arguments, plan, "--method=shared") == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["spaces"] == json.loads((merged / "plan.json").read_text())["spaces"]


def test_a_task_more_and_training(folder, merged, tmp_path, capsys):
    models = [f"--model={merged / 'model.keras'}", *_models(folder, "c")]
    data = f"--data={folder / 'three.npz'}"
    output = tmp_path / "out"
    assert _call("merge", *models, data, f"--output_dir={output}", "--epochs=1", "--verbose=0") == 0
    assert list(keras.saving.load_model(output / "model.keras").output) == ["a", "b", "c"]
    # Of the merged model each task counts as what it costs there.
    rows = json.loads((output / "report.json").read_text())["rows"]
    alone = tfmot_pam.report(keras.saving.load_model(merged / "model.keras")).rows
    assert [row["original_macs"] for row in rows[:2]] == [row.macs for row in alone[:2]]
    assert "a + b + c" in capsys.readouterr().out


def test_reporting(folder, merged, tmp_path, capsys):
    arguments = [f"--model={merged / 'model.keras'}", *_models(folder, "a", "b", flag="original")]
    more = [f"--data={folder / 'train.npz'}", "--usage=a:0.25,a+b:0.75", "--combinations=a+b,a"]
    assert _call("report", *arguments, *more, "--format=csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["probability"]) for row in rows if row["probability"]] == [0.75, 0.25]
    assert _call("report", *arguments, "--format=json", f"--plot={tmp_path / 'p.svg'}") == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 3
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    assert _call("report", arguments[0]) == 0
    assert "Expected MACs per run" in capsys.readouterr().out


def test_compressing_and_going_on(folder, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = [*_models(folder, "a", "b"), f"--data={folder / 'train.npz'}"]
    arguments += [f"--output_dir={output}", "--arms=separate", "--effort=2", "--target=0.9"]
    arguments += ["--max_accuracy_drop=a:0.5,b:0.4", "--usage=a:0.5,a+b:0.5", "--verbose=0"]
    arguments += ["--batch_size=16", "--portfolio=a", "--quantization=dynamic"]
    assert _call("compress", *arguments) == 0
    assert "Separate pruning" in capsys.readouterr().out
    assert {path.name for path in (output / "tflite").iterdir()} == {
        *("a.tflite", "b.tflite", "a+b.tflite", "manifest.json", "README.md")
    }
    found = run_file(output / "tflite" / "a+b.tflite", {"vector": vectors(2)})
    assert {task: values.shape for task, values in found.items()} == {"a": (2, 3), "b": (2, 2)}
    result = json.loads((output / "result.json").read_text())
    states = sorted((output / "checkpoints").rglob("state.json"))
    times = [path.stat().st_mtime_ns for path in states]
    assert times
    assert _call("compress", *arguments, "--export=false") == 0
    assert [path.stat().st_mtime_ns for path in states] == times  # No round was made again.
    assert json.loads((output / "result.json").read_text()) == result
    capsys.readouterr()
    assert _call("compress", *arguments, "--seed=1") == 2
    assert "compression with other options" in capsys.readouterr().err
    (output / "notes.txt").touch()
    assert _call("compress", *arguments) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_one_model_with_views_and_a_metric(folder, tmp_path, capsys):
    (tmp_path / "own.py").write_text("def shifted(x, rng):\n    return x + rng.normal(0, 0.01)\n")
    arguments = [*_models(folder, "a"), f"--data={folder / 'train.npz'}", "--effort=1"]
    arguments += [
        f"--augment={tmp_path / 'own.py'}:shifted",
        "--metric=a:sparse_top_k_categorical_accuracy",
    ]
    arguments += ["--max_accuracy_drop=0.9", f"--output_dir={tmp_path / 'out'}", "--verbose=0"]
    arguments += ["--target=0.9", f"--validation_data={folder / 'one.npz'}"]
    with np.load(folder / "train.npz") as arrays:
        np.savez(folder / "one.npz", x=arrays["x"][:40], a=arrays["a"][:40])
        np.savez(folder / "train_a.npz", x=arrays["x"], a=arrays["a"])
    arguments[1] = f"--data={folder / 'train_a.npz'}"
    assert _call("compress", *arguments, "--noexport") == 0
    assert "MACs" in capsys.readouterr().out
    assert not (tmp_path / "out" / "tflite").exists()
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(result["metrics"]) == ["a"]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_models_of_tf_keras(tmp_path, capsys):
    layers, x = tf_keras.layers, vectors(32)
    for task in ("a", "b"):
        signal = tf_keras.Input((6,), name="vector")
        hidden = layers.Dense(8, activation="relu")(signal)
        tf_keras.Model(signal, layers.Dense(2, name=task)(hidden)).save(tmp_path / f"{task}.h5")
    np.savez(tmp_path / "x.npz", x=x)
    models = [f"--model={task}={tmp_path / task}.h5" for task in ("a", "b")]
    output = tmp_path / "out"
    data = f"--data={tmp_path / 'x.npz'}"
    assert _call("merge", *models, data, f"--output_dir={output}", "--verbose=0") == 0
    merged = tf_keras.models.load_model(output / "model.keras")
    assert set(merged(x)) == {"a", "b"}
    assert _call("report", f"--model={output / 'model.keras'}") == 0
    assert "a + b" in capsys.readouterr().out


# --- what is wrong, in one line -------------------------------------------------------------------

OUT, DATA = "--output_dir={out}", "--data={in}/train.npz"
A, B = "--model=a={in}/a.keras", "--model=b={in}/b.keras"
BAD = [
    ("merge", [OUT, DATA], "No --model is given"),
    ("merge", [A, A, OUT, DATA], "names the task 'a' twice"),
    ("merge", ["--model=a={in}/none.keras", B, OUT, DATA], "There is no file"),
    ("merge", ["--model=a={in}/train.npz", B, OUT, DATA], "train.npz"),
    ("merge", [A, "--model={in}/b.keras", OUT, DATA], "A model with one output"),
    ("merge", ["--model=a={in}/a.keras", "--model={in}/merged/model.keras", OUT], "the task 'a'"),
    ("merge", [A, OUT], "at least two models"),
    ("merge", [A, B, OUT, "--data={in}/none.npz"], "There is no file"),
    ("merge", [A, B, OUT, "--data={in}/three.npz"], "unknown: ['c']"),
    ("merge", [A, B, OUT, "--data={in}/other.npz"], "expected (n, 6)"),
    ("merge", [A, B, OUT, "--data={in}"], "has the tables []"),
    ("merge", [A, B, OUT, "--data=no_such_module:data"], "no_such_module"),
    ("merge", [A, B, OUT, "--data=rubbish"], "Expected a .npz file"),
    ("merge", [A, B, OUT, DATA, "--method=best"], "'best'"),
    ("merge", [A, B, OUT, DATA, "--rho=2"], "rho"),
    ("merge", [A, B, OUT, DATA, "--samples=0"], "samples"),
    ("merge", [A, B, OUT, DATA, "--plan={in}/none.json"], "none.json"),
    ("merge", [A, B, OUT, "--epochs=3"], "--epochs trains on --data"),
    ("merge", [A, B, "--output_dir={in}", DATA], "exists and is not an empty folder"),
    ("compress", [A, B, OUT, DATA, "--max_accuracy_drop=little"], "Expected name:value"),
    ("compress", [A, B, OUT, DATA, "--max_accuracy_drop=a:0.1,z:0.1"], "'z'"),
    ("compress", [A, B, OUT, DATA, "--usage=a=0.3"], "--usage has the entry 'a=0.3'"),
    ("compress", [A, B, OUT, DATA, "--usage=a:0.3,a:0.7"], "each name once"),
    ("compress", [A, B, OUT, DATA, "--usage=a:0.3"], "sum"),
    ("compress", [A, B, OUT, DATA, "--effort=0"], "effort"),
    ("compress", [A, B, OUT, DATA, "--arms=best"], "best"),
    ("compress", [A, B, OUT, DATA, "--importance=size"], "'size'"),
    ("compress", [A, B, OUT, DATA, "--metric=a:nonsense"], "nonsense"),
    ("compress", [A, B, OUT, DATA, "--portfolio=a+z"], "'z'"),
    ("compress", [A, B, OUT, DATA, "--augment=nothing"], "names no function"),
    ("compress", [A, B, OUT, DATA, "--pixel_range=1"], "Expected two numbers"),
    ("compress", [A, B, "--output_dir={in}", DATA], "exists and is not an empty folder"),
    ("report", ["--model={in}/none.keras"], "There is no file"),
    ("report", ["--model={in}/a.keras", "--combinations=z"], "'z'"),
    ("report", ["--model={in}/a.keras", "--input_shape=3,x"], "--input_shape"),
    ("report", ["--model={in}/a.keras", "--original=b={in}/b.keras"], "originals"),
]


@pytest.mark.parametrize(("command", "arguments", "message"), BAD)
def test_bad_calls_are_told_in_one_line(
    command, arguments, message, folder, merged, tmp_path, capsys
):
    assert merged.parent == folder
    places = {"in": folder, "out": tmp_path / "out"}
    named = [argument.format(**places) for argument in arguments]
    assert _call(command, *named) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert message in error


def test_stray_arguments(capsys):
    values = flags.FlagValues()
    report.define_flags(values)
    values(["report", "--model=m.keras"])
    assert report.main(["report", "stray"], values) == 2
    assert "Unexpected arguments" in capsys.readouterr().err


# --- as a process ---------------------------------------------------------------------------------


def _process(*arguments):
    command = [sys.executable, "-m", "tflite_export.programs.pam", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "no command is given"),
        (("compres",), 2, "Did you mean 'compress'?"),
        (("train",), 2, "tfmot-pam help lists them"),
        (("merge", "--modle=a"), 2, "Unknown command line flag 'modle'"),
        (("compress",), 2, "--output_dir must have a value"),
        (("report", "--model=m.keras", "--format=xml"), 2, "<table|json|csv>"),
    ],
)
def test_bad_command_lines(arguments, code, message):
    found = _process(*arguments)
    assert found.returncode == code
    assert message in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("command", pam.COMMANDS)
def test_commands_explain_themselves(command):
    found = _process(command, "--help")
    assert "--model" in found.stdout
    assert f"tfmot-pam {command}" in found.stdout
    assert found.stderr == ""


def test_help_lists_the_commands():
    assert all(f"tfmot-pam {command}" in _process("help").stdout for command in pam.COMMANDS)


def test_a_run_as_users_start_it(folder, tmp_path):
    """What a shell shows is the report, and nothing of TensorFlow's own."""
    arguments = [*_models(folder, "a", "b"), f"--data={folder / 'train.npz'}", "--verbose=0"]
    found = _process("merge", *arguments, f"--output_dir={tmp_path / 'out'}")
    assert found.returncode == 0, found.stderr
    assert "Expected MACs per run" in found.stdout
    assert found.stderr == ""
