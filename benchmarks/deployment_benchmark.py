"""Sizes, errors, accuracy and latencies of exported networks: every mode and quantisation.

One command, from the repository's root:

    python -m benchmarks.deployment_benchmark

Trains the demo's spoken-digit networks (digit and speaker; and a third one for odd or even),
merges two and three of them, fine-tunes or compresses them, exports each in every quantisation
together with the networks alone in the same quantisation, and measures all of it in one run per
quantisation. The part `combinations` has every combination in float32, `quantizers` compares what
quantises, `converter` a single conversion of all combinations with ours. The part `large` measures
larger networks of random weights (latency does not depend on them), float32, merged, and merged and
pruned, tuned by measurement and by the rule of thumb, against the networks alone, or pruned alone
by as much. Writes
benchmarks/results/deployment_*.json and .md, and the tables of docs/deployment.md.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import tempfile
from typing import Any

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tflite_export
import tfmot_pam
from benchmarks import quantizers, results_io
from examples import spoken_digits as demo
from tflite_export import verify
from tflite_export.compile.quantization import QUANTIZATIONS

_TRAINING = flags.DEFINE_integer("training_epochs", 12, "Epochs of training per network.")
_TUNING = flags.DEFINE_integer("tuning_epochs", 3, "Epochs of fine-tuning.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each signature is timed.")
_RUNS = flags.DEFINE_integer("runs", 50, "Timed runs per signature and round.")
_PARTS = flags.DEFINE_list(
    "parts",
    ["trained", "combinations", "quantizers", "converter", "large"],
    "Which parts to run.",
)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Directory of the results.")
_DOCS = flags.DEFINE_string("docs", "docs/deployment.md", "The page with the tables; '' for none.")

TASKS = ("digit", "speaker", "parity")


def load(split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The demo's data with a third task: whether the digit is odd."""
    x, labels = demo.load_data(str(demo.ARCHIVE), split)
    return x, {**labels, "parity": labels["digit"] % 2}


def build_network(task: str, mean: float, std: float) -> keras.Model:
    """The demo's network with as many classes as the task has."""
    network = demo.build_network("digit", mean, std)
    classes = demo.CLASSES.get(task, 2)
    outputs = layers.Dense(classes, activation="softmax", name=task)(network.layers[-2].output)
    return keras.Model(network.input, outputs, name=f"{task}_network")


def large_network(classes: int) -> keras.Model:
    """The demo's form at twice the size and twice the width: 41 million MACs."""
    inputs = x = keras.Input((64, 64, 1), name="image")
    options = {"padding": "same", "activation": "relu", "bias_initializer": "random_normal"}
    for index, filters in enumerate((32, 64, 96, 128), start=1):
        x = layers.Conv2D(filters, 3, name=f"conv{index}", **options)(x)
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    head = layers.Dense(classes, activation="softmax", bias_initializer="random_normal")
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))


def export_and_measure(merged: keras.Model, models, folder: pathlib.Path, threads, **options):
    """Exports a merged model and the networks alone, and measures them in the same run."""
    alone = {}
    for task, model in models.items():
        (file,) = tflite_export.export(model, folder / task, verbose=0, **options)
        alone[task] = file.path
    files = tflite_export.export(merged, folder / "merged", verbose=0, **options)
    measured = tflite_export.benchmark(
        folder / "merged",
        alone=alone,
        threads=threads,
        rounds=_ROUNDS.value,
        runs=_RUNS.value,
        verbose=0,
    )
    return files, measured


def accuracy_of(file, x: np.ndarray, labels) -> dict[str, float]:
    """The accuracy of each task as the exported file computes it."""
    outputs = verify.run_file(file.path, {"spectrogram": x}, file.signature)
    return {
        task: float(np.mean(outputs[task].argmax(axis=-1) == labels[task])) for task in file.tasks
    }


def trained_rows(name, merged, models, train, test) -> tuple[list[dict], list[dict]]:
    """One summary per quantisation, and the measurements behind it."""
    rows, details = [], []
    for quantization in QUANTIZATIONS:
        with tempfile.TemporaryDirectory() as folder:
            files, measured = export_and_measure(
                merged,
                models,
                pathlib.Path(folder),
                (1, 2),
                quantization=quantization,
                representative_data=train[0],
                samples=test[0],
            )
            accuracy = accuracy_of(files[-1], *test)
            details.append(
                {
                    "model": name,
                    "quantization": quantization,
                    "files": [_without_folder(dataclasses.asdict(file)) for file in files],
                    "accuracy": accuracy,
                    "benchmark": _without_folder(dataclasses.asdict(measured)),
                }
            )
            rows.append(_summary(name, quantization, files, measured, accuracy))
        print(rows[-1], flush=True)
    return rows, details


