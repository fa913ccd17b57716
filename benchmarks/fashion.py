"""Fashion-MNIST for the benchmarks: single garments, and the PAM paper's composites."""

from __future__ import annotations

import pathlib
from types import MappingProxyType

import keras
import numpy as np
from keras import layers

FILE = "fashion_mnist_28.npz"
TASKS = {"upper": range(0, 5), "lower": range(5, 10)}


def load(data_dir: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 28, 28, 1]` in 0..1 and classes `[n]`."""
    path = pathlib.Path(data_dir, FILE)
    if not path.is_file():
        raise FileNotFoundError(f"There is no '{path}'. Pass the folder that holds it, --data_dir.")
    archive = np.load(path)
    y = archive[f"y_{split}"].reshape(len(archive[f"y_{split}"]), -1)[:, 0].astype("int64")
    return archive[f"x_{split}"][..., None].astype("float32") / 255, y


def composites(x: np.ndarray, y: np.ndarray, count: int, seed: int, tasks=MappingProxyType(TASKS)):
    """Four random garments in 56x56; for each task, 0/1 labels of which classes are there."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(x), (count, 4))
    tiles = x[rows].reshape(count, 2, 2, 28, 28, 1)
    images = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(count, 56, 56, 1)
    present = np.zeros((count, 10), "int64")
    np.put_along_axis(present, y[rows], 1, axis=1)
    return images, {task: present[:, list(classes)] for task, classes in tasks.items()}


def lenet(
    shape: tuple[int, ...], outputs: int, activation: str, name: str, times: int = 1
) -> keras.Model:
    """LeNet-5 as in PAM: convolutions of 6 and 16 filters 5x5, dense layers of 120 and 84.

    Or so many times as wide.
    """
    inputs = keras.Input(shape, name="image")
    h = inputs
    for filters in (6, 16):
        h = layers.Conv2D(times * filters, 5, padding="same", activation="relu")(h)
        h = layers.MaxPooling2D()(h)
    h = layers.Flatten()(h)
    for units in (120, 84):
        h = layers.Dense(times * units, activation="relu")(h)
    return keras.Model(inputs, layers.Dense(outputs, activation=activation, name=name)(h))


def train(model: keras.Model, x, y, loss: str, epochs: int, batch_size: int = 64) -> keras.Model:
    """Adam, its rate falling to 0 along a cosine."""
    steps = epochs * -(-len(x) // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
    return model
