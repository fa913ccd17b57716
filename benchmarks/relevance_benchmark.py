r"""Times the relevance estimators against the published loop, and over sizes.

One command, from the repository's root:

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.relevance_benchmark

(the loop's products are too small for several BLAS threads, which only wait for each other).
The first table compares the `kde` estimator with a direct transcription of the published loop, in
one run, on the same data: seconds, peak memory, and whether both pick the same channels in the
same order. The loop takes minutes at full size; `--nofull` runs only its first `--steps` steps
there, and a whole run at a quarter of the channels, and reports just that. The second table times
the estimators alone, each size in a process of its own; sizes that `kde` would need more than
`--limit` seconds for, at the speed of the comparison, are skipped and say so.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pathlib
import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import published_loop, results_io
from tfmot_pam.merging.relevance import Observations, relevance_path
from tfmot_pam.merging.targets import Targets

_CHANNELS = flags.DEFINE_integer("channels", 256, "Channels of the comparison.")
_SAMPLES = flags.DEFINE_integer("samples", 128, "Samples of the comparison.")
_LABELS = flags.DEFINE_integer("labels", 20, "Binary labels, in both tables.")
_FULL = flags.DEFINE_bool("full", True, "Whether the published loop runs to its end.")
_STEPS = flags.DEFINE_integer("steps", 4, "With --nofull: steps of the published loop.")
_SCALING = flags.DEFINE_bool("scaling", True, "Whether to write the second table.")
_LIMIT = flags.DEFINE_integer("limit", 120, "Seconds that a size may be expected to take.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Directory of the results.")

SIZES_CHANNELS = (64, 256, 1024, 4096)
SIZES_SAMPLES = (128, 512, 2048)


def make_sample(channels: int, samples: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rectified activations of a few common factors, and labels of the same factors.

    The activations are small (deviation about 0.1), so that the published estimate does not
    saturate early and every step is a real choice.
    """
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(samples, 12))
    mixed = factors @ rng.normal(size=(12, channels)) / np.sqrt(12)
    columns = 0.15 * np.maximum(mixed + 0.5 * rng.normal(size=(samples, channels)), 0.0)
    chosen = factors @ rng.normal(size=(12, labels)) > 0.0
    return columns.astype(np.float32), chosen.astype(np.float64)


def timed(function: Callable[[], Any], repeats: int = 1) -> tuple[Any, float, float]:
    """Returns the result and the medians of the wall-clock and of the processor seconds."""
    seconds = []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        result = function()
        seconds.append((time.perf_counter() - start, time.process_time() - used))
    wall, processor = np.median(seconds, axis=0)
    return result, float(wall), float(processor)


def traced_peak(function: Callable[[], Any]) -> float:
    """Returns the MiB that NumPy and Python allocate at the most."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def compare(channels: int, samples: int, labels: int, steps: int) -> dict[str, Any]:
    """Runs the published loop for `steps` steps and the estimator to its end."""
    columns, chosen = make_sample(channels, samples, labels)
    observations = Observations(columns, np.arange(channels))
    targets = Targets("binary", chosen)

    def fast():
        return relevance_path(observations, targets, estimator="kde")

    def published(first: int):
        return published_loop.greedy_path(
            columns.astype(np.float64),
            np.arange(channels),
            lambda selected: published_loop.kde_relevance(selected, chosen),
            first,
        )

    path, fast_seconds, fast_processor = timed(fast, repeats=3)
    (order, values), seconds, processor = timed(lambda: published(steps))
    return {
        "channels": channels,
        "samples": samples,
        "labels": labels,
        "published_steps": steps,
        "published_seconds": seconds,
        "published_processor_seconds": processor,
        "fast_seconds": fast_seconds,
        "fast_processor_seconds": fast_processor,
        "ratio": seconds / fast_seconds if steps == channels else None,
        "processor_ratio": processor / fast_processor if steps == channels else None,
        "same_channels": bool(np.array_equal(order, path.order[:steps])),
        "max_abs_error": float(np.abs(values - path.values[:steps]).max()),
        "tied_steps": int(np.sum(np.diff(path.values) <= 1e-12)),
        "fast_peak_mib": traced_peak(fast),
        "published_peak_mib": traced_peak(lambda: published(1)),
    }


def _resident_peak() -> float:
    """Returns the largest MiB this process held; `getrusage` would count its parent's as well."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _run_size(estimator: str, channels: int, samples: int, labels: int) -> tuple[float, float]:
    columns, chosen = make_sample(channels, samples, labels)
    observations = Observations(columns, np.arange(channels))
    _, seconds, _ = timed(
        lambda: relevance_path(observations, Targets("binary", chosen), estimator=estimator)
    )
    return seconds, _resident_peak()


def products(channels: int, samples: int, labels: int) -> float:
    """Returns the multiplications that a whole `kde` path takes."""
    return channels**2 * samples**2 * (1 + labels) / 2