def _summary(name, quantization, files, measured, accuracy) -> dict[str, Any]:
    *own, together = files
    signatures = [one for file in files for one in file.signatures]
    largest, in_common = measured.rows[len(own) - 1], measured.rows[-1]

    def per_file(value) -> str:
        return f"{value(largest)} / {value(in_common)}"

    return {
        "model": name,
        "quantization": quantization,
        "all files, kB": f"{sum(file.bytes for file in own) / 1e3:.0f}",
        "all tasks' file, kB": f"{own[-1].bytes / 1e3:.0f}",
        "one file, kB": f"{together.bytes / 1e3:.0f}",
        "ratio": f"{together.bytes / own[-1].bytes:.3f}",
        "largest error": f"{max(one.max_abs_error for one in signatures):.1e}",
        "mean error": f"{max(one.mean_abs_error for one in signatures):.1e}",
        "same label": f"{min(one.label_agreement for one in signatures):.1%}",
        "accuracy": " / ".join(f"{100 * value:.1f}" for value in accuracy.values()),
        "ms, 1 thread": per_file(lambda row: f"{row.latency[0].median_ms:.2f}"),
        "ms, 2 threads": per_file(lambda row: f"{row.latency[1].median_ms:.2f}"),
        "memory, MB": per_file(lambda row: f"{row.peak_memory_bytes / 1e6:.1f}"),
    }


def combination_rows(name: str, file: str, measured) -> list[dict[str, Any]]:
    """Every combination against the networks alone."""
    comparisons = {(c.file, c.signature): c for c in measured.comparisons if c.threads == 1}
    rows = []
    for row in measured.rows:
        compared = comparisons[row.file, row.signature]
        latency = row.latency[0]
        rows.append(
            {
                "model": name,
                "file": file,
                "combination": row.signature,
                "MACs": f"{row.macs / 1e6:.2f} M",
                "ms": f"{latency.lowest_ms:.2f}",
                "median, highest": f"{latency.median_ms:.2f}, {latency.highest_ms:.2f}",
                "alone, ms": f"{latency.lowest_ms * compared.speedup:.2f}",
                "MACs alone / MACs": f"{compared.macs_ratio:.2f}",
                "ms alone / ms": f"{compared.speedup:.2f}",
                "realised": f"{compared.realised:.2f}",
            }
        )
    return rows


def loading_row(details: dict[str, Any]) -> dict[str, Any]:
    """What an app loads at its start and at a change of tasks, by way of shipping."""
    row = {"model": details["model"]}
    for way, loaded in details["benchmark"]["bytes_to_load"].items():
        row[f"{way}: start / change"] = f"{loaded['first'] / 1e3:.0f} / {loaded['mean'] / 1e3:.0f}"
    return row


@functools.cache
def trained_models() -> dict[str, tuple[keras.Model, dict[str, keras.Model]]]:
    """Merged models of two and three tasks, with the networks alone: fine-tuned, and compressed.

    They are compressed by the arm with groups.
    """
    train, validation = demo.hold_out(*load("train"))
    models = {
        task: demo.train_network(
            task, train[0], train[1][task], _TRAINING.value, build=build_network
        )
        for task in TASKS
    }
    found = {}
    for count in (2, 3):
        chosen = {task: models[task] for task in TASKS[:count]}
        own, held = ((x, {task: y[task] for task in chosen}) for x, y in (train, validation))
        sharing = {"share": 0.5, "samples": len(train[0])}
        merged = tfmot_pam.merge(chosen, own, **sharing, width="union", seed=0, verbose=0)
        tuned = tfmot_pam.fine_tune(merged, own, chosen, epochs=_TUNING.value, verbose=0)
        found[f"{count} tasks"] = tuned, chosen
        # The arm that has groups: a trunk would show nothing of what they cost in a file.
        search = {"arms": ["mixed"], "effort": 4 * _TUNING.value, "seed": 0}
        result = tfmot_pam.compress(chosen, own, 0.02, validation_data=held, verbose=0, **search)
        found[f"{count} tasks, compressed"] = result.model, chosen
    return found


def run_trained() -> tuple[list[dict], list[dict]]:
    rows, details = [], []
    for name, (tuned, alone) in trained_models().items():
        found = trained_rows(name, tuned, alone, load("train"), load("test"))
        rows += found[0]
        details += found[1]
    return rows, details


def run_combinations() -> list[dict]:
    x = load("test")[0][:64]
    rows = []
    for name, (tuned, alone) in trained_models().items():
        for file, mode in {"own": "files", "one file": "signatures"}.items():
            with tempfile.TemporaryDirectory() as folder:
                _, measured = export_and_measure(
                    tuned, alone, pathlib.Path(folder), (1,), mode=mode, samples=x
                )
            rows += combination_rows(name, file, measured)
    print(*rows, sep="\n", flush=True)
    return rows


