"""LeNet-5 on Fashion-MNIST, pruned to a quarter of its computation while it trains.

One command, from the repository's root:

    python -m benchmarks.pruning_benchmark --data_dir=DIR

Per seed: trains LeNet-5 on 28x28 images, prunes it with each importance under a TFMOT
`PolynomialDecay` that ends within `--epochs` epochs, and measures the test split, which nothing
before has seen.
"""

from __future__ import annotations

import time

import keras
import numpy as np
import tensorflow_model_optimization as tfmot
from absl import app, flags

import tfmot_pam
from benchmarks import fashion, results_io

_DATA = flags.DEFINE_string("data_dir", "data", f"Folder that holds {fashion.FILE}.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.")
_IMPORTANCES = flags.DEFINE_list("importances", ["taylor", "vib", "magnitude"], "Importances.")
_EPOCHS = flags.DEFINE_integer("epochs", 10, "Epochs of pruning and fine-tuning.")
_TRAIN = flags.DEFINE_integer("train_epochs", 12, "Epochs of training before.")
_FRACTION = flags.DEFINE_float("fraction", 0.75, "Share of the MACs to remove.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Directory of the results.")


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return 100 * float(np.mean(model.predict(x, batch_size=256, verbose=0).argmax(-1) == y))


def prune(model: keras.Model, importance: str, x, y, seed: int) -> keras.Model:
    steps = _EPOCHS.value * -(-len(x) // 64)
    decay = tfmot.sparsity.keras.PolynomialDecay(0.0, _FRACTION.value, 0, int(0.4 * steps))
    gated = tfmot_pam.prune_channels(model, decay, importance, measure="macs", seed=seed)
    tuned = tfmot_pam.fine_tune(
        gated,
        (x, {"garment": y}),
        {"garment": model},
        epochs=_EPOCHS.value,
        batch_size=64,
        learning_rate=2e-3,
        callbacks=[tfmot_pam.UpdatePruningStep()],
        seed=seed,
        verbose=0,
    )
    return tfmot_pam.strip_pruning(tuned)


def run_seed(seed: int, train, test) -> list[dict]:
    keras.utils.set_random_seed(seed)
    model = fashion.lenet((28, 28, 1), 10, "softmax", "garment")
    fashion.train(model, *train, "sparse_categorical_crossentropy", _TRAIN.value)
    alone, whole = accuracy(model, *test), tfmot_pam.cost(model).macs
    rows = []
    for importance in _IMPORTANCES.value:
        start = time.perf_counter()
        small = prune(model, importance, *train, seed)
        row = {
            "importance": importance,
            "seed": seed,
            "alone, %": round(alone, 2),
            "pruned, %": round(accuracy(small, *test), 2),
            "MACs left": round(tfmot_pam.cost(small).macs / whole, 4),
            "widths": [w.shape[-1] for w in small.weights if w.name == "kernel"],
            "seconds": round(time.perf_counter() - start, 1),
        }
        row["lost, points"] = round(row["alone, %"] - row["pruned, %"], 2)
        print(row, flush=True)
        rows.append(row)
    return rows


def main(argv):
    del argv
    train, test = (fashion.load(_DATA.value, split) for split in ("train", "test"))
    rows = [row for seed in range(_SEEDS.value) for row in run_seed(seed, train, test)]
    summary = []
    for importance in _IMPORTANCES.value:
        lost = [row["lost, points"] for row in rows if row["importance"] == importance]
        summary.append(
            {
                "importance": importance,
                "lost, points": f"{np.mean(lost):.2f} +- {np.std(lost):.2f}",
                "worst": max(lost),
                "seeds": len(lost),
            }
        )
    text = "\n\n".join(
        [
            "# LeNet-5 on Fashion-MNIST, pruned while it trains",
            f"{_FRACTION.value:.0%} of the MACs removed within {_EPOCHS.value} epochs; test "
            "accuracy.",
            results_io.markdown_table(summary),
            results_io.markdown_table(rows),
        ]
    )
    results_io.write(_OUTPUT.value, "pruning", text, rows)


if __name__ == "__main__":
    app.run(main)
