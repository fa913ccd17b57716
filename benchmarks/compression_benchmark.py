"""Fashion-MNIST composites, two tasks: `compress` against pruning the networks separately.

One command, from the repository's root:

    python -m benchmarks.compression_benchmark --data_dir=DIR

Per seed: trains a LeNet-5 for each task, then compresses them to the same tolerance with the same
effort per round: merged by each method, separately, and merged with a usage that favours the first
task. The tolerance is held on composites of training images that no network was trained on; the
table shows the test split, which nothing before has seen.
"""

from __future__ import annotations

import time

import keras
import numpy as np
from absl import app, flags

import tfmot_pam
from benchmarks import fashion, results_io

_DATA = flags.DEFINE_string("data_dir", "data", f"Folder that holds {fashion.FILE}.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.")
_METHODS = flags.DEFINE_list("methods", ["pam"], "Merge methods to compare.")
_COUNT = flags.DEFINE_integer("composites", 8000, "Composite images to train on.")
_DROP = flags.DEFINE_float("max_accuracy_drop", 0.01, "Tolerance per task.")
_EPOCHS = flags.DEFINE_integer("epochs", 2, "Epochs of fine-tuning a round.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Directory of the results.")

# Training images before it make training composites, those after it validation composites.
_HELD = 50_000
FAVOURED = {("upper",): 0.8, ("lower",): 0.1, ("upper", "lower"): 0.1}


def accuracies(model: keras.Model, x, labels) -> dict[str, float]:
    """Percent of labels that are right, by task."""
    outputs = model.predict(x, batch_size=256, verbose=0)
    if not isinstance(outputs, dict):
        outputs = {next(iter(labels)): outputs}
    return {t: 100 * float(np.mean((outputs[t] > 0.5) == labels[t])) for t in outputs}


def squeeze(models, train, validation, usage, method, seed):
    options = {"epochs": _EPOCHS.value, "seed": seed, "usage": usage, "method": method}
    options["validation_data"] = validation
    return tfmot_pam.compress(models, train, _DROP.value, verbose=1, **options)


def run_seed(seed: int, train, validation, test) -> list[dict]:
    x, labels = test
    models, alone = {}, {}
    for task in fashion.TASKS:
        keras.utils.set_random_seed(seed + 100 * len(models))
        model = fashion.lenet((56, 56, 1), 5, "sigmoid", task)
        models[task] = fashion.train(model, train[0], train[1][task], "binary_crossentropy", 15)
        alone[task] = accuracies(model, x, {task: labels[task]})[task]
    rows = []

    def add(name, costs, reached, seconds):
        for chosen, macs in costs.items():
            whole = sum(tfmot_pam.cost(models[task]).macs for task in chosen)
            row = {
                "way": name,
                "seed": seed,
                "combination": "+".join(chosen),
                "MACs": macs,
                "of the originals": round(macs / whole, 3),
                "lost, points": {t: round(alone[t] - reached[t], 2) for t in chosen},
                "seconds": round(seconds),
            }
            rows.append(row)
            print(row, flush=True)

    start = time.perf_counter()
    singles, reached = {}, {}
    for task, model in models.items():
        own = [(images, {task: labels_of[task]}) for images, labels_of in (train, validation)]
        singles[task] = squeeze({task: model}, *own, None, "pam", seed).model
        reached |= accuracies(singles[task], x, {task: labels[task]})
    macs = {task: tfmot_pam.cost(model).macs for task, model in singles.items()}
    costs = {(task,): value for task, value in macs.items()}
    costs[tuple(macs)] = sum(macs.values())
    add("separate", costs, reached, time.perf_counter() - start)
    ways = [(method, None, method) for method in _METHODS.value]
    for name, usage, method in [*ways, ("pam, favouring upper", FAVOURED, "pam")]:
        start = time.perf_counter()
        model = squeeze(models, train, validation, usage, method, seed).model
        costs = {c: tfmot_pam.cost(model, c).macs for c in tfmot_pam.combinations(model)}
        add(name, costs, accuracies(model, x, labels), time.perf_counter() - start)
    return rows


def summary(rows: list[dict]) -> list[dict]:
    result = []
    for way in dict.fromkeys(row["way"] for row in rows):
        for combination in dict.fromkeys(row["combination"] for row in rows):
            own = [r for r in rows if (r["way"], r["combination"]) == (way, combination)]
            shares = [row["of the originals"] for row in own]
            macs = [row["MACs"] for row in own]
            lost = [max(row["lost, points"].values()) for row in own]
            result.append(
                {
                    "way": way,
                    "combination": combination,
                    "MACs": f"{np.mean(macs):,.0f} +- {np.std(macs):,.0f}",
                    "of the originals": f"{np.mean(shares):.3f} +- {np.std(shares):.3f}",
                    "worst loss, points": max(lost),
                }
            )
    return result


def main(argv):
    del argv
    images, classes = fashion.load(_DATA.value, "train")
    test = fashion.composites(*fashion.load(_DATA.value, "test"), 4000, seed=1)
    rows = []
    for seed in range(_SEEDS.value):
        # The garments of the validation composites are in no training composite.
        train = fashion.composites(images[:_HELD], classes[:_HELD], _COUNT.value, seed)
        validation = fashion.composites(images[_HELD:], classes[_HELD:], 2000, seed)
        rows += run_seed(seed, train, validation, test)
    text = "\n\n".join(
        [
            "# Fashion-MNIST composites: compress() against separate pruning",
            f"Tolerance {100 * _DROP.value:g} points on validation data, {_COUNT.value} training "
            "images; loss on the test split, worst task.",
            results_io.markdown_table(summary(rows)),
            results_io.markdown_table(rows),
        ]
    )
    results_io.write(_OUTPUT.value, "compression", text, {"summary": summary(rows), "rows": rows})


if __name__ == "__main__":
    app.run(main)
