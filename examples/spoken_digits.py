"""Two spoken-digit networks become one: train, merge, fine-tune, export, report.

One network hears *what* was said, the other *who* said it; a phone runs either, or both.
`make demo` runs this; so does `python examples/spoken_digits.py --output_dir=build/demo`.
"""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tflite_export
import tfmot_pam

ARCHIVE = pathlib.Path(__file__).parent / "data" / "fsdd_logmel_32.npz"
CLASSES = {"digit": 10, "speaker": 6}

_DATA = flags.DEFINE_string("data", str(ARCHIVE), "Spoken digits as 32x32 log-mel images.")
_OUTPUT = flags.DEFINE_string("output_dir", "build/demo", "Where to write; must not exist yet.")
_EPOCHS = flags.DEFINE_integer("epochs", 12, "Epochs of training per network.", lower_bound=1)
_TUNE = flags.DEFINE_integer("fine_tune_epochs", 3, "Epochs of fine-tuning.", lower_bound=1)
_SHARE = flags.DEFINE_float("share", 0.5, "Wanted share of shared channels, 0 to 1.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.")


def load_data(path: str, split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images `[n, 32, 32, 1]` and class indices `[n]` by task."""
    archive = np.load(path)
    columns = json.loads(str(archive["meta"]))["columns"]
    labels = archive[f"y_{split}"].astype("int64")
    x = archive[f"x_{split}"][..., None].astype("float32")
    return x, {task: labels[:, columns.index(task)] for task in CLASSES}


def build_network(task: str, mean: float, std: float) -> keras.Model:
    """A small network such as anyone might have trained, for one task."""
    inputs = keras.Input((32, 32, 1), name="spectrogram")
    x = layers.Rescaling(1 / std, offset=-mean / std)(inputs)
    for index, filters in enumerate((16, 32, 48, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{index}")(x)
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    outputs = layers.Dense(CLASSES[task], activation="softmax", name=task)(x)
    return keras.Model(inputs, outputs, name=f"{task}_network")


def train_network(
    task: str, x: np.ndarray, y: np.ndarray, epochs: int, build=build_network
) -> keras.Model:
    """What you have already: a model trained for one task."""
    print(f"Training the {task} network")
    model = build(task, float(x.mean()), float(x.std()))
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-len(x) // 32))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=2)
    return model


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of samples whose largest output is the label."""
    return float(np.mean(predictions.argmax(axis=-1) == labels))


def main(argv: list[str]) -> None:
    """Runs the tutorial from training to the exported files."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True)
    keras.utils.set_random_seed(_SEED.value)
    train = load_data(_DATA.value, "train")
    models = {t: train_network(t, train[0], train[1][t], _EPOCHS.value) for t in CLASSES}

    # Merge: the result works before any training. It sees the training split only.
    merged = tfmot_pam.merge(models, train, share=_SHARE.value, seed=_SEED.value)
    merged.merge_plan.save(output / "plan.json")

    # Fine-tune all combinations on the originals' outputs and the labels.
    tuned = tfmot_pam.fine_tune(
        merged, train, models, epochs=_TUNE.value, seed=_SEED.value, verbose=2
    )
    tuned.save(output / "merged.keras")

    # Export one TFLite file a combination, and one of all; each is run and compared with Keras.
    x, labels = load_data(_DATA.value, "test")
    *files, together = tflite_export.export(tuned, output / "tflite", samples=x[:64])
    print(f"{together.path.name}, all combinations in one file: {together.bytes:,} bytes")
    for task, model in models.items():
        (file,) = tflite_export.export(model, output / f"{task}_alone", samples=x[:64])
        latency = tflite_export.measure_latency(file.path)
        print(f"The {task} network alone: {file.bytes:,} bytes, {latency:.3f} ms")

    # Report: one table, and a picture of the groups.
    reached = {name: model.predict(x, verbose=0) for name, model in models.items()}
    before, after = (model.predict(x, verbose=0) for model in (merged, tuned))
    report = tfmot_pam.report(
        tuned,
        originals=models,
        accuracy={task: accuracy(after[task], labels[task]) for task in CLASSES},
        original_accuracy={task: accuracy(reached[task], labels[task]) for task in CLASSES},
        latency={file.tasks: tflite_export.measure_latency(file.path) for file in files},
        file_bytes={file.tasks: file.bytes for file in files},
    )
    report.to_json(output / "report.json")
    report.plot(output / "groups.png")
    merged_only = {task: round(accuracy(before[task], labels[task]), 4) for task in CLASSES}
    print("Accuracy right after the merge, before any training:", merged_only)
    print(report)
    print(f"Model, plan, report, picture and TFLite files are in {output}")


if __name__ == "__main__":
    app.run(main)