def scaling(labels: int, limit: float, products_per_second: float) -> Iterator[dict[str, Any]]:
    """Yields one row per estimator and size; seconds are None where `kde` is skipped."""
    context = multiprocessing.get_context("spawn")
    for estimator, channels, samples in itertools.product(
        ("gaussian", "kde"), SIZES_CHANNELS, SIZES_SAMPLES
    ):
        row = {"estimator": estimator, "channels": channels, "samples": samples}
        expected = products(channels, samples, labels) / products_per_second
        if estimator == "kde" and expected > limit:
            yield row | {"seconds": None, "peak_mib": None, "expected_seconds": expected}
            continue
        # A process of its own, so that the peak is this size's.
        with futures.ProcessPoolExecutor(1, context, results_io.end_with_parent) as pool:
            seconds, peak = pool.submit(_run_size, estimator, channels, samples, labels).result()
        row |= {"seconds": seconds, "peak_mib": peak}
        print(row, flush=True)
        yield row


def to_markdown(report: dict[str, Any]) -> str:
    """Returns both tables."""
    machine = report["machine"]
    lines = [
        "# Relevance estimators",
        "",
        f"{machine['cores']} cores, Python {machine['python']}, NumPy {machine['numpy']}; "
        f"{report['labels']} binary labels. BLAS threads: {machine['blas_threads']}. "
        f"Load average at start and end: {machine['load']}.",
        "",
        "## `kde` against the published loop, same run, same data",
        "",
        "| n | N | L | steps of the loop | loop s (processor s) | fast s (processor s), whole path "
        "| ratio (processor) | same channels | max abs error | tied steps | peak MiB loop / fast |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["comparison"]:
        ratio = "not comparable"
        if row["ratio"] is not None:
            ratio = f"{row['ratio']:.0f}x ({row['processor_ratio']:.0f}x)"
        lines.append(
            f"| {row['channels']} | {row['samples']} | {row['labels']} "
            f"| {row['published_steps']} of {row['channels']} "
            f"| {row['published_seconds']:.1f} ({row['published_processor_seconds']:.1f}) "
            f"| {row['fast_seconds']:.2f} ({row['fast_processor_seconds']:.2f}) | {ratio} "
            f"| {'yes' if row['same_channels'] else 'NO'} "
            f"| {row['max_abs_error']:.1e} | {row['tied_steps']} "
            f"| {row['published_peak_mib']:.1f} (one step) / {row['fast_peak_mib']:.1f} |"
        )
    lines += [
        "",
        f"## The whole path alone (`kde` only where it is expected within {report['limit']} s)",
        "",
        "| estimator | n | N | seconds | peak MiB of the whole process |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in report["scaling"]:
        if row["seconds"] is None:
            took, peak = f"skipped: expected about {row['expected_seconds']:.0f}", "-"
        else:
            took, peak = f"{row['seconds']:.2f}", f"{row['peak_mib']:.0f}"
        lines.append(
            f"| {row['estimator']} | {row['channels']} | {row['samples']} | {took} | {peak} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws seconds over channels, one line per estimator and number of samples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for estimator, style in (("gaussian", "o-"), ("kde", "s--")):
        for color, samples in enumerate(SIZES_SAMPLES):
            line = [r for r in rows if r["estimator"] == estimator and r["samples"] == samples]
            line = [(r["channels"], r["seconds"]) for r in line if r["seconds"] is not None]
            axes.plot(*zip(*line, strict=True), style, color=f"C{color}")
            axes.lines[-1].set_label(f"{estimator}, N = {samples}")
    axes.set(xscale="log", yscale="log", xlabel="channels n", ylabel="seconds, whole path")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> None:
    del argv
    loads = [os.getloadavg()[0]]
    channels, samples, labels = _CHANNELS.value, _SAMPLES.value, _LABELS.value
    comparison = [compare(channels, samples, labels, channels if _FULL.value else _STEPS.value)]
    print(comparison[-1], flush=True)
    if not _FULL.value:
        comparison.append(compare(channels // 4, samples, labels, channels // 4))
        print(comparison[-1], flush=True)
    speed = products(channels, samples, labels) / comparison[0]["fast_seconds"]
    rows = list(scaling(labels, _LIMIT.value, speed)) if _SCALING.value else []
    loads.append(os.getloadavg()[0])
    report = {
        "labels": labels,
        "limit": _LIMIT.value,
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "all cores"),
            "load": [round(load, 2) for load in loads],
        },
        "comparison": comparison,
        "scaling": rows,
    }
    output = pathlib.Path(_OUTPUT.value)
    tables = {"comparison": comparison, "scaling": rows}
    results_io.write_records(
        output / "relevance.csv",
        [{"table": name, **row} for name, table in tables.items() for row in table],
    )
    (output / "relevance.md").write_text(to_markdown(report))
    if rows:
        plot(rows, output / "relevance.png")
    print(to_markdown(report))


if __name__ == "__main__":
    app.run(main)
