"""Tests of the benchmark: the vendor's tool runs, and what is computed from its times is right."""

import builtins
import dataclasses
import json
import subprocess
import sys

import keras
import pytest
from keras import layers

import tflite_export
from tflite_export.bench import benchmarking, footprint, latency_tool, loading_cost


def _model(tasks=("digit", "speaker")):
    keras.utils.set_random_seed(0)
    signal = keras.Input((6,), name="signal")
    hidden = layers.Dense(5, activation="relu")(signal)
    heads = {task: layers.Dense(3, bias_initializer="ones")(hidden) for task in tasks}
    return keras.Model(signal, heads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    tflite_export.export(_model(), root / "out", verbose=0)
    for task in ("digit", "speaker"):
        tflite_export.export(_model([task]), root / task, verbose=0)
    return root


@pytest.fixture(scope="module")
def result(folder):
    alone = {task: folder / task / f"{task}.tflite" for task in ("digit", "speaker")}
    return tflite_export.benchmark(
        folder / "out", alone=alone, threads=[1], runs=5, warmup=1, rounds=2, verbose=0
    )


def test_every_signature_is_measured(result):
    measured = [(row.file, row.signature, row.macs) for row in result.rows]
    files = ["digit.tflite", "speaker.tflite", "digit+speaker.tflite"]
    signatures = [("digit", 45), ("speaker", 45), ("digit+speaker", 60)]
    assert measured == [
        *((file, *signature) for file, signature in zip(files, signatures, strict=True)),
        *(("all_combinations.tflite", *signature) for signature in signatures),
    ]
    for row in (*result.rows, *result.alone):
        (latency,) = row.latency
        assert 0 <= latency.lowest_ms <= latency.median_ms <= latency.highest_ms
        assert latency.init_ms > 0
        assert row.peak_memory_bytes > row.bytes
    assert all(0 <= row.max_abs_error < 1e-4 for row in result.rows)
    assert [row.tasks for row in result.alone] == [("digit",), ("speaker",)]
    assert [row.macs for row in result.alone] == [45, 45]
    assert [one.macs_ratio for one in result.comparisons] == [1, 1, 1.5] * 2


def test_folder_is_updated(folder, result):
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    written = json.loads((folder / "out" / "benchmark.json").read_text())
    assert [row["signature"] for row in written["rows"]] == [row.signature for row in result.rows]
    for entry, row in zip(manifest["files"], result.rows[:3], strict=False):
        assert entry["signatures"][0]["latency_ms"] == {"1": row.latency[0].median_ms}
    card = (folder / "out" / "README.md").read_text()
    assert "| ms, 1 thread |" in card
    assert {path.name for path in (folder / "out").iterdir()} == {
        *(entry["file"] for entry in manifest["files"]),
        *manifest["other_files"],
        "manifest.json",
    }
    # What the benchmark wrote does not stand in the way of the next export.
    tflite_export.export(_model(), folder / "out", overwrite=True, verbose=0)
    assert not (folder / "out" / "benchmark.json").exists()


def test_printed_as_a_table(result):
    heading, _, *lines = str(result).splitlines()
    assert (
        heading.split()
        == "file signature bytes MACs ms, 1 thread memory largest error speed-up".split()
    )
    assert len(lines) == 8
    assert lines[3].split()[:2] == ["all_combinations.tflite", "digit"]


class ZMQInteractiveShell:
    """The name by which rich knows that it runs in a notebook."""


def test_printed_in_a_notebook(result, monkeypatch):
    text = str(result)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert str(result) == text


def _measurement(tasks, macs, *medians):
    latency = [
        latency_tool.Latency(threads, ms, ms, ms, ms, 1.0)
        for threads, ms in enumerate(medians, start=1)
    ]
    return benchmarking.Measurement("f", "+".join(tasks), tasks, 10, macs, tuple(latency), 1)


def test_comparison_with_single_networks():
    rows = [_measurement(("a", "b"), 30, 2.0, 1.0), _measurement(("a", "c"), 30, 2.0, 1.0)]
    alone = [_measurement(("a",), 20, 1.5, 1.5), _measurement(("b",), 40, 1.5, 2.5)]
    one, two = benchmarking._comparisons(rows, alone)
    assert dataclasses.astuple(one) == ("f", "a+b", 1, 1.5, 2.0, 0.75)
    assert dataclasses.astuple(two) == ("f", "a+b", 2, 4.0, 2.0, 2.0)


def test_latency_over_rounds():
    rounds = [{"median_ms": ms, "p95_ms": 2 * ms, "init_ms": 7.0} for ms in (3.0, 1.0, 2.0)]
    assert latency_tool.summarise(4, rounds) == latency_tool.Latency(4, 2.0, 1.0, 3.0, 4.0, 7.0)


def test_bytes_to_load_against_single_networks():
    def file(size, *signatures):
        found = [{"name": "+".join(tasks), "tasks": tasks} for tasks in signatures]
        return {"file": str(size), "bytes": size, "signatures": found}

    combinations = [["a"], ["b"], ["a", "b"]]
    sizes = [10, 20, 24]
    files = [file(size, tasks) for size, tasks in zip(sizes, combinations, strict=True)]
    manifest = {"files": [*files, file(25, *combinations)]}
    found = loading_cost.bytes_to_load(manifest, {"a": 11, "b": 19})
    assert found["files"] == {"first": 18, "mean": 18, "largest": 24}
    assert found["signatures"] == {"first": 25, "mean": 0, "largest": 0}
    # a -> b and a -> ab load b; b -> a and b -> ab load a; from both nothing is missing.
    assert found["alone"] == {"first": 20, "mean": 10, "largest": 19}
    assert "alone" not in loading_cost.bytes_to_load(manifest, {"a": 11})
    assert loading_cost.bytes_to_load({"files": files[:1]})["files"]["mean"] == 0


def test_bad_arguments(folder, tmp_path):
    out = folder / "out"
    cases = [
        (tmp_path, {}, r"holds no readable manifest.json"),
        (out, {"runs": 0}, "`runs` must be at least 1. Received: 0"),
        (out, {"rounds": -1}, "`rounds` must be at least 1"),
        (out, {"threads": [2, 0]}, "`threads` must be at least 1"),
        (out, {"alone": {"mood": "x.tflite"}}, r"Received: \['mood'\]. The tasks are"),
        (out, {"alone": {"digit": tmp_path / "x.tflite"}}, "There is no file"),
        (
            out,
            {"alone": {"digit": out / "all_combinations.tflite"}},
            "must have one signature. Received: .*digit\\+speaker",
        ),
    ]
    for directory, arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            tflite_export.benchmark(directory, verbose=0, **arguments)


def test_manifest_of_another_schema(folder, tmp_path):
    (tmp_path / "manifest.json").write_text('{"schema_version": 99, "files": []}')
    with pytest.raises(ValueError, match="schema version 99; expected 1. Export the model again"):
        tflite_export.benchmark(tmp_path)


def test_tools_name_what_they_cannot_run(folder, tmp_path):
    path = folder / "out" / "digit.tflite"
    with pytest.raises(ValueError, match="'mood' of .*digit.tflite.*not found"):
        latency_tool.run_tool(path, "mood", threads=1, runs=1, warmup=0)
    with pytest.raises(ValueError, match="Signature 'mood' of .* cannot be run"):
        footprint.peak_memory(path, "mood")


def test_memory_grows_with_the_weights(tmp_path):
    grown = []
    for units in (8, 2048):
        signal = keras.Input((512,), name="signal")
        hidden = layers.Dense(units)(signal)
        model = keras.Model(signal, {"digit": layers.Dense(2, bias_initializer="ones")(hidden)})
        (file,) = tflite_export.export(model, tmp_path / str(units), verbose=0)
        grown.append(footprint.peak_memory(file.path, "digit"))
    assert grown[1] - grown[0] > 4 * 512 * 2000


def test_program_measures_and_writes_json(folder, tmp_path):
    alone = ",".join(f"{task}={folder / task / task}.tflite" for task in ("digit", "speaker"))
    command = [sys.executable, "-m", "tflite_export.programs.benchmark"]
    options = [f"--directory={folder / 'digit'}", f"--alone={alone.split(',')[0]}", "--runs=2"]
    output = tmp_path / "b.json"
    more = ["--rounds=1", "--threads=1,2", "--noupdate", f"--output={output}"]
    done = subprocess.run([*command, *options, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ms, 2 threads" in done.stdout
    assert [one["threads"] for one in json.loads(output.read_text())["comparisons"]] == [1, 2]
    assert not (folder / "digit" / "benchmark.json").exists()
    bad = subprocess.run(
        [*command, f"--directory={folder / 'digit'}", "--alone=digit"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode == 2
    assert "--alone takes task=file.tflite, separated by commas. Received: 'digit'" in bad.stderr
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert "--rounds" in help_text.stdout


def test_measuring_imports_no_tensorflow(folder):
    program = (
        "import sys, tflite_export\n"
        "tflite_export.benchmark(sys.argv[1], runs=1, rounds=1, threads=[1], verbose=0)\n"
        "print([name for name in ('keras', 'tensorflow', 'tfmot_pam') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, str(folder / "speaker")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
