"""What quantises best: the converter, ai-edge-quantizer or quantisation aware training.

Two parts of benchmarks.deployment_benchmark, which trains the networks and writes the tables.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

import tflite_export
import tfmot_pam
from benchmarks.deployment_rows import agreement
from tflite_export import verify
from tflite_export.compile import packing, subnetworks
from tflite_export.compile.converter import convert, traced_module
from tflite_export.compile.model_inputs import inputs_of
from tflite_export.compile.quantization import QUANTIZATIONS, QUANTIZERS, Quantization

# The machine is busy: the least disturbed of many rounds, in which all files take turns.
_ROUNDS = 15
_AWARE = "training"


def available_quantizers() -> list[str]:
    """The quantisers that are installed."""
    missing = importlib.util.find_spec("ai_edge_quantizer") is None
    return [name for name in QUANTIZERS if not (missing and name == "ai-edge-quantizer")]


def quantizer_rows(
    name: str,
    model: Any,
    train: tuple[np.ndarray, Mapping[str, np.ndarray]],
    test: tuple[np.ndarray, Mapping[str, np.ndarray]],
    accuracy_of: Callable[..., dict[str, float]],
    epochs: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every quantisation by every quantiser, for one trained model: the rows and what is behind.

    Args:
        name: What the model is called.
        model: The trained multi-head model.
        train: Inputs, and labels by task, to learn ranges from.
        test: The same, to check and to count right answers on.
        accuracy_of: Counts the right answers of an exported file, by task.
        epochs: Epochs of quantisation aware training.
    """
    jobs = [
        (quantization, quantizer, model)
        for quantization in QUANTIZATIONS
        for quantizer in available_quantizers()
        if quantization in QUANTIZERS[quantizer]
    ]
    jobs.append(("int8", _AWARE, _train_aware(model, train, epochs)))
    rows, details = [], []
    with tempfile.TemporaryDirectory() as folder:
        exported = [
            _export(job, pathlib.Path(folder, str(index)), train[0], test[0])
            for index, job in enumerate(jobs)
        ]
        times = _lowest_times([files[-2].path for files in exported])
        for (quantization, quantizer, _), files, time in zip(jobs, exported, times, strict=True):
            accuracy = accuracy_of(files[-2], *test)
            rows.append(_row(name, quantization, quantizer, files, accuracy, time))
            details.append({**rows[-1], "files": [_numbers(file) for file in files]})
    order = list(QUANTIZATIONS)
    rows.sort(key=lambda row: order.index(row["quantization"]))
    return rows, details


def _train_aware(model: Any, train, epochs: int) -> Any:
    """The model after quantisation aware training on the labels."""
    import tf_keras

    x, labels = train
    aware = tfmot_pam.quantize_model(model)
    losses = {task: "sparse_categorical_crossentropy" for task in aware.output}
    aware.compile(tf_keras.optimizers.Adam(5e-4), losses)
    wanted = {task: labels[task] for task in aware.output}
    aware.fit(x, wanted, batch_size=32, epochs=epochs, verbose=0)
    return aware


def _export(job: tuple[str, str, Any], folder: pathlib.Path, train, test):
    quantization, quantizer, model = job
    options = {"representative_data": train, "quantizer": quantizer}
    return tflite_export.export(
        model,
        folder,
        quantization=quantization,
        samples=test,
        verbose=0,
        **({} if quantizer == _AWARE else options),
    )


def _lowest_times(paths: list[pathlib.Path]) -> list[float]:
    rounds = [[tflite_export.measure_latency(path) for path in paths] for _ in range(_ROUNDS)]
    return np.min(rounds, axis=0).tolist()


def _row(name, quantization, quantizer, files, accuracy, time) -> dict[str, Any]:
    *_, largest, together = files
    return {
        "model": name,
        "quantization": quantization,
        "quantised by": quantizer,
        "bytes": {"own": largest.bytes, "one": together.bytes},
        **agreement(files, accuracy),
        "ms": time,
    }


def _numbers(file: tflite_export.ExportedFile) -> dict[str, Any]:
    return {**dataclasses.asdict(file), "path": file.path.name}


def converter_rows(model: Any, x: np.ndarray) -> list[dict[str, Any]]:
    """One conversion of all combinations against one each, joined; what the former gets wrong.

    Args:
        model: The trained multi-head model.
        x: Inputs of shape `(n, ...)` to learn ranges from and to check on.
    """
    model = subnetworks.exportable(model)
    chosen = subnetworks.signature_names(subnetworks.choose_combinations(model.output, "all"))
    networks = subnetworks.views(model, chosen)
    inputs = {name: x for name in inputs_of(model)}
    expected = subnetworks.keras_outputs(model, inputs)
    rows = []
    for name, quantization in QUANTIZATIONS.items():
        options = {"calibration": inputs if quantization.calibrated else None}
        alone = [
            convert(network, key, quantization, **options) for key, network in networks.items()
        ]
        contents = {
            "one conversion": _converted_together(networks, quantization, x),
            "joined": packing.pack(alone),
        }
        sizes = {kind: len(content) for kind, content in contents.items()}
        errors = {
            kind: _largest_rms_error(content, inputs, expected)
            for kind, content in contents.items()
        }
        own = {"own": len(alone[-1])}
        rows.append({"quantization": name, "bytes": own | sizes, "rms error": errors})
    return rows


def _converted_together(
    networks: Mapping[str, Any], quantization: Quantization, x: np.ndarray
) -> bytes:
    """All combinations in one run of the converter, a signature each."""
    import tensorflow as tf

    module = tf.Module()
    module.parts = {name: traced_module(network) for name, network in networks.items()}
    forwards = {name: part.forward for name, part in module.parts.items()}

    def samples() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for name, network in networks.items():
            for index in range(len(x)):
                yield name, {key: x[index : index + 1] for key in inputs_of(network)}

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=forwards)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(forwards))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        quantization.configure(converter)
        if quantization.calibrated:
            converter.representative_dataset = samples
        return converter.convert()


def _largest_rms_error(content: bytes, inputs, expected) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "file.tflite")
        path.write_bytes(content)
        errors = []
        for signature in verify.describe_file(path):
            for task, values in verify.run_file(path, inputs, signature).items():
                errors.append(verify.rms_error(values, expected[task]))
    return max(errors)
