"""Measures how long a TFLite file takes to run."""

from __future__ import annotations

import pathlib
import statistics
import time

from tflite_export.silence import quiet_stderr
from tflite_export.verify import open_file


def measure_latency(
    path: str | pathlib.Path, *, threads: int = 1, runs: int = 50, warmup: int = 10
) -> float:
    """Measures the median time of one run of a TFLite file on this machine.

    Use it to compare files with each other within one process; a phone's times differ, and so do
    those of a busy machine.

    Args:
        path: The `.tflite` file.
        threads: Threads that LiteRT may use.
        runs: Timed runs, at least 1.
        warmup: Runs before them that are not timed.

    Returns:
        The median time in milliseconds. Inputs are what the allocated tensors hold.

    Raises:
        ValueError: There is no such file, `runs` or `threads` is less than 1, or the file has
            several signatures (see `benchmark`).

    Example:
    >>> measure_latency("out/digit.tflite")  # doctest: +SKIP
    0.42
    """
    if not isinstance(path, (str, pathlib.Path)) or not pathlib.Path(path).is_file():
        raise ValueError(
            f"There is no file {str(path)!r}. Expected a `.tflite` file. Correct the path, or "
            "export again."
        )
    if runs < 1 or threads < 1:
        raise ValueError(f"Received runs={runs}, threads={threads}; both must be at least 1.")
    interpreter = open_file(path, threads)
    signatures = list(interpreter.get_signature_list())
    if len(signatures) > 1:
        raise ValueError(
            f"'{path}' has the signatures {signatures}; expected a file with one. Measure it with "
            "tflite_export.benchmark."
        )
    with quiet_stderr():
        interpreter.allocate_tensors()
        for _ in range(warmup):
            interpreter.invoke()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            interpreter.invoke()
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
