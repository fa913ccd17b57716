r"""Tells what every combination of a merged model's tasks costs, and how accurate it is.

Examples:
tfmot-pam report --model=merged/model.keras
tfmot-pam report --model=out/model.keras --original=digit=digit.keras \
    --original=speaker=speaker.keras --data=test.npz --format=csv --plot=out/report.png
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from tflite_export.programs import options
from tflite_export.programs.data_files import Wanted, load_data
from tflite_export.programs.loading import load_model
from tflite_export.programs.running import main_of

_FORMATS: dict[str, Callable[[Any], str]] = {
    "table": str,
    "json": lambda report: report.to_json(),
    "csv": lambda report: report.to_csv(),
}


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags: in a function, so that importing this module defines none."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("model", None, "The model: a .keras or .h5 file.", **own)
    options.define_models(
        values, "original", "The model of one task, to compare with: task=file.keras; once a task."
    )
    options.define_data(values)
    flags.DEFINE_list(
        "usage", None, "How often combinations run: digit:0.7,digit+speaker:0.3.", **own
    )
    flags.DEFINE_list(
        "combinations", ["all"], "The combinations to list: digit,digit+speaker; or all.", **own
    )
    flags.DEFINE_list(
        "input_shape", None, "The input's size, of a model that takes any: 224,224,3.", **own
    )
    flags.DEFINE_enum("format", "table", list(_FORMATS), "What is printed.", **own)
    flags.DEFINE_string("plot", None, "A .png, .svg or .pdf file to draw.", **own)
    flags.DEFINE_bool("overwrite", False, "Whether the file of --plot may be replaced.", **own)
    flags.mark_flags_as_required(["model"], flag_values=values)


def _report(values: flags.FlagValues) -> None:
    usage = options.read_usage(values.usage)
    shape = options.read_shape(values.input_shape)
    everything = values.combinations == ["all"]
    model = load_model(values.model)
    originals = options.load_models(values.original, "original") if values.original else None
    data = _data(values, model)

    import tfmot_pam

    report = tfmot_pam.report(
        model,
        originals=originals,
        data=data,
        usage=usage,
        combinations=None
        if everything
        else [options.split_combination(entry) for entry in values.combinations],
        input_shape=shape,
    )
    if values.plot is not None:
        report.plot(pathlib.Path(values.plot), overwrite=values.overwrite)
    sys.stdout.write(f"{_FORMATS[values.format](report)}\n")


def _data(values: flags.FlagValues, model: Any) -> Any:
    if values.data is None:
        return None
    from tfmot_pam.graph.generation import read_model
    from tfmot_pam.graph.heads import heads_of, input_shapes
    from tfmot_pam.graph.selection import network_heads

    network = read_model(model)
    wanted = Wanted(input_shapes(network), heads_of(network_heads(network)))
    return load_data(values.data, wanted, options.data_options(values))


main = main_of(_report)
