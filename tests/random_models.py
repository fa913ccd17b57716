"""Random small networks of one common structure, for tests that must hold for every network.

A seed decides the structure; the widths, weights, preprocessing and heads are drawn per network.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import layers

from benchmarks.applications import randomise
from tests.random_blocks import Blocks, Mixer
from tfmot_pam.graph.heads import Inputs


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of one structure.

    Args:
        models: The networks, by task name.
        x: Inputs to compare outputs on.
    """

    models: dict[str, keras.Model]
    x: Inputs


def family(seed: int, tasks: int | None = None, unknown: bool = True) -> Family:
    """Two to five (or `tasks`) networks of the structure that `seed` decides.

    Args:
        seed: The same seed gives the same networks.
        tasks: The number of networks; None lets the seed decide.
        unknown: Whether layers without a rule may occur.
    """
    rng = np.random.default_rng(seed)
    count = tasks or int(rng.choice([2, 2, 2, 3, 3, 4, 5]))
    shape = ((8, 8, 2), (8, 8, 3), (12, 2), (4, 4, 4, 1), (7,))[rng.choice(5, p=_SHAPE_ODDS)]
    models = {f"t{k}": Builder(seed, k, shape, unknown).model() for k in range(count)}
    for k, model in enumerate(models.values()):
        randomise(model, seed + k)
    return Family(models, rng.normal(size=(3, *shape)).astype("float32"))


_SHAPE_ODDS = (0.45, 0.2, 0.2, 0.05, 0.1)


class Builder(Blocks):
    """Builds one network."""

    def model(self) -> keras.Model:
        inputs = keras.Input(self.shape, name="image")
        h = self.preprocess(inputs)
        if len(self.shape) == 1:
            h = self.dense_blocks(h)
        else:
            first = h
            h = self.conv(h, kernel=3)
            for _ in range(self.same.integers(1, 5)):
                h = self.block(h)
            if self.chance(0.1):
                h = self.with_input(first, h)
            h = self.bridge(h)
        if self.chance(0.5):
            h = self.norm(layers.Dense(self.width())(h))
            h = self.activation(h)
        return keras.Model(inputs, self.head(h))

    def preprocess(self, x):
        kind = self.pick(*"none none rescaling normalization operation norm sum custom".split())
        own = float(self.own.uniform(0.5, 2.0))
        if kind == "rescaling":
            return layers.Rescaling(own, offset=0.1)(x)
        if kind == "normalization":
            return layers.Normalization()(x)
        if kind == "operation":
            return x / own - 0.25
        if kind == "norm":
            return layers.BatchNormalization()(x)
        if kind == "sum":
            return layers.Add()([x, layers.Rescaling(own)(x)])
        if kind == "custom" and self.unknown:
            return layers.Lambda(lambda v: v * own)(Mixer()(x))
        return x

    def dense_blocks(self, h):
        h = layers.Dense(self.width(), activation="relu")(h)
        for _ in range(self.same.integers(1, 4)):
            h = self.pick(self.dense, self.dense_residual, self.dense_concat)(h)
        return h

    def dense(self, h):
        return self.activation(self.norm(layers.Dense(self.width())(h)))

    def dense_residual(self, h):
        return layers.Add()([h, layers.Dense(h.shape[-1], activation="tanh")(h)])

    def dense_concat(self, h):
        return layers.Concatenate()([h, layers.Dense(self.width(), activation="tanh")(h)])

    def head(self, h):
        """Heads differ in everything."""
        for index in range(self.own.integers(0, 2)):
            h = layers.Dense(self.width(3, 5), activation="relu", name=f"head_{index}")(h)
        activation = ("softmax", "sigmoid", None)[self.own.integers(3)]
        return layers.Dense(self.width(2, 5), activation=activation, name="head")(h)

    def bridge(self, h):
        """From the last feature map to the heads."""
        kind = self.pick("gap", "gmp", "flatten", "reshape", "pixels", "mean", "keepdims")
        if kind == "gap":
            return self.layer("GlobalAveragePooling")(h)
        if kind == "gmp":
            return self.layer("GlobalMaxPooling")(h)
        if kind == "reshape":
            return layers.Reshape((-1,))(h)
        if kind == "mean":
            return keras.ops.mean(h, axis=tuple(range(1, len(h.shape) - 1)))
        if kind == "keepdims":
            return layers.Flatten()(self.layer("GlobalAveragePooling")(h, keepdims=True))
        if kind == "pixels":
            return h
        h = layers.Flatten()(h)
        return layers.BatchNormalization()(h) if self.chance(0.3) else h
