r"""Finds the network of least computation that keeps what trained Keras models can do.

Goes on where it stopped when the same call is made again. Writes page.html, which shows what came
out and what to ship, TFLite files of every combination of tasks in tflite/, model.keras, and the
figures in result.json, report.json, report.csv and curve.csv.

Examples:
tfmot-pam compress --model=digit=digit.keras --model=speaker=speaker.keras --data=train.npz \
    --validation_data=val.npz --max_accuracy_drop=0.01 \
    --usage=digit:0.7,digit+speaker:0.3 --output_dir=out
tfmot-pam compress --model=digit=digit.keras --data=photos/labels.csv --pixel_range=0,1 \
    --effort=48 --quantization=int8 --output_dir=out
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tflite_export.compile.quantization import QUANTIZATIONS
from tflite_export.programs import options
from tflite_export.programs.data_files import load_data, load_function
from tflite_export.programs.running import main_of

if TYPE_CHECKING:
    from tfmot_pam.pipeline.result import CompressionResult

_CHECKPOINTS, _FILES = "checkpoints", "tflite"
_OWN = {
    *(_CHECKPOINTS, _FILES, "networks"),
    *("model.keras", "result.json", "report.json", "report.csv", "curve.csv", "page.html"),
}
_REPRESENTATIVE = 256


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags: in a function, so that importing this module defines none."""
    options.define_models(values)
    options.define_data(values)
    _define_search(values)
    _define_result(values)
    options.define_run(values)
    flags.mark_flags_as_required(["data", "output_dir"], flag_values=values)


def _define_search(values: flags.FlagValues) -> None:
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "validation_data",
        None,
        "Data on which accuracies are judged, as --data. Without it every seventh sample of "
        "--data.",
        **own,
    )
    flags.DEFINE_list(
        "max_accuracy_drop",
        ["0.01"],
        "How much accuracy (R^2, or --metric) a task may lose: one number, or one a task: "
        "digit:0.01,speaker:0.02; of a task with several outputs detector/boxes:0.01.",
        **own,
    )
    flags.DEFINE_list(
        "metric",
        [],
        "Metrics of tasks instead of accuracy, by their Keras names: age:mae. Tolerances are in "
        "their units.",
        **own,
    )
    flags.DEFINE_list(
        "usage",
        None,
        "How often combinations run: digit:0.7,digit+speaker:0.3. Without it all alike.",
        **own,
    )
    flags.DEFINE_list(
        "arms",
        ["auto"],
        "Families of networks to search: auto, or names; see docs/guide.md.",
        **own,
    )
    flags.DEFINE_integer("effort", 24, "Epochs of training per network and arm.", **own)
    flags.DEFINE_float(
        "target", None, "Stop at this share of the originals' computation, 0..1.", **own
    )
    flags.DEFINE_string(
        "importance", "reconstruction", "How channels are rated; see docs/guide.md.", **own
    )
    flags.DEFINE_enum(
        "measure",
        "macs",
        ["macs", "latency"],
        "What is to become small; latency: estimated.",
        **own,
    )
    flags.DEFINE_string(
        "augment", None, "module:function or file.py:function, augment(x, rng) -> x.", **own
    )
    flags.DEFINE_integer("batch_size", None, "Samples a training step.", **own)
    flags.DEFINE_float("learning_rate", None, "The rate at which training starts.", **own)
    flags.DEFINE_string("tensorboard", None, "Where to log rounds for TensorBoard.", **own)
    flags.DEFINE_integer("workers", 1, "Searches that run at a time, in processes.", **own)


def _define_result(values: flags.FlagValues) -> None:
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "output_dir", None, "The folder to write. One of the same call is gone on with.", **own
    )
    flags.DEFINE_list(
        "portfolio",
        [],
        "Combinations, or all, that get a network of their own where any is cheaper: "
        "digit,digit+speaker.",
        **own,
    )
    flags.DEFINE_bool("export", True, "Whether TFLite files are written.", **own)
    flags.DEFINE_enum(
        "quantization",
        "none",
        list(QUANTIZATIONS),
        "How the files store their numbers; int8 takes its ranges from --data.",
        **own,
    )


def _compress(values: flags.FlagValues) -> None:
    tolerance = options.read_per_task(values.max_accuracy_drop, "max_accuracy_drop")
    metrics = options.read_per_task(values.metric, "metric", str) if values.metric else None
    training = {"batch_size": values.batch_size, "learning_rate": values.learning_rate}
    search = {
        "metrics": metrics,
        "arms": "auto" if values.arms == ["auto"] else values.arms,
        "effort": values.effort,
        "target": values.target,
        "usage": options.read_usage(values.usage),
        "importance": values.importance,
        "measure": values.measure,
        "augment": None if values.augment is None else load_function(values.augment),
        "fine_tune_options": {k: v for k, v in training.items() if v is not None} or None,
        "portfolio": _portfolio(values.portfolio),
        "workers": values.workers,
        "tensorboard": values.tensorboard,
        "seed": values.seed,
        "verbose": values.verbose,
    }
    folder = _folder(values.output_dir)
    models = options.load_models(values.model)
    wanted, how = options.wanted_of(models), options.data_options(values)
    data, validation = load_data(values.data, wanted, how), None
    if values.validation_data is not None:
        validation = load_data(values.validation_data, wanted, how, "validation_data")

    import tfmot_pam

    directory = folder / _CHECKPOINTS
    result = tfmot_pam.compress(
        models, data, tolerance, directory=directory, validation_data=validation, **search
    )
    result.save(folder, overwrite=True)
    files = _export(result, data, wanted, values, folder / _FILES) if values.export else {}
    result.to_html(folder / "page.html", files=files, overwrite=True)
    told = [] if values.verbose else [result.verdict]  # Otherwise `compress` has said it.
    sys.stdout.write("\n".join([*told, str(result.report), ""]))


def _folder(path: str) -> pathlib.Path:
    """The folder to write: a new one, or one in which nothing but an earlier call's files are.

    Raises:
        ValueError: it holds other files.
    """
    folder = pathlib.Path(path)
    ours = folder.is_dir() and {entry.name for entry in folder.iterdir()} <= _OWN
    return options.folder_to_write(path, ours=ours)


def _portfolio(entries: Sequence[str]) -> bool | list[tuple[str, ...]]:
    if entries == ["all"]:
        return True
    return [options.split_combination(entry) for entry in entries] if entries else False


def _export(
    result: CompressionResult,
    data: Any,
    wanted: options.Wanted,
    values: flags.FlagValues,
    folder: pathlib.Path,
) -> dict[tuple[str, ...], pathlib.Path]:
    """Writes the files and returns that of every combination."""
    from tflite_export.compile.exporter import export
    from tfmot_pam.graph.selection import file_name

    samples = _inputs(data, wanted)
    export(
        result.models if result.apart else result.model,
        folder,
        quantization=values.quantization,
        representative_data=samples if values.quantization in ("int8", "int16x8") else None,
        samples=samples,
        overwrite=True,
        verbose=values.verbose,
    )
    return {row.tasks: folder / f"{file_name(row.tasks)}.tflite" for row in result.report.rows}


def _inputs(data: Any, wanted: options.Wanted) -> Any:
    """Some inputs of the data set, on which files are checked and their ranges measured."""
    from tfmot_pam.data import read_all
    from tfmot_pam.graph.inputs import count, rows

    samples = read_all(data, wanted.tasks, wanted.inputs)
    x = next(iter(samples.by_head.values())).x
    step = max(1, count(x) // _REPRESENTATIVE)
    return rows(x, slice(None, None, step))


main = main_of(_compress)
