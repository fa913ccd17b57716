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
by as much. Writes benchmarks/results/deployment_*.csv and .md, and the tables of
docs/deployment.md; what is behind the rows goes to the work folder.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tflite_export
import tfmot_pam
from benchmarks import deployment_rows, quantizers, results_io
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
_WORK = flags.DEFINE_string("work_dir", "build/deployment", "What is behind the rows.")
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
    """A row per quantisation, and the measurements behind it."""
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
            rows.append(deployment_rows.trained_row(name, quantization, files, measured, accuracy))
        print(rows[-1], flush=True)
    return rows, details


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
            rows += deployment_rows.combination_rows(name, file, measured)
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
            rows += deployment_rows.combination_rows(name, file, measured)
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


def main(argv):
    del argv
    keras.utils.set_random_seed(0)
    tables = {}
    if "trained" in _PARTS.value:
        rows, details = run_trained()
        tables["trained"] = _write("trained", rows, deployment_rows.shown_trained, details)
        floats = [deployment_rows.shown_loading(r) for r in rows if r["quantization"] == "none"]
        tables["loading"] = results_io.markdown_table(floats)
    if "combinations" in _PARTS.value:
        shown = deployment_rows.shown_combination
        tables["combinations"] = _write("combinations", run_combinations(), shown)
    if "quantizers" in _PARTS.value:
        rows, details = run_quantizers()
        tables["quantizers"] = _write("quantizers", rows, deployment_rows.shown_quantizer, details)
    if "converter" in _PARTS.value:
        tables["converter"] = _write("converter", run_converter(), deployment_rows.shown_converter)
    if "large" in _PARTS.value:
        tables["large"] = _write("large", run_large(), deployment_rows.shown_combination)
    if _DOCS.value:
        results_io.write_parts(pathlib.Path(_DOCS.value), tables)


def _write(
    part: str,
    rows: list[dict],
    shown: Callable[[dict], dict[str, str]],
    details: Sequence[dict] = (),
) -> str:
    """Writes a part's page, and what is behind it; returns its table."""
    if details:
        results_io.write_raw(pathlib.Path(_WORK.value, f"{part}.json"), details)
    table = results_io.markdown_table([shown(row) for row in rows])
    results_io.write(_OUTPUT.value, f"deployment_{part}", f"# Deployment: {part}\n\n{table}", rows)
    return table


if __name__ == "__main__":
    app.run(main)
