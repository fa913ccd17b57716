"""Runs TFLite files and measures how far their outputs are from what they should be.

Nothing here imports TensorFlow or Keras, so it works where only LiteRT is installed.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from tflite_export.silence import quiet_stderr


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far one output of a file is from Keras, over all samples.

    Attributes:
        max_abs_error: The largest absolute difference.
        mean_abs_error: The mean absolute difference.
        label_agreement: The share of samples (for outputs per position, of positions) whose
            largest channel is the same; None for outputs of one channel.
    """

    max_abs_error: float
    mean_abs_error: float
    label_agreement: float | None


def run_file(
    path: str | pathlib.Path, inputs: Mapping[str, np.ndarray], signature: str | None = None
) -> dict[str, np.ndarray]:
    """Runs a signature of a TFLite file on every sample, one at a time.

    Integer inputs and outputs of quantised files are converted from and to real numbers.

    Args:
        path: The `.tflite` file, whose inputs have batch size 1.
        inputs: Samples by input name, each of shape `(n, ...)` with the same n >= 1.
        signature: Name of the signature to run; None where the file has only one.

    Returns:
        Outputs by name (for files of `export`: by task), each of shape `(n, ...)`.

    Raises:
        ValueError: The file has no such signature, has several and none is named, or its inputs
            have other names.

    Example:
    >>> outputs = run_file("out/digit.tflite", {"image": images})  # doctest: +SKIP
    >>> outputs["digit"].shape  # doctest: +SKIP
    (100, 10)
    """
    runner = signature_runner(open_file(path), signature, pathlib.Path(path).name)
    details, results = runner.get_input_details(), runner.get_output_details()
    if set(inputs) != set(details):
        raise ValueError(
            f"{pathlib.Path(path).name} takes the inputs {sorted(details)}. "
            f"Received: {sorted(inputs)}. Pass one array of samples for each of its inputs."
        )
    given = {name: _to_stored(array, details[name]) for name, array in inputs.items()}
    with quiet_stderr():
        rows = [
            runner(**{name: array[index : index + 1] for name, array in given.items()})
            for index in range(len(next(iter(given.values()))))
        ]
    return {
        name: _to_real(np.concatenate([row[name] for row in rows]), results[name])
        for name in rows[0]
    }


