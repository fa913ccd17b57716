"""Runs TFLite files and measures how far their outputs are from what they should be.

Nothing here imports TensorFlow or Keras, so it works where only LiteRT is installed.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflite_export.quiet import quiet_stderr

SIGNATURE = "serving_default"


def run_file(
    path: str | pathlib.Path, inputs: Mapping[str, np.ndarray], signature: str = SIGNATURE
) -> dict[str, np.ndarray]:
    """Runs a TFLite file on every sample, one at a time.

    Args:
        path: The `.tflite` file, whose inputs have batch size 1.
        inputs: Samples by input name, each of shape `(n, ...)` with the same n >= 1.
        signature: Name of the signature to run.

    Returns:
        Outputs by name (for files of `export`: by task), each of shape `(n, ...)`.

    Raises:
        ValueError: The file has no such signature, or its inputs have other names.

    Example:
    >>> outputs = run_file("out/digit.tflite", {"image": images})  # doctest: +SKIP
    >>> outputs["digit"].shape  # doctest: +SKIP
    (100, 10)
    """
    runner = _signature_runner(path, signature)
    expected = set(runner.get_input_details())
    if set(inputs) != expected:
        raise ValueError(
            f"{pathlib.Path(path).name} takes the inputs {sorted(expected)}. "
            f"Received: {sorted(inputs)}. Pass one array of samples for each of its inputs."
        )
    samples = len(next(iter(inputs.values())))
    with quiet_stderr():
        rows = [
            runner(**{name: array[index : index + 1] for name, array in inputs.items()})
            for index in range(samples)
        ]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def describe_file(
    path: str | pathlib.Path, signature: str = SIGNATURE
) -> dict[str, dict[str, dict[str, Any]]]:
    """Lists the inputs and outputs of a TFLite file's signature.

    Args:
        path: The `.tflite` file.
        signature: Name of the signature to describe.

    Returns:
        `{"inputs": {name: {"shape": [...], "dtype": "float32"}}, "outputs": {...}}`.

    Raises:
        ValueError: The file has no such signature.
    """
    runner = _signature_runner(path, signature)
    tensors = {"inputs": runner.get_input_details(), "outputs": runner.get_output_details()}
    return {
        side: {
            name: {"shape": detail["shape"].tolist(), "dtype": np.dtype(detail["dtype"]).name}
            for name, detail in details.items()
        }
        for side, details in tensors.items()
    }


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


def check_outputs(
    file: str,
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray], float],
    tolerance: float,
) -> dict[str, float]:
    """Compares what a file computes with what it should compute.

    Args:
        file: The file's name, for the message.
        actual: What the file computed, by output name.
        expected: What it should compute, by output name.
        measure: Error of one output, such as `largest_error`.
        tolerance: The largest error that is still agreement.

    Returns:
        The largest absolute error of each output, in the order of `expected`.

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
        if not error <= tolerance:
            raise ValueError(
                f"{file} disagrees with the Keras model on '{task}': its "
                f"{measure.__name__.replace('_', ' ')} over {len(values)} inputs is {error:.3g}, "
                f"at most {tolerance:g} is allowed (largest absolute difference "
                f"{max_abs_error(actual[task], values):.3g}). Nothing was exported. Check with "
                "real inputs (samples), and use quantization='none' where this file's is lossier."
            )
    return {task: max_abs_error(actual[task], values) for task, values in expected.items()}


def _signature_runner(path: str | pathlib.Path, signature: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr():
        interpreter = Interpreter(model_path=str(path))
    existing = sorted(interpreter.get_signature_list())
    if signature not in existing:
        raise ValueError(
            f"{pathlib.Path(path).name} has the signatures {existing}. Received: {signature!r}. "
            "Pass one of them."
        )
    with quiet_stderr():
        return interpreter.get_signature_runner(signature)
