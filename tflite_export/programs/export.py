r"""Exports a saved multi-head Keras model: checked TFLite files for the combinations of its tasks.

Examples:
tflite-export --model=merged.keras --output_dir=out
tflite-export --model=merged.keras --output_dir=out --combinations=digit,digit+speaker \
    --mode=signatures --quantization=int8 --representative_data=x_train.npz --samples=x_test.npz
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from tflite_export.compile.exporter import MODES, export
from tflite_export.compile.quantization import QUANTIZATIONS, QUANTIZERS
from tflite_export.compile.tuning import TUNINGS
from tflite_export.programs.loading import load_model
from tflite_export.programs.options import read_shape
from tflite_export.programs.running import explained, run_program
from tflite_export.ship.records import ExportedFile


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the program's flags: in a function, so that importing this module defines none."""
    options: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "model",
        None,
        "The saved model, a .keras or .h5 file of Keras 3 or tf_keras; after quantisation aware "
        "training an .h5 file, with --quantization=int8.",
        **options,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "The folder to write. It must not exist, or be empty; see --overwrite.",
        **options,
    )
    flags.DEFINE_list(
        "combinations",
        ["all"],
        "The combinations of tasks to export, separated by commas, the tasks of one joined with "
        "'+', such as digit,digit+speaker; or 'all'.",
        **options,
    )
    flags.DEFINE_enum(
        "mode",
        "both",
        MODES,
        "files: one file per combination. signatures: one file with a signature per combination, "
        "weights stored once. both: all of these.",
        **options,
    )
    flags.DEFINE_enum(
        "quantization",
        "none",
        list(QUANTIZATIONS),
        "How the files store their numbers. none: float32. float16: 16-bit weights. dynamic: "
        "8-bit weights. int8: everything in 8 bits. int16x8: 16-bit activations, 8-bit weights. "
        "The last two need --representative_data, except after quantisation aware training.",
        **options,
    )
    flags.DEFINE_enum(
        "quantizer",
        "converter",
        list(QUANTIZERS),
        "What quantises. converter: TensorFlow's. ai-edge-quantizer: the package of that name, for "
        "float16, dynamic, int8 and int16x8; it must be installed.",
        **options,
    )
    flags.DEFINE_string(
        "representative_data",
        None,
        "Inputs from the training split, at least 16, better 100 or more, that show which values "
        "occur: a .npy file, or an .npz file with one array or one named 'x', of shape (n, ...); "
        "for a model with several inputs an .npz file with an array for each, by name.",
        **options,
    )
    flags.DEFINE_bool(
        "integer_io",
        False,
        "Whether inputs and outputs of int8 and int16x8 files are integers, too.",
        **options,
    )
    flags.DEFINE_enum(
        "tune",
        "estimate",
        list(TUNINGS),
        "How layers are written for speed. none: as they are. estimate: as a rule of thumb says. "
        "measure: as is fastest on this machine. In the mode files, groups of channels are besides "
        "computed in one piece where that is faster.",
        **options,
    )
    flags.DEFINE_string(
        "samples",
        None,
        "Real inputs to check the files on, in a file like that of --representative_data. Without "
        "it, the representative data are used, or else random inputs.",
        **options,
    )
    flags.DEFINE_list(
        "input_shape",
        None,
        "The size of the input, without the samples' axis, of a model that takes images or "
        "sequences of any size: whole numbers separated by commas, such as 224,224,3.",
        **options,
    )
    flags.DEFINE_bool(
        "overwrite", False, "Whether to replace the folder of an earlier export.", **options
    )
    flags.mark_flags_as_required(["model", "output_dir"], flag_values=values)


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Exports what the flags name and prints a table of the files.

    Args:
        argv: The command line without its flags: the program's name and nothing else.
        values: The parsed flags of `define_flags`.

    Returns:
        The exit code: 0, or 2 after a message about what is wrong with the flags or the model.
    """

    def action() -> None:
        files = export(
            load_model(values.model),
            values.output_dir,
            combinations="all" if values.combinations == ["all"] else values.combinations,
            mode=values.mode,
            quantization=values.quantization,
            quantizer=values.quantizer,
            representative_data=_load_samples(values.representative_data, "representative_data"),
            integer_io=values.integer_io,
            tune=values.tune,
            samples=_load_samples(values.samples, "samples"),
            input_shape=read_shape(values.input_shape),
            overwrite=values.overwrite,
        )
        _print_table(files)

    return explained(action, argv)


def run() -> None:
    """Runs the program on the process's command line; the console script's entry."""
    run_program(main, define_flags, __doc__)


def _load_samples(path: str | None, flag: str) -> np.ndarray | dict[str, np.ndarray] | None:
    if path is None:
        return None
    try:
        loaded = np.load(path)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"Cannot read '{path}' ({error}). Pass a .npy or .npz file with --{flag}."
        ) from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        names = loaded.files
        if len(names) != 1 and "x" not in names:
            return {name: loaded[name] for name in names}  # of several inputs
        return loaded["x" if "x" in names else names[0]]


def _print_table(files: Sequence[ExportedFile]) -> None:
    import rich.console
    import rich.table

    table = rich.table.Table()
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("signatures", justify="right")
    table.add_column("largest error", justify="right")
    table.add_column("same label", justify="right")
    for file in files:
        labels = [one.label_agreement for one in file.signatures if one.label_agreement is not None]
        table.add_row(
            file.path.name,
            f"{file.bytes:,}",
            str(len(file.signatures)),
            f"{file.max_abs_error:.1e}",
            f"{min(labels):.1%}" if labels else "",
        )
    rich.console.Console().print(table)


if __name__ == "__main__":
    run()
