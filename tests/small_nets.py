"""Small single-task models with random weights, and data for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np

layers = keras.layers


def randomise(model: keras.Model, seed: int) -> keras.Model:
    """Gives biases and normalisation statistics values that a trained model would have."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        kind = weight.path.rsplit("/", 1)[-1]
        if kind in ("bias", "beta", "moving_mean"):
            weight.assign(rng.normal(0.0, 0.3, weight.shape))
        elif kind in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


def dense_net(
    seed: int,
    widths: Sequence[int] = (6, 5),
    outputs: int = 3,
    activation: str = "softmax",
    name: str = "head",
    inputs: int = 6,
) -> keras.Model:
    """A perceptron; the cheapest thing that can be merged."""
    keras.utils.set_random_seed(seed)
    x = h = keras.Input((inputs,), name="vector")
    for position, width in enumerate(widths):
        h = layers.Dense(width, activation="relu", name=f"fc{position}")(h)
    return randomise(
        keras.Model(x, layers.Dense(outputs, activation=activation, name=name)(h)), seed
    )


def plain_conv(width: int, position: int) -> list[keras.layers.Layer]:
    return [
        layers.Conv2D(width, 3, padding="same", name=f"conv{position}"),
        layers.ReLU(name=f"relu{position}"),
    ]


def conv_net(
    seed: int,
    widths: Sequence[int] = (8, 10),
    head: Callable[[], Sequence[keras.layers.Layer]] = lambda: [
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(3, activation="softmax", name="head"),
    ],
    block: Callable[[int, int], Sequence[keras.layers.Layer]] = plain_conv,
    front: Sequence[keras.layers.Layer] = (),
    shape: tuple[int, ...] = (8, 8, 1),
    dtype: str = "float32",
) -> keras.Model:
    """Blocks of layers, one a width, on small images, and a head."""
    keras.utils.set_random_seed(seed)
    x = h = keras.Input(shape, dtype=dtype, name="image")
    for layer in front:
        h = layer(h)
    for position, width in enumerate(widths):
        for layer in block(width, position):
            h = layer(h)
    for layer in head():
        h = layer(h)
    return randomise(keras.Model(x, h), seed)


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (8, 8, 1)) -> np.ndarray:
    """Normal noise with a random brightness and slope each, so that images differ in kind."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(-1.0, 1.0, shape[0])[:, None, None]
    x = rng.normal(size=(count, *shape)) * 0.5
    x += rng.normal(size=(count, 1, 1, 1)) + rng.normal(size=(count, 1, 1, 1)) * slope
    return x.astype("float32")


def vectors(count: int, seed: int = 0, size: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, size)).astype("float32")


def classes(x: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Class indices that depend on the inputs and occur about equally often."""
    flat = x.reshape(len(x), -1).astype("float64")
    score = flat @ np.random.default_rng(seed).normal(size=flat.shape[1])
    return np.argsort(np.argsort(score)) * count // len(x)


def outputs_of(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """A single-task model's output as one array."""
    (result,) = keras.tree.flatten(model(x, training=False))
    return keras.ops.convert_to_numpy(result)


def all_outputs(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """A merged model's outputs as arrays by task."""
    found = model(x, training=False)
    return {task: keras.ops.convert_to_numpy(value) for task, value in found.items()}


def assert_same_weights(one: keras.Model, other: keras.Model, **tolerance: float) -> None:
    assert [w.path for w in one.weights] == [w.path for w in other.weights]
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 0, "atol": 0}))
