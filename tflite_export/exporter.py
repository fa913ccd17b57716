"""The export of a multi-head model: a checked TFLite file per combination of its tasks."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export import manifest, subnetworks, verify
from tflite_export.converter import Quantization, convert, find_quantization, input_name
from tflite_export.folder import whole_folder

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """One exported TFLite file.

    Attributes:
        tasks: The tasks it computes, in model order: the names of its outputs.
        path: Where it is.
        bytes: Its size.
        max_abs_error: Largest absolute difference of its outputs from Keras, over the inputs it
            was checked on.
        signature: Name of the signature to run.
        quantization: How its numbers are stored: `"none"` or `"dynamic"`.
    """

    tasks: tuple[str, ...]
    path: pathlib.Path
    bytes: int
    max_abs_error: float
    signature: str
    quantization: str


def export(
    model: keras.Model,
    directory: str | pathlib.Path,
    *,
    combinations: str | Iterable[str | Iterable[str]] = "all",
    quantization: str = "none",
    samples: Any = None,
    overwrite: bool = False,
    verbose: int = 1,
    seed: int = 0,
) -> tuple[ExportedFile, ...]:
    """Writes one TFLite file per combination of tasks, each run and compared with Keras.

    Use it once a model is trained. Every file holds the network of its combination and nothing
    else, for one sample at a time, in TFLite's built-in operations. Its input has the name of the
    model's InputLayer and its outputs have the names of the tasks. `manifest.json` beside the
    files lists tasks, tensors, sizes, hashes and errors. The folder appears when everything in it
    is finished and checked; when anything fails, nothing is left behind and an old folder stays.

    Args:
        model: A functional or sequential model, Keras 3 or tf_keras, with one input and a dict of
            outputs keyed by task, as `tfmot_pam.merge` returns it; or with a single output, which
            is then a task with the name of the output layer.
        directory: The folder to write. It must not exist, or be empty.
        combinations: `"all"` (for T tasks, 2^T - 1 files), or a list of combinations: sequences
            of task names, or strings such as `"digit"` and `"digit+speaker"`.
        quantization: `"none"` (float32; outputs within 1e-4 of Keras, absolute up to outputs of
            size 1 and relative beyond) or `"dynamic"` (8-bit weights, about a quarter of the
            size; the root mean square of the difference within 10 % of the outputs').
        samples: Real inputs to check the files on, of shape `(n, ...)`, without labels; at most
            256 of them, evenly spaced, are used. Without them, 16 random inputs are.
        overwrite: Whether to replace the folder of an earlier export. A folder that holds other
            files is refused all the same.
        verbose: 1 shows a progress bar, 0 nothing.
        seed: Seed of the random inputs.

    Returns:
        One record per file, in the order of the combinations.

    Raises:
        TypeError: `model`, `combinations` or `samples` has a wrong type.
        ValueError: The model cannot be exported; a combination, the quantization or the shape of
            `samples` is wrong; the directory is taken or cannot be written; TFLite lacks an
            operation; or a file disagrees with Keras.

    Example:
    >>> import keras, tflite_export
    >>> image = keras.Input((8, 8, 1), name="image")
    >>> features = keras.layers.Flatten()(image)
    >>> heads = {task: keras.layers.Dense(4)(features) for task in ("digit", "speaker")}
    >>> files = tflite_export.export(keras.Model(image, heads), "out")  # doctest: +SKIP
    >>> [file.path.name for file in files]  # doctest: +SKIP
    ['digit.tflite', 'speaker.tflite', 'digit+speaker.tflite']
    """
    import keras

    scheme = find_quantization(quantization)
    model = subnetworks.exportable(model)
    chosen = subnetworks.choose_combinations(model, combinations)
    inputs = subnetworks.trial_inputs(model, samples, seed)
    entries = []
    with whole_folder(directory, overwrite) as folder:
        progress = keras.utils.Progbar(len(chosen), verbose=verbose, unit_name="file")
        for count, tasks in enumerate(chosen, start=1):
            entries.append(_write_file(model, tasks, folder / _file_name(tasks), scheme, inputs))
            progress.update(count)
        source = f"random, seed {seed}" if samples is None else "given"
        checked_on = {"inputs": source, "number": len(inputs)}
        manifest.write(folder, entries, quantization, checked_on)
    return tuple(_record(pathlib.Path(directory), entry, quantization) for entry in entries)


def _write_file(
    model: keras.Model,
    tasks: Sequence[str],
    path: pathlib.Path,
    scheme: Quantization,
    inputs: np.ndarray,
) -> dict[str, Any]:
    """Converts one combination, runs the file against Keras and returns its manifest entry."""
    import tfmot_pam

    all_tasks = len(tasks) == len(model.output)
    network = model if all_tasks else tfmot_pam.select_tasks(model, tasks)
    expected = subnetworks.keras_outputs(network, inputs)
    try:
        path.write_bytes(convert(network, scheme))
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be made. {error}") from error
    actual = verify.run_file(path, {input_name(network): inputs})
    errors = verify.check_outputs(path.name, actual, expected, scheme.measure, scheme.tolerance)
    return manifest.file_entry(path, tasks, verify.SIGNATURE, errors)


def _file_name(tasks: Sequence[str]) -> str:
    """Joins the tasks with "+"; what a file system or the "+" forbids becomes %XX."""
    names = [re.sub(r'[\x00-\x1f/\\:*?"<>|%+]', _percent, task) for task in tasks]
    return "+".join(names) + ".tflite"


def _percent(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _record(directory: pathlib.Path, entry: dict[str, Any], quantization: str) -> ExportedFile:
    return ExportedFile(
        tasks=tuple(entry["tasks"]),
        path=directory / entry["file"],
        bytes=entry["bytes"],
        max_abs_error=max(entry["max_abs_error"].values()),
        signature=entry["signature"],
        quantization=quantization,
    )
