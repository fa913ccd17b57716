"""Blocks of layers that random networks are made of."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


@keras.saving.register_keras_serializable(package="tests")
class Mixer(layers.Layer):
    """A custom layer without a rule: every channel is added to its left neighbour."""

    def call(self, inputs):
        return inputs + keras.ops.roll(inputs, 1, axis=-1)


class Blocks:
    """Draws blocks: `self.same` decides what all networks have in common, `self.own` the rest."""

    def __init__(self, seed: int, index: int, shape: tuple[int, ...], unknown: bool):
        self.same = np.random.default_rng([seed, 1])
        self.own = np.random.default_rng([seed, 2, index])
        self.shape = shape
        self.unknown = unknown

    # --- choices -----------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return bool(self.same.random() < probability)

    def pick(self, *options):
        return options[self.same.integers(len(options))]

    def width(self, low: int = 2, high: int = 6) -> int:
        return int(self.own.integers(low, high + 1))

    # --- blocks ------------------------------------------------------------------------------

    def block(self, h):
        names = [
            "plain plain residual residual projected concat dense_net depthwise inverted grouped",
            "separable squeeze squeeze_flat sizes operations nested reused branches gate",
            "transposed",
            "straddled generated unflattened",
        ]
        if self.unknown and self.chance(0.15):
            kept_whole = (self.mixer, self.layer_norm, self.softmax)
            followed = (self.twice, self.halves, self.shuffle, self.towers)
            return self.pick(*kept_whole, *followed)(h)
        return getattr(self, self.pick(*" ".join(names).split()))(h)

    def plain(self, h):
        h = self.activation(self.norm(self.conv(h)))
        return layers.Dropout(0.3)(h) if self.chance(0.3) else h

    def residual(self, h):
        inner = self.activation(self.norm(self.conv(h)))
        inner = self.norm(self.conv(inner, filters=h.shape[-1]))
        if self.chance(0.3):
            inner = self.squeeze(inner)
        join = self.pick(layers.Add, layers.Add, layers.Subtract, layers.Maximum, layers.Average)
        operands = [h, inner]
        if self.chance(0.2) and join is not layers.Subtract:
            operands.append(self.conv(inner, filters=h.shape[-1], kernel=1))
        return self.activation(join()(operands))

    def projected(self, h):
        width = self.width()
        inner = self.norm(self.conv(self.activation(self.conv(h)), filters=width))
        h = layers.Add()([self.conv(h, filters=width, kernel=1), inner])
        inner = self.conv(self.activation(h), filters=width)
        return h + inner if self.chance(0.5) else layers.Add()([inner, h])

    def concat(self, h):
        branches = [self.activation(self.conv(h)) for _ in range(self.same.integers(2, 4))]
        h = layers.Concatenate()(branches)
        return self.norm(h)

    def dense_net(self, h):
        for _ in range(2):
            grown = self.conv(self.activation(self.norm(h)))
            h = layers.Concatenate()([h, grown])
        if self.chance(0.3):
            # A tensor of two parts that is added to as a whole.
            h = layers.Add()([h, self.conv(h, filters=h.shape[-1])])
        return h

    def depthwise(self, h):
        multiplier = self.pick(1, 1, 2, 3)
        h = self.depthwise_conv(h, multiplier)
        return self.activation(self.norm(h))

    def depthwise_conv(self, h, multiplier=1):
        if len(self.shape) == 4:
            return h
        bias = self.chance(0.5)
        return self.layer("DepthwiseConv")(
            h, 3, depth_multiplier=multiplier, padding="same", use_bias=bias
        )

    def inverted(self, h):
        inner = self.activation(self.norm(self.conv(h, kernel=1, filters=self.width(4, 8))))
        inner = self.activation(self.norm(self.depthwise_conv(inner)))
        if self.chance(0.5):
            inner = self.squeeze(inner)
        inner = self.norm(self.conv(inner, kernel=1, filters=h.shape[-1]))
        return layers.Add()([h, inner])

    def grouped(self, h):
        block_in, block_out = self.pick((2, 2), (1, 2), (2, 1), (2, 3))
        groups = self.width(2, 4)
        h = self.activation(self.conv(h, filters=groups * block_in))
        h = self.layer("Conv")(h, groups * block_out, 3, groups=groups, padding="same")
        return self.activation(self.norm(h))

    def straddled(self, h):
        """Blocks of a grouped convolution that cross the seam of a concatenation."""
        h = layers.Concatenate()([self.conv(h, filters=3), self.conv(h, filters=3)])
        return self.layer("Conv")(h, 3 * self.pick(1, 2), 1, groups=3)

    def generated(self, h):
        """Dense features that become a small image."""
        places = (2,) * (len(self.shape) - 1)
        h = self.layer("GlobalAveragePooling")(h)
        width = self.width(2, 4)
        h = layers.Dense(width * int(np.prod(places)), activation="relu")(h)
        return layers.Reshape((*places, width))(h)

    def unflattened(self, h):
        h = self.conv(h)
        flat = layers.BatchNormalization()(layers.Flatten()(h))
        return layers.Reshape(h.shape[1:])(flat)

    def separable(self, h):
        if len(self.shape) == 4:
            return self.plain(h)
        multiplier = self.pick(1, 2)
        h = self.layer("SeparableConv")(
            h, self.width(), 3, depth_multiplier=multiplier, padding="same"
        )
        return self.activation(self.norm(h))

    def squeeze(self, h):
        gate = self.layer("GlobalAveragePooling")(h, keepdims=True)
        gate = self.conv(gate, kernel=1, activation="relu", filters=self.width(2, 3))
        gate = self.conv(gate, kernel=1, activation="sigmoid", filters=h.shape[-1])
        return layers.Multiply()([h, gate])

    def squeeze_flat(self, h):
        gate = self.layer("GlobalAveragePooling")(h)
        gate = layers.Dense(self.width(2, 3), activation="relu")(gate)
        gate = layers.Dense(h.shape[-1], activation="hard_sigmoid")(gate)
        gate = layers.Reshape((1,) * (len(h.shape) - 2) + (h.shape[-1],))(gate)
        return layers.Multiply()([h, gate]) if self.chance(0.5) else gate * h

    def gate(self, h):
        width = self.width()
        left = self.conv(h, filters=width)
        return left * self.conv(h, filters=width, activation="sigmoid")

    def sizes(self, h):
        rank = len(h.shape) - 2
        kind = self.pick("max", "average", "up", "pad", "crop")
        if kind == "up" and h.shape[1] <= 4:
            return self.layer("UpSampling")(h, 2)
        if kind == "pad":
            return self.layer("ZeroPadding")(h, 1)
        if min(h.shape[1:-1]) < 4:
            return h
        if kind == "crop":
            return self.layer("Cropping")(h, 1 if rank == 1 else ((1, 0),) * rank)
        return self.layer("AveragePooling" if kind == "average" else "MaxPooling")(h, 2)

    def operations(self, h):
        h = self.conv(h)
        kind = self.pick("scale", "hard_swish", "silu", "flip", "abs")
        if kind == "scale":
            return 0.5 * h + 1.0
        if kind == "hard_swish":
            return h * keras.ops.relu6(h + 3.0) / 6.0
        if kind == "silu":
            return keras.ops.silu(h)
        if kind == "flip":
            return keras.ops.maximum(1.0 - h, h)
        return keras.ops.abs(h)

    def transposed(self, h):
        if h.shape[1] > 4:
            return self.plain(h)
        return self.layer("ConvTranspose")(h, self.width(), 2, strides=2)

    def nested(self, h):
        """A model used as a layer, sometimes called twice."""
        x = keras.Input(h.shape[1:])
        y = self.activation(self.conv(x, filters=h.shape[-1]))
        inner = keras.Model(x, self.norm(y))
        h = inner(h)
        return inner(h) if self.unknown and self.chance(0.3) else h

    def reused(self, h):
        """One activation object at two places."""
        relu = self.pick(layers.ReLU(), layers.Activation("relu"))
        return relu(self.conv(relu(self.conv(h))))

    def branches(self, h):
        """A tensor read at several places and several depths."""
        left = self.activation(self.conv(h))
        right = self.conv(left, filters=left.shape[-1])
        joined = layers.Concatenate()([left, right, h])
        return layers.Concatenate()([self.conv(joined), layers.Add()([left, right])])

    def with_input(self, first, h):
        """The network's input beside the last feature map, where the sizes still agree."""
        if first.shape[1:-1] != h.shape[1:-1]:
            return h
        return self.norm(layers.Concatenate()([first, h]))

    # --- blocks that are kept whole where networks are merged --------------------------------

    def mixer(self, h):
        return self.activation(self.conv(Mixer()(h)))

    def layer_norm(self, h):
        return self.plain(layers.LayerNormalization()(h))

    def softmax(self, h):
        return self.plain(layers.Activation("softmax")(self.conv(h)))

    def twice(self, h):
        layer = self.layer_class("Conv")(h.shape[-1], 3, padding="same", activation="tanh")
        return layers.Add()([layer(layer(h)), h])

    def halves(self, h):
        """A layer's channels in two parts, which go different ways."""
        h = self.activation(self.conv(h, filters=2 * self.pick(2, 3)))
        left, right = keras.ops.split(h, 2, axis=-1)
        if self.chance(0.5):
            right = keras.ops.sigmoid(right)
            return layers.Concatenate()([left * right, self.conv(left)])
        right = self.depthwise_conv(self.norm(right), 2)
        return self.conv(layers.Concatenate()([right, left[..., ::-1]]))

    def shuffle(self, h):
        """A channel shuffle, with something behind that has weights of its own."""
        groups, width = self.pick((2, 4), (2, 6), (3, 6))
        h = self.conv(h, filters=width)
        places = h.shape[1:-1]
        h = layers.Reshape((*places, groups, width // groups))(h)
        h = layers.Permute((*range(1, len(places) + 1), len(places) + 2, len(places) + 1))(h)
        h = self.norm(layers.Reshape((*places, width))(h))
        return self.conv(layers.Concatenate()([h, keras.ops.take(h, [1, 0, 3], axis=-1)]))

    def towers(self, h):
        """Two tensors through the same layers."""
        width = self.pick(2, 3)
        layer = self.layer_class("Conv")(width, 3, padding="same", activation="tanh")
        norm = layers.BatchNormalization()
        left, right = (norm(layer(self.conv(h, filters=4))) for _ in range(2))
        return layers.Maximum()([left, right]) if self.chance(0.5) else left - 0.5 * right

    # --- layers ------------------------------------------------------------------------------

    def layer_class(self, name: str):
        rank = f"{len(self.shape) - 1}D"
        found = name.replace("Conv", f"Conv{rank}") if name == "ConvTranspose" else name + rank
        return getattr(layers, found)

    def layer(self, name: str):
        """Calls a layer of the inputs' rank: `layer("MaxPooling")(h, 2)`."""
        return lambda h, *args, **kwargs: self.layer_class(name)(*args, **kwargs)(h)

    def conv(self, h, filters=None, kernel=None, activation=None):
        kernel = kernel or self.pick(1, 3)
        options = {"padding": "same", "activation": activation, "use_bias": self.chance(0.6)}
        if kernel == 3 and self.chance(0.1):
            options["dilation_rate"] = 2
        return self.layer("Conv")(h, filters or self.width(), kernel, **options)

    def norm(self, h):
        if not self.chance(0.5):
            return h
        return layers.BatchNormalization(scale=self.chance(0.8))(h)

    def activation(self, h):
        kind = self.pick("relu", "relu", "layer", "leaky", "prelu", "swish", "elu", "none")
        if kind == "layer":
            return layers.ReLU(6.0)(h)
        if kind == "leaky":
            return layers.LeakyReLU()(h)
        if kind == "prelu":
            shared = list(range(1, len(h.shape) - 1)) if self.chance(0.5) else None
            return layers.PReLU(shared_axes=shared)(h)
        return h if kind == "none" else layers.Activation(kind)(h)
