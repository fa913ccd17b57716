"""Times whole merges of two networks of `keras.applications`, and their peak memory.

One command, from the repository's root:

    python -m benchmarks.merging_benchmark
    python -m benchmarks.merging_benchmark --networks=EfficientNetB4 --size=380 --samples=64,128

Two networks with random weights (and the batch-norm statistics of what they compute) are merged
with method "pam" from random images, and the result is checked to run. Each row is kept as it
comes, in a process of its own with one thread, and is not made again: call it again to go on.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pathlib
import resource
import sys
import time
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import results_io

_NETWORKS = flags.DEFINE_list("networks", ["MobileNetV2"], "Names in keras.applications.")
_SIZE = flags.DEFINE_integer("size", 96, "Height and width of the images.")
_SAMPLES = flags.DEFINE_list("samples", ["1024"], "Numbers of calibration samples.")
_WORK = flags.DEFINE_string("work_dir", "build/merging", "Rows that were made already.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Directory of the results.")

_KIB = 1 if sys.platform == "darwin" else 1024  # of the unit in which memory is told
_FEW = 8  # images from which batch-norm statistics are taken


def measure(name: str, size: int, samples: int) -> dict[str, Any]:
    """One row: a merge of two networks of an application."""
    import tfmot_pam
    from benchmarks import applications

    shape = (size, size, 3)
    x = applications.pixels(shape, samples)
    models = applications.two_models(name, input_shape=shape)
    models = {task: applications.alive(model, x[:_FEW]) for task, model in models.items()}
    before, start = _peak(), time.perf_counter()
    merged = tfmot_pam.merge(models, x, samples=samples, verbose=0)
    seconds, peak = time.perf_counter() - start, _peak()
    outputs = merged(x[:2])
    return {
        "networks": f"2 x {name}, {size}x{size}",
        "samples": samples,
        "seconds": round(seconds, 1),
        "peak memory, GiB": round(peak, 2),
        "of it before merging, GiB": round(before, 2),
        "shared": round(merged.merge_plan.shared, 3),
        "outputs finite": bool(all(np.isfinite(v).all() for v in outputs.values())),
    }


def _peak() -> float:
    """The most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / 2**30


def main(argv):
    del argv
    results_io.one_thread()
    context = multiprocessing.get_context("spawn")
    path = pathlib.Path(_WORK.value, "rows.json")
    rows = results_io.read_raw(path, [])
    done = {(row["networks"], row["samples"]) for row in rows}
    for name in _NETWORKS.value:
        for samples in map(int, _SAMPLES.value):
            if (f"2 x {name}, {_SIZE.value}x{_SIZE.value}", samples) in done:
                continue
            # A process of its own: the peak of one must not be that of another.
            with concurrent.futures.ProcessPoolExecutor(
                1, context, initializer=results_io.end_with_parent
            ) as pool:
                rows.append(pool.submit(measure, name, _SIZE.value, samples).result())
            results_io.write_raw(path, rows)
            text = "# Merging two networks\n\n" + results_io.markdown_table(rows)
            results_io.write(_OUTPUT.value, "merging", text, rows)


if __name__ == "__main__":
    app.run(main)
