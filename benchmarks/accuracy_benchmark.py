"""Accuracy of merged speech networks: before any training, and after fine-tuning.

One command, from the repository's root:

    python -m benchmarks.accuracy_benchmark

Trains a digit and a speaker network per seed on the bundled spoken digits (the demo's plain
network, and a small residual network with batch norm), merges them at several shares of shared
channels, with compensation and without, fine-tunes the compensated ones as the demo does, and
measures the test split, which nothing before has seen. Every seed counts; the losers are listed.
"""

from __future__ import annotations

import math

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tfmot_pam
from benchmarks import results_io
from examples import spoken_digits as demo

_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.")
_SHARES = flags.DEFINE_list("shares", ["0.7", "0.5", "0.25"], "Wanted shares.")
_NETWORKS = flags.DEFINE_list("networks", ["plain", "residual"], "Which networks.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Directory of the results.")


def residual_network(task: str, mean: float, std: float) -> keras.Model:
    """A small residual network with batch norm."""
    inputs = keras.Input((32, 32, 1), name="spectrogram")
    x = layers.Rescaling(1 / std, offset=-mean / std)(inputs)
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization()(y)
        if stride > 1:
            x = layers.Conv2D(width, 1, stride, use_bias=False)(x)
            x = layers.BatchNormalization()(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(demo.CLASSES[task], activation="softmax", name=task)(x)
    return keras.Model(inputs, outputs, name=f"{task}_network")


BUILDERS = {"plain": demo.build_network, "residual": residual_network}


def mcnemar(before: np.ndarray, after: np.ndarray) -> float:
    """The exact two-sided p-value that two classifiers err alike on the same samples."""
    lost, won = int(np.sum(before & ~after)), int(np.sum(~before & after))
    total = lost + won
    tail = sum(math.comb(total, k) for k in range(min(lost, won) + 1)) / 2**total
    return min(1.0, 2.0 * tail)


def correct(model: keras.Model, x: np.ndarray, labels) -> dict[str, np.ndarray]:
    outputs = model.predict(x, verbose=0)
    if not isinstance(outputs, dict):
        (task,) = labels
        outputs = {task: outputs}
    return {task: outputs[task].argmax(axis=-1) == labels[task] for task in labels}


def run_seed(kind: str, seed: int, shares: list[float]) -> list[dict]:
    keras.utils.set_random_seed(seed)
    train = demo.load_data(str(demo.ARCHIVE), "train")
    x, labels = demo.load_data(str(demo.ARCHIVE), "test")
    models = {
        task: demo.train_network(task, train[0], train[1][task], 12, BUILDERS[kind])
        for task in demo.CLASSES
    }
    alone = {t: correct(m, x, {t: labels[t]})[t] for t, m in models.items()}
    rows = []
    for share in shares:
        sharing = {"share": share, "width": "union"}
        merged, cut = (
            tfmot_pam.merge(models, train, compensation=fit, **sharing, seed=seed, verbose=0)
            for fit in (True, False)
        )
        tuned = tfmot_pam.fine_tune(merged, train, models, epochs=3, seed=seed, verbose=0)
        stages = {
            "uncompensated": correct(cut, x, labels),
            "merged": correct(merged, x, labels),
            "fine-tuned": correct(tuned, x, labels),
        }
        costs = {"+".join(c): tfmot_pam.cost(tuned, c).macs for c in tfmot_pam.combinations(tuned)}
        for task in demo.CLASSES:
            row = {
                "network": kind,
                "seed": seed,
                "wanted share": share,
                "share": round(merged.merge_plan.shared, 2),
                "task": task,
                "alone": round(100 * float(alone[task].mean()), 2),
            }
            for stage, found in stages.items():
                row[stage] = round(100 * float(found[task].mean()), 2)
            row["lost before training"] = round(row["alone"] - row["merged"], 2)
            row["lost after"] = round(row["alone"] - row["fine-tuned"], 2)
            row["p after"] = round(mcnemar(alone[task], stages["fine-tuned"][task]), 3)
            rows.append({**row, "MACs": costs})
        print(rows[-2], rows[-1], flush=True)
    return rows


def summary(rows: list[dict]) -> list[dict]:
    result = []
    for kind in dict.fromkeys(row["network"] for row in rows):
        for share in dict.fromkeys(row["wanted share"] for row in rows):
            own = [r for r in rows if r["network"] == kind and r["wanted share"] == share]
            line = {"network": kind, "wanted share": share}
            for key in ("alone", "uncompensated", "merged", "fine-tuned"):
                values = [row[key] for row in own]
                line[key] = f"{np.mean(values):.2f} +- {np.std(values):.2f}"
            line["worst loss before training"] = max(row["lost before training"] for row in own)
            line["worst loss after"] = max(row["lost after"] for row in own)
            line["smallest p after"] = min(row["p after"] for row in own)
            result.append(line)
    return result


def main(argv):
    del argv
    shares = [float(share) for share in _SHARES.value]
    rows = [
        row
        for kind in _NETWORKS.value
        for seed in range(_SEEDS.value)
        for row in run_seed(kind, seed, shares)
    ]
    lines = [{k: v for k, v in row.items() if k != "MACs"} for row in rows]
    text = "\n\n".join(
        [
            "# Accuracy of merged speech networks",
            "Test accuracy in %, both tasks and all seeds; p is McNemar's exact test against the "
            "single network.",
            results_io.markdown_table(summary(rows)),
            "Every merge:",
            results_io.markdown_table(lines),
        ]
    )
    results_io.write(_OUTPUT.value, "accuracy", text, rows)


if __name__ == "__main__":
    app.run(main)
