"""The suites: real data, networks and tasks on which ways of compression are compared.

A suite is a table entry: how its splits are loaded, how a network is built for one task, how it is
trained, and what may be done to an input without changing its labels.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks import fashion

Split = tuple[np.ndarray, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Suite:
    """One suite.

    Args:
        load: `load(folder, seed)` returns the splits `train`, `validation` and `test`: inputs, and
            labels by task. No network is trained on the validation split.
        build: `build(task, shape, outputs, folder)` returns a network to be trained for a task;
            the folder holds the data, and what it may be pretrained from.
        outputs: The number of outputs of each task; 1 is a regression.
        epochs: Epochs of training a network.
        effort: Epochs of compressing it.
        augment: `augment(x, rng)` returns other views of inputs, or None.
        kind: The activation of the outputs: `softmax`, or `sigmoid` for several labels at once.
        seeds: How many seeds count.
    """

    load: Callable[[pathlib.Path, int], dict[str, Split]]
    build: Callable[[str, tuple[int, ...], int, pathlib.Path], keras.Model]
    outputs: Mapping[str, int]
    epochs: int
    effort: int
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    kind: str = "softmax"
    seeds: int = 3


def activation(suite: Suite, task: str) -> str:
    """The activation at a task's output."""
    return "linear" if suite.outputs[task] == 1 else suite.kind


def train(
    suite: Suite, task: str, splits: Mapping[str, Split], seed: int, folder: pathlib.Path
) -> keras.Model:
    """A network that was trained for one task, on fresh views in every epoch."""
    keras.utils.set_random_seed(1000 * seed + list(suite.outputs).index(task))
    x, labels = splits["train"]
    model = suite.build(task, x.shape[1:], suite.outputs[task], folder)
    loss = {"softmax": "sparse_categorical_crossentropy", "sigmoid": "binary_crossentropy"}
    steps = suite.epochs * -(-len(x) // 64)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        loss.get(activation(suite, task), "mse"),
        jit_compile=False,
    )
    rng = np.random.default_rng(seed)
    for _ in range(suite.epochs):
        views = x if suite.augment is None else suite.augment(x, rng)
        model.fit(views, labels[task], batch_size=64, epochs=1, verbose=0)
    return model