def describe_file(
    path: str | pathlib.Path,
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Lists the signatures of a TFLite file with their inputs and outputs.

    Args:
        path: The `.tflite` file.

    Returns:
        `{signature: {"inputs": {name: tensor}, "outputs": {name: tensor}}}`. A tensor has `shape`
        and `dtype`, and `scale` and `zero_point` where its integers stand for real numbers:
        real = scale * (integer - zero_point).
    """
    interpreter = open_file(path)
    described = {}
    for signature in interpreter.get_signature_list():
        runner = signature_runner(interpreter, signature, pathlib.Path(path).name)
        tensors = {"inputs": runner.get_input_details(), "outputs": runner.get_output_details()}
        described[signature] = {
            side: {name: _describe(detail) for name, detail in details.items()}
            for side, details in tensors.items()
        }
    return described


def open_file(path: str | pathlib.Path, threads: int | None = None) -> Any:
    """Opens a TFLite file in LiteRT, without its log lines."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr():
        return Interpreter(model_path=str(path), num_threads=threads)


def signature_runner(interpreter: Any, signature: str | None, file: str) -> Any:
    """Returns the runner of a signature, or of the only one.

    Args:
        interpreter: What `open_file` returned.
        signature: The signature's name, or None.
        file: The file's name, for the message.

    Raises:
        ValueError: There is no such signature, or there are several and none is named.
    """
    existing = sorted(interpreter.get_signature_list())
    if signature is None and len(existing) == 1:
        (signature,) = existing
    if signature not in existing:
        raise ValueError(
            f"{file} has the signatures {existing}. Received: {signature!r}. Pass one of them."
        )
    with quiet_stderr():
        return interpreter.get_signature_runner(signature)


def largest_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference: absolute up to outputs of size 1, relative beyond.

    Args:
        actual: What the file computed.
        expected: What it should compute, of the same shape.

    Returns:
        `max |actual - expected| / max(1, max |expected|)`; NaN if a value is NaN.
    """
    return max_abs_error(actual, expected) / max(1.0, float(np.max(np.abs(expected))))


def rms_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Returns the root mean square of the difference, relative to that of the expected values.

    Args:
        actual: What the file computed.
        expected: What it should compute, of the same shape.

    Returns:
        `|actual - expected| / |expected|` with Euclidean norms; NaN if a value is NaN.
    """
    difference = np.linalg.norm(np.subtract(actual, expected, dtype=np.float64))
    size = np.linalg.norm(np.asarray(expected, dtype=np.float64))
    return float(difference / max(size, np.finfo(np.float32).tiny))


def max_abs_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Returns `max |actual - expected|`; NaN if a value is NaN."""
    return float(np.max(np.abs(np.subtract(actual, expected, dtype=np.float64))))


def agreement(actual: np.ndarray, expected: np.ndarray) -> Agreement:
    """Compares one output of a file with what it should be; shapes are equal."""
    labels = None
    if expected.ndim > 1 and expected.shape[-1] > 1:
        labels = float(np.mean(actual.argmax(axis=-1) == expected.argmax(axis=-1)))
    difference = np.abs(np.subtract(actual, expected, dtype=np.float64))
    return Agreement(float(difference.max()), float(difference.mean()), labels)


def check_outputs(
    file: str,
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray], float],
    tolerance: float,
    excused: Collection[str] = (),
) -> dict[str, Agreement]:
    """Compares what a file computes with what it should compute.

    Args:
        file: The file's name, for the message.
        actual: What the file computed, by output name.
        expected: What it should compute, by output name.
        measure: Error of one output, such as `largest_error`.
        tolerance: The largest error that is still agreement.
        excused: Outputs that may be further off.

    Returns:
        The agreement of each output, in the order of `expected`.

    Raises:
        ValueError: The outputs have other names or shapes, or one is further off than
            `tolerance`.
    """
    if set(actual) != set(expected):
        raise ValueError(
            f"{file} has the outputs {sorted(actual)}; expected {sorted(expected)}. The converter "
            "renamed them: give the tasks plain names."
        )
    for task, values in expected.items():
        if actual[task].shape != values.shape:
            raise ValueError(
                f"{file} disagrees with the Keras model on '{task}': its output has shape "
                f"{actual[task].shape}, expected {values.shape}. Please report this model."
            )
        error = measure(actual[task], values)
        if not error <= tolerance and task not in excused:
            raise ValueError(
                f"{file} disagrees with the Keras model on '{task}': its "
                f"{measure.__name__.replace('_', ' ')} over {len(values)} inputs is {error:.3g}, "
                f"at most {tolerance:g} is allowed (largest absolute difference "
                f"{max_abs_error(actual[task], values):.3g}). Nothing was exported. Check with "
                "real inputs (samples), and use quantization='none' where this file's is lossier."
            )
    return {task: agreement(actual[task], values) for task, values in expected.items()}


def _describe(detail: Mapping[str, Any]) -> dict[str, Any]:
    described = {"shape": detail["shape"].tolist(), "dtype": np.dtype(detail["dtype"]).name}
    scale, zero_point = detail["quantization"]
    if scale:
        described.update(scale=float(scale), zero_point=int(zero_point))
    return described


def _to_stored(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    values, dtype = np.asarray(values), np.dtype(detail["dtype"])
    if not scale or np.issubdtype(values.dtype, np.integer):
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _to_real(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if not scale or np.issubdtype(values.dtype, np.floating):
        return values
    return ((values.astype(np.float32) - zero_point) * np.float32(scale)).astype(np.float32)
