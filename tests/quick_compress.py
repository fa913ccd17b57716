"""Two tasks, networks that do them, and options with which `compress` is quick."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

import tfmot_pam


def samples(rows=350):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8)).astype("float32")
    return x, {"sign": (x[:, 0] > 0).astype("int64"), "sum": (x[:, :3].sum(1) > 0).astype("int64")}


def model(task: str, seed: int = 0) -> keras.Model:
    """A perceptron that does its task well, and has many more units than it needs."""
    x, labels = samples()
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8,), name="vector")
    h = layers.Dense(24, activation="relu", name="first")(inputs)
    h = layers.Dense(16, activation="relu", name="second")(h)
    net = keras.Model(inputs, layers.Dense(2, activation="softmax", name=task)(h), name=task)
    net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    net.fit(x, labels[task], epochs=15, verbose=0)
    return net


def both() -> dict[str, keras.Model]:
    """The networks of both tasks."""
    return {task: model(task) for task in ("sign", "sum")}


HALF = tfmot_pam.Arm(
    "half", lambda tasks: [tfmot_pam.ArmStart("half", (tfmot_pam.ArmPart(tuple(tasks)),))]
)
QUICK = {"effort": 4, "verbose": 0, "seed": 0}
APART = {**QUICK, "arms": ["separate"]}
