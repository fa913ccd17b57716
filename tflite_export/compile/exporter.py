"""The export of a multi-head model: checked TFLite files for the combinations of its tasks."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.compile import networks, soundness, subnetworks
from tflite_export.compile.checks import Checks
from tflite_export.compile.converter import convert
from tflite_export.compile.packing import pack
from tflite_export.compile.quantization import Quantization, find_quantization
from tflite_export.compile.samples import count, representative_inputs, trial_inputs
from tflite_export.compile.tuning import TUNINGS, Costs, tune_alone, tune_together
from tflite_export.ship import manifest, model_card
from tflite_export.ship.folder import whole_folder
from tflite_export.ship.records import ExportedFile, record

if TYPE_CHECKING:
    import keras

    from tfmot_pam.graph.network import Network
    from tfmot_pam.graph.sizes import InputShape

ONE_FILE = "all_combinations"
MODES = ("both", "files", "signatures")


def export(
    model: keras.Model | Mapping[Sequence[str], keras.Model],
    directory: str | pathlib.Path,
    *,
    combinations: str | Iterable[str | Iterable[str]] = "all",
    mode: str = "both",
    quantization: str | Quantization = "none",
    quantizer: str = "converter",
    representative_data: Any = None,
    integer_io: bool = False,
    tune: str = "estimate",
    samples: Any = None,
    input_shape: InputShape | None = None,
    accuracy: Mapping[str, float] | None = None,
    overwrite: bool = False,
    verbose: int = 1,
    seed: int = 0,
) -> tuple[ExportedFile, ...]:
    """Writes TFLite files for the combinations of tasks, each run and compared with Keras.

    Use it once a model is trained. A signature is the network of one combination and nothing
    else, for one sample at a time, in TFLite's built-in operations. It is named after its tasks;
    its inputs, those that its tasks need, have the names of the model's InputLayers, and its
    outputs those of the tasks, or `task/key` where what a task yields is a dict.
    `manifest.json` beside the files lists signatures, tensors, sizes, hashes and errors, and
    `README.md` says how to run them on a device. The folder appears when everything in it is
    finished and checked; when anything fails or the process is killed, an old folder stays.

    Args:
        model: A functional or sequential model, Keras 3 or tf_keras, with a dict of outputs keyed
            by task, as `tfmot_pam.merge` returns it; or with a single output, which is then a task
            with the name of the output layer. Also what
            `tfmot_pam.quantize_model` returned, trained: with `quantization="int8"`. Or a dict
            from combinations (tuples of task names) to models, as the `models` of a
            `tfmot_pam.Portfolio`: each combination is then a file of its own network.
        directory: The folder to write. It must not exist, or be empty.
        combinations: `"all"` (for T tasks, 2^T - 1), or a list of combinations: sequences of task
            names, or strings such as `"digit"` and `"digit+speaker"`.
        mode: `"files"` (a file per combination), `"signatures"` (one file,
            `all_combinations.tflite`, with a signature per combination and the weights stored
            once), or `"both"`, which agree bit for bit. Of a single combination there is a file of
            its own in any mode; networks of a dict share no weights, so that `"both"` is `"files"`.
        quantization: `"none"` (float32), `"float16"` (weights; half the size), `"dynamic"` (8-bit
            weights, activations quantised on the fly; a quarter of the size), `"int8"`
            (everything in 8 bits), `"int16x8"` (activations in 16, weights in 8 bits), or a
            `Quantization`. A file beyond its quantization's tolerance is an error: 1e-4 for none
            (absolute up to outputs of size 1, relative beyond; up to 2e-3 where Keras, held against
            double precision, is itself as far off); for the root mean square of the difference
            relative to the outputs' 0.01, 0.1, 0.2 and 0.1.
        quantizer: What quantises: `"converter"`, TensorFlow's, or `"ai-edge-quantizer"`, the
            package of that name, which quantises float32 files to `"float16"`, `"dynamic"`,
            `"int8"` and `"int16x8"`; install `tfmot-pam[ai-edge-quantizer]`.
        representative_data: Inputs of shape `(n, ...)` from the training split, without labels, of
            several a dict by name, from which `"int8"` and `"int16x8"` take the ranges of the
            activations: at least 16, better 100 or more; at most 256 of them, evenly spaced, are
            used. A model after quantisation aware training needs none: it has learned the ranges.
        integer_io: Whether inputs and outputs of `"int8"` and `"int16x8"` files are 8-bit and
            16-bit integers; scales and zero points are in the manifest.
        tune: How layers are written for speed: `"estimate"`: as a rule of thumb says; `"measure"`:
            as is fastest on this machine; `"none"`: as they are. Batch normalisation is folded,
            layers over concatenations become sums, and widths that kernels compute slowly are
            padded, for all combinations alike, so that they share their weights. In the mode
            `"files"`, groups of channels are besides computed in one piece where that is faster.
            Outputs change by at most 1e-5, parameters grow by half at most. A model after
            quantisation aware training stays as it was trained.
        samples: Real inputs to check the files on, likewise; at most 256 of them are used. Without
            them the representative data are used, or else 16
            random inputs.
        input_shape: The shape of the input, without the samples' axis, of a model that takes
            images or sequences of any size: files are of one size. Of several a dict by name.
        accuracy: Accuracy by task, or by output of a task with several, as measured elsewhere, for
            the manifest and the model card.
        overwrite: Whether to replace the folder of an earlier export. A folder that holds other
            files is refused all the same.
        verbose: 1 shows a progress bar, 0 nothing.
        seed: Seed of the random inputs.

    Returns:
        One record per file, in the order of the combinations; the file of all of them is last.

    Raises:
        TypeError: `model`, `combinations` or the samples have a wrong type.
        ValueError: The model cannot be exported; a combination, the mode, the quantization or the
            shape or number of the samples is wrong; a file would be of 2 GB or more; the directory
            is taken or cannot be written; TFLite lacks an operation or cannot quantise a loop; a
            head is untrained; or a file disagrees with Keras.

    Example:
    >>> import keras, tflite_export
    >>> image = keras.Input((8, 8, 1), name="image")
    >>> features = keras.layers.Flatten()(image)
    >>> heads = {task: keras.layers.Dense(4)(features) for task in ("digit", "speaker")}
    >>> files = tflite_export.export(keras.Model(image, heads), "out")  # doctest: +SKIP
    >>> [file.path.name for file in files]  # doctest: +SKIP
    ['digit.tflite', 'speaker.tflite', 'digit+speaker.tflite', 'all_combinations.tflite']
    """
    from tfmot_pam.graph.arguments import check_seed

    check_seed(seed)
    _check_directory(directory)
    given = networks.split(model, combinations, input_shape)
    aware = any(subnetworks.is_quantization_aware(one) for one, _ in given)
    scheme = find_quantization(quantization, quantizer, aware=aware)
    _check_options(mode, scheme, integer_io, tune)
    if aware:
        tune = _check_aware([one for one, _ in given], representative_data, tune)
    if isinstance(model, Mapping):
        mode = networks.only_mode(mode)
    first = given[0][0]
    calibration = None
    if scheme.calibrated:
        calibration = representative_inputs(first, representative_data)
    samples = representative_data if samples is None else samples
    trial = trial_inputs(first, samples, seed)
    found = [_part(one, own, scheme, trial) for one, own in given]
    costs = [subnetworks.costs(part.network, part.chosen) for part in found]
    for counted in costs:
        subnetworks.check_sizes(counted, scheme.weight_bytes)
    tasks = list(dict.fromkeys(task for part in found for task in part.model.output))
    heads = [head for part in found for own in part.checks.heads.values() for head in own]
    source = f"random, seed {seed}" if samples is None else "given"
    about = {
        "tasks": tasks,
        "mode": mode,
        "quantization": scheme.name,
        "quantization_aware_training": aware,
        "quantizer": quantizer,
        "tune": tune,
        "checked_on": {"inputs": source, "number": count(trial)},
        "calibrated_on": None if calibration is None else count(calibration),
        "accuracy": _checked_accuracy(accuracy, list(dict.fromkeys([*tasks, *heads]))),
    }
    options = {
        "quantization": scheme,
        "calibration": calibration,
        "integer_io": integer_io,
    }
    with whole_folder(directory, overwrite) as folder:
        contents = _convert_all(found, mode, TUNINGS[tune], verbose, options)
        entries = []
        for part, counted in zip(found, costs, strict=True):
            for name, signatures in _layout(part.chosen, mode).items():
                entry = _write_file(folder / name, signatures, contents, part.checks, counted)
                entries.append(entry)
        about.update(files=entries, other_files=[model_card.FILE_NAME])
        model_card.write(folder, manifest.write(folder, about))
    return tuple(record(pathlib.Path(directory), entry, scheme.name) for entry in entries)


@dataclasses.dataclass(frozen=True)
class _Part:
    """One network with the combinations that are written from it.

    Args:
        model: A model that `exportable` returned.
        network: The same as data.
        chosen: Tasks by name of the combination.
        checks: What its files are held against.
    """

    model: keras.Model
    network: Network
    chosen: Mapping[str, Sequence[str]]
    checks: Checks


def _part(
    model: keras.Model,
    combinations: Sequence[Sequence[str]],
    scheme: Quantization,
    trial: Mapping[str, np.ndarray],
) -> _Part:
    """A network that was checked to be fit for export, with what its files are held against."""
    from tfmot_pam.graph.heads import heads_of
    from tfmot_pam.graph.selection import network_heads

    chosen = subnetworks.signature_names(combinations)
    expected = subnetworks.keras_outputs(model, trial)
    network = subnetworks.network_of(model)
    if scheme.calibrated:
        soundness.check_loops(network)
    soundness.check_heads(network, trial, expected)
    heads = heads_of(network_heads(network))
    exact = functools.cache(lambda: subnetworks.exact_outputs(network, trial))
    return _Part(model, network, chosen, Checks(scheme, heads, trial, expected, exact))


def _layout(chosen: Mapping[str, Sequence[str]], mode: str) -> dict[str, dict[str, Sequence[str]]]:
    """Tasks by signature, by name of the file."""
    alone = {f"{name}.tflite": {name: tasks} for name, tasks in chosen.items()}
    if mode == "files" or len(chosen) == 1:
        return alone
    # No combination's name ends with "+": a task called "all_combinations" has its own file.
    together = f"{ONE_FILE}+" if ONE_FILE in chosen else ONE_FILE
    return {**(alone if mode == "both" else {}), f"{together}.tflite": dict(chosen)}


def _networks(
    part: _Part, mode: str, costs: Costs | None, options: Mapping[str, Any]
) -> Mapping[str, keras.Model]:
    """The networks of combinations, lowered for speed where `costs` tells that it pays."""
    shared = subnetworks.shared_models(part.model, part.chosen)
    if costs is None:
        return shared
    try:
        return shared | _lowered(part, mode, costs, options)
    except (TypeError, ValueError) as error:
        warnings.warn(
            f"The layers stay as they are, because they cannot be written otherwise "
            f"({' '.join(str(error).split())}). Pass tune='none' if that is what you want.",
            stacklevel=4,
        )
        return shared


def _lowered(
    part: _Part, mode: str, costs: Costs, options: Mapping[str, Any]
) -> dict[str, keras.Model]:
    """Lowered networks of those combinations that they are cheaper for."""
    from tfmot_pam.graph.emitter import emit
    from tfmot_pam.graph.selection import select

    def convert_one(one: Network) -> bytes:
        return convert(emit(one, wrap=False), "network", **options)

    chosen, checks = part.chosen, part.checks
    network = part.network.replace(name="network")
    # The terms of a sum would be rounded each, in ranges of their own.
    sums = not checks.scheme.calibrated
    if mode == "files" or len(chosen) == 1:
        selected = {name: select(network, tasks) for name, tasks in chosen.items()}
        found = {n: tune_alone(one, costs, convert_one, sums) for n, one in selected.items()}
        models = {
            name: emit(one, wrap=False) for name, one in found.items() if one is not selected[name]
        }
        return {name: one for name, one in models.items() if checks.unchanged(one)}
    together = tune_together(network, chosen.values(), costs, convert_one, sums)
    if together is network or not checks.unchanged(emit(together, wrap=False)):
        return {}
    return {name: emit(select(together, tasks), wrap=False) for name, tasks in chosen.items()}


def _convert_all(
    found: Sequence[_Part],
    mode: str,
    costs: Costs | None,
    verbose: int,
    options: Mapping[str, Any],
) -> dict[str, bytes]:
    """The contents of all combinations' networks by name."""
    import keras

    count = sum(len(part.chosen) for part in found)
    progress = keras.utils.Progbar(count, verbose=verbose, unit_name="combination")
    contents = {}
    for part in found:
        sparse = options["quantization"].sparse and subnetworks.is_sparse(part.model)
        own = {**options, "sparse": sparse}
        for name, network in _networks(part, mode, costs, own).items():
            try:
                contents[name] = convert(network, name, **own)
            except ValueError as error:
                raise ValueError(f"{name}.tflite cannot be made. {error}") from error
            progress.update(len(contents))
    return contents


