"""Times a whole merge of two MobileNetV2, and its peak memory.

One command, from the repository's root:

    python -m benchmarks.merging_benchmark

Two randomly initialised MobileNetV2 (width 1.0, 96x96, batch-norm statistics drawn at random) are
merged with method "pam" from 1,024 random images, and the result is checked to run.
"""

from __future__ import annotations

import resource
import time

import keras
import numpy as np
from absl import app, flags

import tfmot_pam
from benchmarks import results_io

_SIZE = flags.DEFINE_integer("size", 96, "Height and width of the images.")
_WIDTH = flags.DEFINE_float("width", 1.0, "Width multiplier of the networks.")
_SAMPLES = flags.DEFINE_integer("samples", 1024, "Calibration samples.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Directory of the results.")


def make_network(classes: int, rng: np.random.Generator) -> keras.Model:
    model = keras.applications.MobileNetV2(
        input_shape=(_SIZE.value, _SIZE.value, 3),
        alpha=_WIDTH.value,
        weights=None,
        classes=classes,
    )
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "moving_mean"):
            weight.assign(rng.normal(0.0, 0.2, weight.shape))
    return model


def main(argv):
    del argv
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    models = {"first": make_network(10, rng), "second": make_network(7, rng)}
    x = rng.uniform(-1, 1, (_SAMPLES.value, _SIZE.value, _SIZE.value, 3)).astype("float32")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    merged = tfmot_pam.merge(models, x, width="union", verbose=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    outputs = merged(x[:2])
    row = {
        "networks": f"2 x MobileNetV2 {_WIDTH.value}, {_SIZE.value}x{_SIZE.value}",
        "samples": _SAMPLES.value,
        "seconds": round(seconds, 1),
        "peak memory, GiB": round(peak, 2),
        "of it before merging, GiB": round(before, 2),
        "shared": round(merged.merge_plan.shared, 3),
        "outputs finite": bool(all(np.isfinite(v).all() for v in outputs.values())),
    }
    text = "# Merging two MobileNetV2\n\n" + results_io.markdown_table([row])
    results_io.write(_OUTPUT.value, "merging", text, {"rows": [row]})


if __name__ == "__main__":
    app.run(main)
