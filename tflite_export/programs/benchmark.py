r"""Measures latency, memory and loading of every combination of an exported folder.

Examples:
tflite-benchmark --directory=out
tflite-benchmark --directory=out --threads=1,4 --output=phone.json \
    --alone=digit=digit_alone/digit.tflite,speaker=speaker_alone/speaker.tflite
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from tflite_export.bench.benchmarking import benchmark
from tflite_export.programs.running import explained, run_program


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the program's flags: in a function, so that importing this module defines none."""
    options: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "directory", None, "The folder to measure, as tflite-export wrote it.", **options
    )
    flags.DEFINE_list(
        "alone",
        [],
        "The tasks' single networks to compare with, measured in the same run: task=file.tflite, "
        "separated by commas.",
        **options,
    )
    flags.DEFINE_list(
        "threads",
        [],
        "Numbers of threads, separated by commas; by default 1 and the number of processors.",
        **options,
    )
    flags.DEFINE_integer("runs", 50, "Timed runs per signature and round.", **options)
    flags.DEFINE_integer("warmup", 10, "Runs before them that are not timed.", **options)
    flags.DEFINE_integer("rounds", 3, "How often each signature is timed.", **options)
    flags.DEFINE_string("output", None, "Where to write the results as JSON.", **options)
    flags.DEFINE_bool(
        "update",
        True,
        "Whether to write benchmark.json into the folder and the latencies into its manifest and "
        "model card.",
        **options,
    )
    flags.mark_flags_as_required(["directory"], flag_values=values)


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Measures the folder that the flags name and prints a table.

    Args:
        argv: The command line without its flags: the program's name and nothing else.
        values: The parsed flags of `define_flags`.

    Returns:
        The exit code: 0, or 2 after a message about what is wrong.
    """

    def action() -> None:
        result = benchmark(
            values.directory,
            alone=dict(map(_task_and_file, values.alone)),
            threads=list(map(int, values.threads)) or None,
            runs=values.runs,
            warmup=values.warmup,
            rounds=values.rounds,
            update=values.update,
        )
        if values.output is not None:
            result.to_json(values.output)
        sys.stdout.write(f"{result}\n")

    return explained(action, argv)


def run() -> None:
    """Runs the program on the process's command line; the console script's entry."""
    run_program(main, define_flags, __doc__)


def _task_and_file(text: str) -> tuple[str, str]:
    task, equals, file = text.partition("=")
    if not (task and equals and file):
        raise ValueError(
            f"--alone takes task=file.tflite, separated by commas. Received: {text!r}."
        )
    return task, file


if __name__ == "__main__":
    run()
