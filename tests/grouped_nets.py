"""Networks in groups as `merge` writes them, and what lowered ones compute."""

import keras
from keras import layers

from tests import small_nets
from tfmot_pam.graph.emitter import emit


def _normalised(width, position):
    return [
        layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{position}"),
        layers.BatchNormalization(name=f"norm{position}"),
        layers.ReLU(name=f"relu{position}"),
    ]


def _depthwise(width, position):
    return [
        layers.Conv2D(width, 1, name=f"conv{position}", activation="relu"),
        layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{position}"),
        layers.BatchNormalization(name=f"norm{position}"),
        layers.PReLU(shared_axes=(1, 2), name=f"prelu{position}"),
    ]


def _strided(width, position):
    return [
        layers.Conv2D(width, 3, strides=2, padding="same", name=f"conv{position}"),
        layers.LeakyReLU(name=f"relu{position}"),
        layers.Dropout(0.3, name=f"drop{position}"),
    ]


BLOCKS = {
    "plain": small_nets.plain_conv,
    "normalised": _normalised,
    "depthwise": _depthwise,
    "strided": _strided,
}


def _apply(stack, x):
    for layer in stack:
        x = layer(x)
    return x


def grouped(kind, tasks=("a", "b"), widths=((6, 3, 4, 2), (5, 4, 3, 5), (7, 2, 5, 3)), size=8):
    """A network in groups as `merge` writes it: one that all tasks share, and one per task."""
    keras.utils.set_random_seed(len(kind))
    image = keras.Input((size, size, 1), name="image")
    block = BLOCKS[kind]
    groups = ("shared", *tasks)
    parts = dict.fromkeys(groups, image)
    for position, sizes in enumerate(widths):
        reads = dict(parts)
        if position:
            reads.update({t: layers.Concatenate()([parts["shared"], parts[t]]) for t in tasks})
        for group, size in zip(groups, sizes, strict=False):
            parts[group] = _apply(block(size, f"{position}_{group}"), reads[group])
    ends = {group: _ending(kind)(part) for group, part in parts.items()}
    heads = {
        t: layers.Dense(3, activation="softmax", name=f"head_{t}")(
            layers.Concatenate()([ends["shared"], ends[t]])
        )
        for t in tasks
    }
    return small_nets.randomise(keras.Model(image, heads), 1)


def _ending(kind):
    if kind == "plain":
        return lambda x: layers.Flatten()(layers.MaxPooling2D(2)(x))
    return lambda x: layers.GlobalAveragePooling2D()(x)


def lowered_outputs(network, x):
    return small_nets.all_outputs(emit(network, wrap=False), x)


def residual(groups=("shared", "a")):
    """Groups around a skip connection."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    options = {"padding": "same", "activation": "relu", "bias_initializer": "random_normal"}
    skip = {g: layers.Conv2D(4, 3, name=f"stem_{g}", **options)(image) for g in groups}
    joined = layers.Concatenate()([skip[g] for g in groups])
    reads = dict.fromkeys(groups, joined) | {"shared": skip["shared"]}
    deep = {g: layers.Conv2D(4, 3, name=f"deep_{g}", **options)(reads[g]) for g in groups}
    added = [layers.Add()([skip[g], deep[g]]) for g in groups]
    pooled = layers.GlobalAveragePooling2D()(layers.Concatenate()(added))
    return keras.Model(image, {"a": layers.Dense(3)(pooled)})
