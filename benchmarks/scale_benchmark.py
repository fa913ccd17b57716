"""How time and memory of `compress` grow with the number of tasks, and what of it is not training.

One command, from the repository's root:

    python -m benchmarks.scale_benchmark --data_dir=DIR

For each number of tasks: LeNet-5 on composites of garments, whose ten labels are dealt out to the
tasks, trained briefly and compressed, in a process of its own with one thread.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from absl import app, flags

import tfmot_pam
from benchmarks import fashion, results_io

_DATA = flags.DEFINE_string("data_dir", "data", "Folder that holds the data sets.")
_TASKS = flags.DEFINE_list("tasks", ["2", "3", "5", "8"], "Numbers of tasks.")
_EFFORT = flags.DEFINE_integer("effort", 8, "Epochs per network.")
_SAMPLES = flags.DEFINE_integer("samples", 8000, "Training samples.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Page's folder.")

_EPOCHS, _VALIDATION = 3, 1000
_LABELS = 10
_KIB = 1 if sys.platform == "darwin" else 1024  # of the unit in which memory is told


def groups(count: int) -> dict[str, list[int]]:
    """The labels dealt out to so many tasks."""
    return {
        f"task{t}": part.tolist() for t, part in enumerate(np.array_split(range(_LABELS), count))
    }


def measure(data_dir: str, count: int, effort: int, samples: int) -> dict[str, Any]:
    """The numbers of one row."""
    images, classes = fashion.load(data_dir, "train")
    tasks = groups(count)
    training = fashion.composites(images[:50_000], classes[:50_000], samples, 0, tasks)
    validation = fashion.composites(images[50_000:], classes[50_000:], _VALIDATION, 0, tasks)
    models = {}
    for place, (task, labels) in enumerate(tasks.items()):
        keras.utils.set_random_seed(place)
        network = fashion.lenet(training[0].shape[1:], len(labels), "sigmoid", task)
        models[task] = fashion.train(
            network, training[0], training[1][task], "binary_crossentropy", _EPOCHS
        )
    before = _memory()
    began = time.perf_counter()
    result = tfmot_pam.compress(
        models, training, 0.05, validation_data=validation, effort=effort, verbose=0
    )
    seconds = time.perf_counter() - began
    return {
        "tasks": count,
        "combinations": 2**count - 1,
        "seconds": round(seconds),
        "peak memory, GiB": round(_memory() / 2**30, 2),
        "before, GiB": round(before / 2**30, 2),
        "outside of rounds": 1.0 - sum(arm.seconds for arm in result.arms) / seconds,
        "arms": {
            arm.name: {"seconds": arm.seconds, "training steps": arm.step_seconds / arm.seconds}
            for arm in result.arms
        },
    }


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the page shows it: shares in percent, a column an arm."""
    arms = {
        f"{name}: seconds, training steps": f"{arm['seconds']:.0f}, "
        f"{100 * arm['training steps']:.0f} %"
        for name, arm in row["arms"].items()
    }
    common = {key: value for key, value in row.items() if key != "arms"}
    return {**common, "outside of rounds": f"{100 * row['outside of rounds']:.0f} %", **arms}


def _memory() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def main(argv):
    del argv
    results_io.one_thread()
    context = multiprocessing.get_context("spawn")
    rows = []
    for count in map(int, _TASKS.value):
        # A process of its own: the peak of one must not be that of another.
        with concurrent.futures.ProcessPoolExecutor(
            1, context, initializer=results_io.end_with_parent
        ) as pool:
            found = pool.submit(measure, _DATA.value, count, _EFFORT.value, _SAMPLES.value)
            rows.append(found.result())
        print(rows[-1], flush=True)
    text = "\n\n".join(
        [
            "# Time and memory of compress() by the number of tasks",
            f"LeNet-5 on composites of garments, ten labels dealt out to the tasks, "
            f"{_SAMPLES.value:,} samples, {_EFFORT.value} epochs a network and arm, one thread. "
            "Outside of rounds: the originals' outputs on all views, trials of starts, merges. "
            "What of an arm's time is not training steps goes to choosing and fitting channels, "
            "to making graphs and to validation.",
            results_io.markdown_table([shown(row) for row in rows]),
        ]
    )
    results_io.write(_OUTPUT.value, "scale", text, rows)


if __name__ == "__main__":
    app.run(main)