def scores(suite: Suite, task: str, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Points a sample, whose mean is the accuracy in percent, or 100 R^2 for a regression."""
    kind = activation(suite, task)
    if kind == "softmax":
        return 100.0 * (outputs.argmax(-1) == labels)
    if kind == "sigmoid":
        return 100.0 * np.mean((outputs > 0.5) == labels, axis=-1)
    labels = labels.reshape(outputs.shape)
    return 100.0 * (1.0 - np.mean((outputs - labels) ** 2, axis=-1) / np.var(labels))


def _archive(folder: pathlib.Path, name: str) -> tuple[Any, dict[str, Any]]:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"There is no '{path}'. Pass the folder that holds it, --data_dir.")
    archive = np.load(path)
    return archive, json.loads(str(archive["meta"]))


def _held_out(x, labels: Mapping[str, np.ndarray], every: int, seed: int) -> dict[str, Split]:
    """A training and a validation split, of which the latter is every so-many-th sample."""
    order = np.random.default_rng(seed).permutation(len(x))
    held = np.zeros(len(x), bool)
    held[order[: len(x) // every]] = True
    parts = {"train": ~held, "validation": held}
    return {name: (x[own], {t: y[own] for t, y in labels.items()}) for name, own in parts.items()}


def _flip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors half of the images."""
    return np.where(rng.random(len(x))[:, None, None, None] < 0.5, x[:, :, ::-1], x)


# --- speech --------------------------------------------------------------------------------------


def _speech(folder: pathlib.Path, seed: int) -> dict[str, Split]:
    archive, meta = _archive(folder, "fsdd_logmel_32.npz")

    def split(name):
        y = archive[f"y_{name}"].astype("int64")
        labels = {t: y[:, meta["columns"].index(t)] for t in ("digit", "speaker")}
        return archive[f"x_{name}"][..., None].astype("float32") / 255, labels

    return {**_held_out(*split("train"), 4, seed), "test": split("test")}


def _shift(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves recordings in time by up to two frames."""
    by = rng.integers(-2, 3, len(x))
    return np.stack([np.roll(image, int(by[i]), axis=1) for i, image in enumerate(x)])


def _conv_net(task: str, shape, outputs: int, folder: pathlib.Path):
    """Four convolutions with batch normalisation."""
    inputs = keras.Input(shape, name="image")
    h = inputs
    for width in (16, 32, 48, 64):
        h = layers.Conv2D(width, 3, padding="same", use_bias=False)(h)
        h = layers.ReLU()(layers.BatchNormalization()(h))
        h = layers.MaxPooling2D()(h)
    h = layers.Dropout(0.3)(layers.Flatten()(h))
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax", name=task)(h), name=task)


def _resnet8(task: str, shape, outputs: int, folder: pathlib.Path):
    """ResNet-8 of 16, 32 and 64 channels."""
    inputs = keras.Input(shape, name="image")

    def convolved(h, width, size=3, strides=1):
        h = layers.Conv2D(width, size, strides, padding="same", use_bias=False)(h)
        return layers.BatchNormalization()(h)

    h = layers.ReLU()(convolved(inputs, 16))
    for stage, width in enumerate((16, 32, 64)):
        strides = 1 if stage == 0 else 2
        short = h if stage == 0 else convolved(h, width, 1, strides)
        h = layers.ReLU()(convolved(h, width, 3, strides))
        h = layers.ReLU()(layers.Add()([convolved(h, width), short]))
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax", name=task)(h), name=task)


# --- products ------------------------------------------------------------------------------------

_PRODUCTS = {"article": 45, "gender": 4, "colour": 25, "category": 4}


def _products(tasks: tuple[str, ...], size: int, brightest: float = 1.0, count: int | None = None):
    """Photos of a size with values in 0..`brightest`, and at most so many of them for training."""

    def load(folder: pathlib.Path, seed: int) -> dict[str, Split]:
        archive, meta = _archive(folder, "fashion_products_64.npz")

        def split(name):
            y = archive[f"y_{name}"].astype("int64")
            labels = {t: y[:, meta["columns"].index(t)] for t in tasks}
            known = np.all([label != 255 for label in labels.values()], axis=0)
            x = _resized(archive[f"x_{name}"][known], size) * (brightest / 255)
            return x, {t: label[known] for t, label in labels.items()}

        splits = {**_held_out(*split("train"), 5, seed), "test": split("test")}
        x, labels = splits["train"]
        own = np.sort(np.random.default_rng(seed).permutation(len(x))[:count])
        return {**splits, "train": (x[own], {t: y[own] for t, y in labels.items()})}

    return load


def _resized(x: np.ndarray, size: int) -> np.ndarray:
    """Images brought to a size by averaging."""
    import tensorflow as tf

    parts = [
        tf.image.resize(tf.constant(x[i : i + 500], tf.float32), (size, size), "area").numpy()
        for i in range(0, len(x), 500)
    ]
    return np.concatenate(parts)


def _product_net(task: str, shape, outputs: int, folder: pathlib.Path, widths=(16, 32, 48, 64)):
    """Four convolutions without normalisation and a dense layer, as in most tutorials."""
    inputs = keras.Input(shape, name="image")
    h = inputs
    for width in widths:
        h = layers.Conv2D(width, 3, padding="same", activation="relu")(h)
        h = layers.MaxPooling2D()(h)
    h = layers.Dropout(0.3)(layers.Flatten()(h))
    h = layers.Dense(widths[-1], activation="relu")(h)
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax", name=task)(h), name=task)


def _unlike_net(task: str, shape, outputs: int, folder: pathlib.Path):
    """For the gender a network with a twentieth of the computation of the article's."""
    widths = (3, 4, 6, 8) if task == "gender" else (16, 32, 48, 64)
    return _product_net(task, shape, outputs, folder, widths)


def _lite0(task: str, shape, outputs: int, folder: pathlib.Path):
    """EfficientNet-Lite0, pretrained on ImageNet, with a new head."""
    path = folder / "efficientnet_lite0_64.keras"
    if not path.is_file():
        raise FileNotFoundError(f"There is no '{path}'. Pass the folder that holds it, --data_dir.")
    pretrained = keras.saving.load_model(path, compile=False)
    h = layers.Dropout(0.3)(pretrained.get_layer("pool").output)
    head = layers.Dense(outputs, activation="softmax", name=task)
    return keras.Model(pretrained.input, head(h), name=task)


# --- composites ----------------------------------------------------------------------------------


def _composites(groups: Mapping[str, range]):
    def load(folder: pathlib.Path, seed: int) -> dict[str, Split]:
        images, classes = fashion.load(str(folder), "train")
        held = 50_000  # The garments of the validation composites are in no training composite.
        return {
            "train": fashion.composites(images[:held], classes[:held], 8000, seed, groups),
            "validation": fashion.composites(images[held:], classes[held:], 2000, seed, groups),
            "test": fashion.composites(*fashion.load(str(folder), "test"), 4000, 1, groups),
        }

    return load


def _rearrange(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same garments, some mirrored, in other places: which ones are there stays the same."""
    count, half = len(x), x.shape[1] // 2
    tiles = x.reshape(count, 2, half, 2, half, 1).transpose(0, 1, 3, 2, 4, 5)
    tiles = tiles.reshape(4 * count, half, half, 1)
    order = rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1) + 4 * np.arange(count)[:, None]
    tiles = _flip(tiles, rng)[order.ravel()].reshape(count, 2, 2, half, half, 1)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


def _lenet(task: str, shape, outputs: int, folder: pathlib.Path, times: int = 1):
    return fashion.lenet(shape, outputs, "sigmoid", task, times)


# --- motion --------------------------------------------------------------------------------------


def _motion(folder: pathlib.Path, seed: int) -> dict[str, Split]:
    archive, meta = _archive(folder, "motionsense_128.npz")
    heights = archive["body_train"][:, meta["body"].index("height_cm")]

    def split(name):
        x = archive[f"x_{name}"].astype("float32").transpose(0, 2, 1)
        y = archive[f"y_{name}"].astype("int64")
        height = archive[f"body_{name}"][:, meta["body"].index("height_cm")]
        labels = {t: y[:, meta["columns"].index(t)] for t in ("activity", "subject")}
        labels["height"] = ((height - heights.mean()) / heights.std()).astype("float32")[:, None]
        return x, labels

    return {**_held_out(*split("train"), 5, seed), "test": split("test")}


def _turn(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Starts every window elsewhere and puts what came before behind its end."""
    start = rng.integers(0, x.shape[1], len(x))
    steps = (start[:, None] + np.arange(x.shape[1])) % x.shape[1]
    return np.take_along_axis(x, steps[..., None], axis=1)


def _motion_net(task: str, shape, outputs: int, folder: pathlib.Path):
    """Four one-dimensional convolutions with batch normalisation."""
    inputs = keras.Input(shape, name="window")
    h = layers.BatchNormalization()(inputs)
    for width in (32, 48, 64, 96):
        h = layers.Conv1D(width, 5, padding="same", use_bias=False)(h)
        h = layers.ReLU()(layers.BatchNormalization()(h))
        h = layers.MaxPooling1D()(h)
    h = layers.Dropout(0.3)(layers.GlobalAveragePooling1D()(h))
    kind = "linear" if outputs == 1 else "softmax"
    return keras.Model(inputs, layers.Dense(outputs, activation=kind, name=task)(h), name=task)


def _product_suite(tasks: tuple[str, ...], build=_product_net, size: int = 48) -> Suite:
    outputs = {task: _PRODUCTS[task] for task in tasks}
    return Suite(_products(tasks, size), build, outputs, 14, 36, _flip)


def _composite_suite(build, augment=_rearrange, epochs: int = 20) -> Suite:
    load = _composites(fashion.TASKS)
    return Suite(load, build, {"upper": 5, "lower": 5}, epochs, 36, augment, "sigmoid")


def _backbone_suite(tasks: tuple[str, ...]) -> Suite:
    outputs = {task: _PRODUCTS[task] for task in tasks}
    load = _products(tasks, 64, brightest=255.0, count=4000)
    return Suite(load, _lite0, outputs, 8, 16, _flip, seeds=1)


# Networks that are large enough for their time to follow their computation.
_WIDE_PRODUCT_NET = functools.partial(_product_net, widths=(32, 64, 96, 128))
_WIDE_LENET = functools.partial(_lenet, times=4)

_PAIRS = {f"pair{i}": range(2 * i, 2 * i + 2) for i in range(5)}
_SPOKEN = {"digit": 10, "speaker": 6}
_WORN = {"activity": 6, "subject": 24, "height": 1}

SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "speech": Suite(_speech, _conv_net, _SPOKEN, 40, 36, _shift),
        "speech-resnet": Suite(_speech, _resnet8, _SPOKEN, 40, 36, _shift),
        "products": _product_suite(("article", "gender")),
        "products4": _product_suite(("article", "gender", "colour", "category")),
        "products-wide": _product_suite(("article", "gender"), _WIDE_PRODUCT_NET, 64),
        "composites-wide": _composite_suite(_WIDE_LENET),
        "backbone": _backbone_suite(("article", "gender")),
        "backbone4": _backbone_suite(("article", "gender", "colour", "category")),
        # A pair where separate networks should win.
        "unlike": _product_suite(("article", "gender"), _unlike_net),
        "composites": _composite_suite(_lenet),
        # Networks that saw each composite as it is or mirrored, and know less of what they could.
        "composites-mirrored": _composite_suite(_lenet, _flip, 14),
        "five-tasks": Suite(
            _composites(_PAIRS), _lenet, dict.fromkeys(_PAIRS, 2), 20, 24, _rearrange, "sigmoid"
        ),
        "motion": Suite(_motion, _motion_net, _WORN, 20, 36, _turn),
    }
)


def networks(
    name: str, seed: int, splits, work: pathlib.Path, folder: pathlib.Path
) -> dict[str, keras.Model]:
    """The suite's trained networks by task, from files in `work` where there are any."""
    suite, found = SUITES[name], {}
    for task in suite.outputs:
        path = work / "networks" / f"{name}-{seed}-{task}.keras"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            train(suite, task, splits, seed, folder).save(path)
        found[task] = keras.saving.load_model(path, compile=False)
    return found


def losses(
    suite: Suite, models, model: keras.Model, split: Split
) -> dict[str, tuple[float, float]]:
    """Points lost on a split against the single networks by task, and their standard errors."""
    outputs = model.predict(split[0], batch_size=256, verbose=0)
    return drops(suite, models, outputs, split)


def drops(
    suite: Suite, models, outputs: Mapping[str, np.ndarray], split: Split
) -> dict[str, tuple[float, float]]:
    """Points that outputs by task lose against the single networks, and their standard errors."""
    x, labels = split
    found = {}
    for task in outputs:
        alone = models[task].predict(x, batch_size=256, verbose=0)
        lost = scores(suite, task, alone, labels[task]) - scores(
            suite, task, outputs[task], labels[task]
        )
        found[task] = (float(lost.mean()), float(lost.std() / np.sqrt(len(lost))))
    return found
