"""Two spoken-digit networks become one small one: train, merge, compress, export, report.

One hears *what* was said, the other *who* said it; a phone runs either, or both. By `make demo`.
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
_EFFORT = flags.DEFINE_integer("effort", 24, "Epochs of compressing per network and arm.")
_DROP = flags.DEFINE_float("max_accuracy_drop", 0.005, "Accuracy that a task may lose, 0 to 1.")
_ARMS = flags.DEFINE_list("arms", ["auto"], "What is searched: auto, or arms of docs/guide.md.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Searches that run at a time.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.")


def load_data(path: str, split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images `[n, 32, 32, 1]` and class indices `[n]` by task."""
    archive = np.load(path)
    columns = json.loads(str(archive["meta"]))["columns"]
    labels = archive[f"y_{split}"].astype("int64")
    x = archive[f"x_{split}"][..., None].astype("float32")
    return x, {task: labels[:, columns.index(task)] for task in CLASSES}


def hold_out(x: np.ndarray, labels: dict[str, np.ndarray]) -> tuple[tuple, tuple]:
    """Samples to train on, and every fourth to validate on, which no network is trained on."""
    held = np.arange(len(x)) % 4 == 3
    return tuple((x[part], {t: y[part] for t, y in labels.items()}) for part in (~held, held))


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


def train_network(task: str, x, y, epochs: int, build=build_network, augment=None) -> keras.Model:
    """What you have already: a model trained for one task; `augment` makes each epoch's views."""
    print(f"Training the {task} network")
    model = build(task, float(x.mean()), float(x.std()))
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-len(x) // 32))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        views = x if augment is None else augment(x, rng)
        model.fit(views, y, 32, epochs=epoch + 1, initial_epoch=epoch, verbose=2)
    return model


def shift(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same recordings, up to two frames earlier or later."""
    by = rng.integers(-2, 3, len(x))
    return np.stack([np.roll(image, int(by[i]), axis=1) for i, image in enumerate(x)])


def accuracies(model: keras.Model, x: np.ndarray, labels: dict[str, np.ndarray]) -> dict:
    """The share of samples whose largest output is the label, by task."""
    outputs = model.predict(x, verbose=0)
    outputs = outputs if isinstance(outputs, dict) else {model.output_names[0]: outputs}
    return {t: round(float(np.mean(y.argmax(-1) == labels[t])), 4) for t, y in outputs.items()}


def main(argv: list[str]) -> None:
    """Runs the tutorial from training to the exported files."""
    del argv
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True)
    keras.utils.set_random_seed(_SEED.value)
    train, validation = hold_out(*load_data(_DATA.value, "train"))
    x, labels = load_data(_DATA.value, "test")
    models = {
        t: train_network(t, train[0], train[1][t], _EPOCHS.value, augment=shift) for t in CLASSES
    }

    # Merge: the result works before any training, and no combination costs more than before.
    merged = tfmot_pam.merge(models, train, samples=len(train[0]), seed=_SEED.value)
    merged.merge_plan.save(output / "plan.json")
    print("Right after the merge, before any training:", accuracies(merged, x, labels))
    print(tfmot_pam.report(merged, originals=models))
    # Compress: several ways to share are searched, and pruning separately, at equal effort.
    arms = "auto" if _ARMS.value == ["auto"] else _ARMS.value
    search = {"arms": arms, "effort": _EFFORT.value, "workers": _WORKERS.value, "seed": _SEED.value}
    result = tfmot_pam.compress(
        models, train, _DROP.value, validation_data=validation, augment=shift, **search
    )
    result.save(output / "compressed")

    # Export one TFLite file a combination, and one of all; each is run and compared with Keras.
    *files, together = tflite_export.export(result.model, output / "tflite", samples=x[:64])
    print("All combinations in one file:", together.bytes, "bytes")
    for task, model in models.items():
        (file,) = tflite_export.export(model, output / f"{task}_alone", samples=x[:64])
        print(task, "alone:", file.bytes, "bytes,", tflite_export.measure_latency(file.path), "ms")

    # Report: a table, a picture and a page, on recordings that nothing before has seen.
    report = tfmot_pam.report(
        result.model,
        originals=models,
        accuracy=accuracies(result.model, x, labels),
        original_accuracy={t: accuracies(m, x, labels)[t] for t, m in models.items()},
        latency={file.tasks: tflite_export.measure_latency(file.path) for file in files},
        file_bytes={file.tasks: file.bytes for file in files},
    )
    report.to_json(output / "report.json")
    report.plot(output / "groups.png")
    result.to_html(output / "page.html", files={file.tasks: file.path for file in files})
    print(f"{report}\nModel, plan, report, page and TFLite files are in {output}")


if __name__ == "__main__":
    app.run(main)