def run_quantizers() -> tuple[list[dict], list[dict]]:
    rows, details = [], []
    for name in ("2 tasks", "3 tasks"):
        tuned, _ = trained_models()[name]
        data = load("train"), load("test")
        found = quantizers.quantizer_rows(name, tuned, *data, accuracy_of, _TUNING.value)
        print(*found[0], sep="\n", flush=True)
        rows += found[0]
        details += found[1]
    return rows, details


def run_converter() -> list[dict]:
    x = load("train")[0][:100].astype("float32")
    rows = quantizers.converter_rows(trained_models()["3 tasks"][0], x)
    print(*rows, sep="\n", flush=True)
    return rows


# How the files of the second part are made: the mode and the tuning.
LARGE_FILES = {
    "own, none": ("files", "none"),
    "own, measured": ("files", "measure"),
    "own, estimated": ("files", "estimate"),
    "one file, measured": ("signatures", "measure"),
}


def large_models() -> dict[str, tuple[keras.Model, dict[str, keras.Model]]]:
    """Merged models, each with the networks alone that it is compared with, by name."""
    models = {"first": large_network(10), "second": large_network(7)}
    x = np.random.default_rng(0).normal(size=(64, 64, 64, 1)).astype("float32")
    found = {}
    for name, options in {
        "nothing shared": {"method": "separate"},
        "half shared": {"method": "random", "share": 0.5},
        "all shared": {"method": "shared"},
    }.items():
        merged = tfmot_pam.merge(models, x, width="union", seed=0, verbose=0, **options)
        found[name] = merged, models
        for multiple in (1, 16) if name == "half shared" else ():
            alone = {task: _pruned(model, multiple) for task, model in models.items()}
            found[f"{name}, pruned, multiples of {multiple}"] = _pruned(merged, multiple), alone
    return found


def _pruned(model: keras.Model, multiple: int) -> keras.Model:
    """The model without the smallest 40 % of each layer's channels."""
    gated = tfmot_pam.prune_channels(
        model, 0.4, "magnitude", scope="per-layer", width_multiple=multiple
    )
    return tfmot_pam.strip_pruning(gated)


def run_large() -> list[dict]:
    x = np.random.default_rng(1).normal(size=(8, 64, 64, 1)).astype("float32")
    rows = []
    for name, (merged, models) in large_models().items():
        for file, (mode, tune) in LARGE_FILES.items():
            with tempfile.TemporaryDirectory() as folder:
                _, measured = export_and_measure(
                    merged, models, pathlib.Path(folder), (1,), mode=mode, samples=x, tune=tune
                )
            rows += combination_rows(name, file, measured)
            print(*rows[-3:], sep="\n", flush=True)
    return rows


def _without_folder(value: Any) -> Any:
    """Paths without the temporary folder, ready for JSON."""
    if isinstance(value, dict):
        return {key: _without_folder(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folder(entry) for entry in value]
    if isinstance(value, (str, pathlib.Path)) and str(value).startswith(tempfile.gettempdir()):
        return "/".join(pathlib.Path(value).parts[-2:])
    return value


def write_into_page(path: pathlib.Path, tables: dict[str, str]) -> None:
    """Replaces what stands between the page's comments that name the tables."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        text = re.sub(
            f"{marks[0]}.*?{marks[1]}",
            lambda _, marks=marks, table=table: f"{marks[0]}\n{table}\n{marks[1]}",
            text,
            flags=re.DOTALL,
        )
    path.write_text(text, encoding="utf-8")


def main(argv):
    del argv
    keras.utils.set_random_seed(0)
    tables = {}
    if "trained" in _PARTS.value:
        rows, details = run_trained()
        tables["trained"] = _write("trained", rows, details)
        floats = [one for one in details if one["quantization"] == "none"]
        tables["loading"] = results_io.markdown_table([loading_row(one) for one in floats])
    if "combinations" in _PARTS.value:
        tables["combinations"] = _write("combinations", run_combinations(), [])
    if "quantizers" in _PARTS.value:
        tables["quantizers"] = _write("quantizers", *run_quantizers())
    if "converter" in _PARTS.value:
        tables["converter"] = _write("converter", run_converter(), [])
    if "large" in _PARTS.value:
        tables["large"] = _write("large", run_large(), [])
    if _DOCS.value:
        write_into_page(pathlib.Path(_DOCS.value), tables)


def _write(part: str, rows: list[dict], details: list[dict]) -> str:
    table = results_io.markdown_table(rows)
    data = {"rows": rows, "details": details}
    results_io.write(_OUTPUT.value, f"deployment_{part}", f"# Deployment: {part}\n\n{table}", data)
    return table


if __name__ == "__main__":
    app.run(main)
