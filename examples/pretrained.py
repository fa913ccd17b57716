r"""Networks on one pretrained backbone, fine-tuned for a task each, become one small int8 network.

    python examples/pretrained.py --data=photos/labels.csv --tasks=article,gender \
        --backbone=MobileNetV3Small --output_dir=build/photos

The table has a row an image: its path, from the table's folder on, in the column `file`, and in a
column for each task what it shows; an empty cell does not count. All images are brought to one size
and read into memory. The same call goes on where it stopped.
"""

import csv
import json
import pathlib
import types
import zlib

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tflite_export
import tfmot_pam

_DATA = flags.DEFINE_string("data", None, "A .csv table of images and labels.", required=True)
_TASKS = flags.DEFINE_list("tasks", None, "Columns to learn: article,gender.", required=True)
_BACKBONE = flags.DEFINE_string("backbone", "MobileNetV3Small", "A name in keras.applications.")
_WEIGHTS = flags.DEFINE_string(
    "weights",
    "imagenet",
    "imagenet, which Keras downloads; or, instead of --backbone, the .keras file of a classifier "
    "or of a network without its head, which takes images of values 0 to 255.",
)
_SIZE = flags.DEFINE_integer("size", 96, "Height and width of images, in pixels.", lower_bound=32)
_OUTPUT = flags.DEFINE_string("output_dir", "build/pretrained", "A new folder, or this call's.")
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of fine-tuning per network.", lower_bound=1)
_EFFORT = flags.DEFINE_integer("effort", 16, "Epochs of compressing per network and arm.")
_ARMS = flags.DEFINE_list("arms", ["auto"], "What is searched: auto, or arms of docs/guide.md.")
_DROP = flags.DEFINE_float("max_accuracy_drop", 0.01, "Accuracy that a task may lose, 0 to 1.")
_MIRROR = flags.DEFINE_bool("mirror", True, "Whether a mirrored image shows the same.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Searches that run at a time.", lower_bound=1)


def load_data(path: pathlib.Path, tasks: list[str], size: int) -> tuple[np.ndarray, dict, dict]:
    """Images `[n, size, size, 3]`, class indices by task (-1: not known), and classes by task."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    found = list(rows[0]) if rows else []
    if missing := [name for name in ("file", *tasks) if name not in found]:
        raise app.UsageError(f"'{path}' has rows of {found}. Expected the columns {missing}, too.")
    images = [keras.utils.load_img(path.parent / r["file"], target_size=(size, size)) for r in rows]
    classes = {task: sorted({row[task] for row in rows} - {""}) for task in tasks}
    places = {t: {"": -1} | {name: i for i, name in enumerate(classes[t])} for t in tasks}
    labels = {t: np.array([places[t][row[t]] for row in rows]) for t in tasks}
    return np.stack([np.asarray(image, "float32") for image in images]), labels, classes


def split(x: np.ndarray, labels: dict) -> list[tuple[np.ndarray, dict]]:
    """Seven samples in ten to train on, others to validate on, and others to test on."""
    order = np.random.default_rng(0).permutation(len(x))
    parts = np.split(order, [7 * len(x) // 10, 17 * len(x) // 20])
    return [(x[part], {t: y[part] for t, y in labels.items()}) for part in parts]


def mirror(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the images, others each time, as a mirror shows them."""
    return np.where(rng.random(len(x))[:, None, None, None] < 0.5, x[:, :, ::-1], x)


def load_backbone(name: str, weights: str | None, size: int) -> keras.Model:
    """A network from images of values 0 to 255 to features, its preprocessing included."""
    if weights not in ("imagenet", None):
        saved = keras.saving.load_model(weights, compile=False)
        if saved.input.shape[1] not in (size, None):
            raise app.UsageError(f"'{weights}' takes images of {saved.input.shape}. Pass --size.")
        last = saved.layers[-1]
        features = last.input if isinstance(last, layers.Dense) else last.output
        pooled = features if features.ndim == 2 else layers.GlobalAveragePooling2D()(features)
        return keras.Model(saved.input, pooled)
    if not callable(getattr(keras.applications, name, None)):
        raise app.UsageError(f"keras.applications has no {name!r}. Pass a name such as ResNet50.")
    modules = [m for m in vars(keras.applications).values() if isinstance(m, types.ModuleType)]
    prepare = [m.preprocess_input for m in modules if hasattr(m, name)]
    options = {"include_top": False, "weights": weights, "pooling": "avg"}
    network = getattr(keras.applications, name)(input_shape=(size, size, 3), **options)
    image = keras.Input((size, size, 3), name="image")
    return keras.Model(image, network(prepare[0](image) if prepare else image))


def fine_tune(task: str, classes: int, x, y, path: pathlib.Path) -> keras.Model:
    """A network for one task, from its file where there is one."""
    if path.exists():
        return keras.saving.load_model(path)
    print(f"Fine-tuning the {task} network")
    backbone = load_backbone(_BACKBONE.value, _WEIGHTS.value, _SIZE.value)
    head = layers.Dense(classes, activation="softmax", name=f"head_{task}")
    model = keras.Model(backbone.input, head(layers.Dropout(0.3)(backbone.output)))
    x, y, rng = x[y >= 0], y[y >= 0], np.random.default_rng(0)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, _EPOCHS.value * -(-len(x) // 32))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False)
    for epoch in range(_EPOCHS.value):
        views = mirror(x, rng) if _MIRROR.value else x
        model.fit(views, y, 32, epochs=epoch + 1, initial_epoch=epoch, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.keras")
    model.save(part)
    return keras.saving.load_model(part.rename(path))  # As it will be when this is run again.


def main(argv: list[str]) -> None:
    """Fine-tunes a network a task, compresses them into one, and writes int8 files and a page."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    output = pathlib.Path(_OUTPUT.value)
    x, labels, classes = load_data(pathlib.Path(_DATA.value), _TASKS.value, _SIZE.value)
    labelled = {task: (classes[task], y.tolist()) for task, y in labels.items()}
    how = [flag.value for flag in (_BACKBONE, _WEIGHTS, _SIZE, _EPOCHS, _MIRROR)]
    work = output / f"work-{zlib.crc32(repr((how, labelled)).encode(), zlib.crc32(x)):08x}"
    train, validation, test = split(x, labels)
    models = {
        task: fine_tune(task, len(own), train[0], train[1][task], work / f"{task}.keras")
        for task, own in classes.items()
    }
    result = tfmot_pam.compress(
        models,
        train,
        _DROP.value,
        validation_data=validation,
        directory=work / "-".join([*_ARMS.value, str(_EFFORT.value), str(_DROP.value)]),
        arms="auto" if _ARMS.value == ["auto"] else _ARMS.value,
        effort=_EFFORT.value,
        augment=mirror if _MIRROR.value else None,
        workers=_WORKERS.value,
    )
    result.save(output / "compressed", overwrite=True)
    (output / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    quantized = {"quantization": "int8", "representative_data": train[0], "samples": test[0]}
    files = tflite_export.export(result.model, output / "tflite", overwrite=True, **quantized)
    ship = {file.tasks: file for file in files if len(file.signatures) == 1}
    paths = {tasks: file.path for tasks, file in ship.items()}
    result.to_html(output / "page.html", files=paths, overwrite=True)
    sizes = {tasks: file.bytes for tasks, file in ship.items()}
    print(tfmot_pam.report(result.model, originals=models, data=test, file_bytes=sizes))
    for file in ship.values():
        (signature,) = file.signatures
        print(f"{file.path.name}: {signature.label_agreement:.1%} of the answers as in float32")


if __name__ == "__main__":
    app.run(main)