def _write_file(
    path: pathlib.Path,
    signatures: Mapping[str, Sequence[str]],
    contents: Mapping[str, bytes],
    checks: Checks,
    costs: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """Writes a file of the given signatures, runs it and returns its manifest entry."""
    path.write_bytes(pack([contents[name] for name in signatures]))
    agreements = {name: checks.agreement(path, name, tasks) for name, tasks in signatures.items()}
    return manifest.file_entry(path, signatures, agreements, costs)


def _check_options(mode: str, scheme: Quantization, integer_io: bool, tune: str) -> None:
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(
            f"Unknown mode. Received: {mode!r}. Expected one of: {list(MODES)}. Choose one."
        )
    if not isinstance(tune, str) or tune not in TUNINGS:
        raise ValueError(
            f"Unknown tuning. Received: {tune!r}. Expected one of: {list(TUNINGS)}. Choose one."
        )
    if integer_io and scheme.integers is None:
        raise ValueError(
            f"`integer_io` needs quantization='int8' or 'int16x8'. Received: {scheme.name!r}, "
            "whose inputs and outputs are floating-point numbers."
        )


def _check_directory(directory: Any) -> None:
    if not isinstance(directory, (str, os.PathLike)) or not str(directory):
        raise TypeError(
            f"`directory` must be the path of a folder. Received: {directory!r} of type "
            f"{type(directory).__name__}. Pass such as 'out'."
        )


def _check_aware(models: Sequence[Any], representative_data: Any, tune: str) -> str:
    """Checks what only concerns models after quantisation aware training; their tuning: none."""
    if tune == "measure":
        raise ValueError(
            "The layers of a model after quantisation aware training stay as they were trained, "
            f"each with its ranges. Received: tune={tune!r}. Expected 'none'. Leave `tune` out."
        )
    for model in models:
        soundness.check_ranges(model)
    if representative_data is not None:
        warnings.warn(
            "`representative_data` gives no ranges to a model after quantisation aware training, "
            "which has learned its own. Leave it out, or pass it as `samples`.",
            stacklevel=3,
        )
    return "none"


def _checked_accuracy(
    accuracy: Mapping[str, float] | None, tasks: Sequence[str]
) -> dict[str, float] | None:
    if accuracy is None:
        return None
    if not isinstance(accuracy, Mapping):
        raise TypeError(
            f"`accuracy` must be a dict by task. Received: {accuracy!r} of type "
            f"{type(accuracy).__name__}. Pass such as {{{tasks[0]!r}: 0.97}}."
        )
    unknown = [task for task in accuracy if task not in tasks]
    if unknown:
        raise ValueError(
            f"`accuracy` must be keyed by tasks of the model. Received: {unknown}. "
            f"The tasks are {list(tasks)}."
        )
    for task, value in accuracy.items():
        # R^2 of real-valued targets has no lower bound.
        if not isinstance(value, numbers.Real) or not -math.inf < value <= 1:
            raise ValueError(
                f"`accuracy` has the value {value!r} for {task!r}. Expected a number of at most "
                "1. Divide percentages by 100."
            )
    return {task: float(value) for task, value in accuracy.items()}
