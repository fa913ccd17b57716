r"""Exports a saved multi-head Keras model: one checked TFLite file per combination of its tasks.

Example:
python -m tflite_export.export_main --model=merged.keras --output_dir=out \
    --combinations=digit,digit+speaker --quantization=dynamic
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import app, flags

from tflite_export.converter import QUANTIZATIONS
from tflite_export.exporter import ExportedFile, export
from tflite_export.quiet import quiet_stderr

if TYPE_CHECKING:
    import keras


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the program's flags: in a function, so that importing this module defines none."""
    options = {"flag_values": values}
    flags.DEFINE_string("model", None, "The saved model, a .keras file.", **options)
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
        "quantization",
        "none",
        sorted(QUANTIZATIONS),
        "How the files store their numbers: none (float32) or dynamic (8-bit weights).",
        **options,
    )
    flags.DEFINE_string(
        "samples",
        None,
        "Real inputs to check the files on: a .npy file, or an .npz file with one array or one "
        "named 'x', of shape (n, ...). Without it, random inputs are used.",
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
        The exit code: 0, or 1 after a message about what is wrong with the flags or the model.
    """
    try:
        if len(argv) > 1:
            raise ValueError(
                f"Unexpected arguments. Received: {list(argv[1:])}. Write every option as "
                "--name=value; --help lists them."
            )
        files = export(
            _load_model(values.model),
            values.output_dir,
            combinations="all" if values.combinations == ["all"] else values.combinations,
            quantization=values.quantization,
            samples=None if values.samples is None else _load_samples(values.samples),
            overwrite=values.overwrite,
        )
    except (OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    _print_table(files)
    return 0


def run() -> None:
    """Runs the program on the process's command line; the console script's entry."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    define_flags()
    app.run(main)


def _load_model(path: str) -> keras.Model:
    with quiet_stderr():
        import keras

        import tfmot_pam  # noqa: F401 - registers the layers of merged models

    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file '{path}'. Pass a saved .keras file with --model.")
    return keras.saving.load_model(path, compile=False)


def _load_samples(path: str) -> np.ndarray:
    try:
        loaded = np.load(path)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"Cannot read '{path}' ({error}). Pass a .npy or .npz file with --samples."
        ) from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        names = loaded.files
        if len(names) != 1 and "x" not in names:
            raise ValueError(
                f"'{path}' must hold one array or one named 'x'. Received: {names}. "
                "Write it with np.savez(path, x=inputs)."
            )
        return loaded["x" if "x" in names else names[0]]


def _print_table(files: Sequence[ExportedFile]) -> None:
    import rich.console
    import rich.table

    table = rich.table.Table()
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("largest error", justify="right")
    for file in files:
        table.add_row(file.path.name, f"{file.bytes:,}", f"{file.max_abs_error:.1e}")
    rich.console.Console().print(table)


if __name__ == "__main__":
    run()
