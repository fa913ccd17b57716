"""Times a signature with the benchmark tool that comes with LiteRT, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

_TOOL = "ai_edge_litert.tools.benchmark_litert_model"


@dataclasses.dataclass(frozen=True)
class Latency:
    """Times of one signature in milliseconds; the tool rounds to 0.01.

    Attributes:
        threads: Threads that LiteRT could use.
        median_ms: Median over the rounds of each round's median run.
        lowest_ms: The smallest of the rounds' medians.
        highest_ms: The largest of the rounds' medians.
        p95_ms: Median over the rounds of the time that 95 % of the runs stay below.
        init_ms: Median time to load and prepare the file.
    """

    threads: int
    median_ms: float
    lowest_ms: float
    highest_ms: float
    p95_ms: float
    init_ms: float


def run_tool(
    path: str | pathlib.Path, signature: str, *, threads: int, runs: int, warmup: int
) -> dict[str, Any]:
    """Runs the vendor's tool once.

    Args:
        path: The `.tflite` file.
        signature: Name of the signature to run.
        threads: Threads that LiteRT may use.
        runs: Timed runs.
        warmup: Runs before them that are not timed.

    Returns:
        The tool's `latency` record, in milliseconds.

    Raises:
        ValueError: The tool fails, or this version of LiteRT comes without it.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder, "result.json")
        options = {
            "--model": path,
            "--signature": signature,
            "--num_threads": threads,
            "--num_runs": runs,
            "--warmup_runs": warmup,
            "--result_json": result,
        }
        arguments = [f"{name}={value}" for name, value in options.items()]
        done = subprocess.run(
            [sys.executable, "-m", _TOOL, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode or not result.exists():
            lines = [
                line for line in done.stderr.splitlines() if "ERROR" in line or "Error" in line
            ]
            raise ValueError(
                f"The benchmark tool failed on signature '{signature}' of '{path}': "
                f"{(lines or done.stderr.splitlines() or ['no message'])[-1]}. It comes with "
                "ai-edge-litert 2.3 and later."
            )
        return json.loads(result.read_text(encoding="utf-8"))["latency"]


def summarise(threads: int, rounds: Sequence[dict[str, Any]]) -> Latency:
    """Returns the latency that several runs of the tool show."""
    medians = [found["median_ms"] for found in rounds]
    return Latency(
        threads=threads,
        median_ms=statistics.median(medians),
        lowest_ms=min(medians),
        highest_ms=max(medians),
        p95_ms=statistics.median(found["p95_ms"] for found in rounds),
        init_ms=statistics.median(found["init_ms"] for found in rounds),
    )
