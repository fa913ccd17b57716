"""Networks with random weights, for benchmarks and tests: `keras.applications` and two others."""

from __future__ import annotations

import keras
import numpy as np

from tfmot_pam.closed_form.batch_norm import reestimated
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read

# Every functional network that Keras ships, the smallest first, with the least side of its images.
SIDES = {
    **dict.fromkeys("MobileNetV3Small MobileNetV2 MobileNet NASNetMobile".split(), 32),
    **dict.fromkeys("EfficientNetB0 MobileNetV3Large EfficientNetV2B0 EfficientNetB1".split(), 32),
    **dict.fromkeys("DenseNet121 EfficientNetV2B1 EfficientNetB2 EfficientNetV2B2".split(), 32),
    **dict.fromkeys("EfficientNetB3 DenseNet169 EfficientNetV2B3 EfficientNetB4".split(), 32),
    **dict.fromkeys("DenseNet201 EfficientNetV2S".split(), 32),
    "Xception": 71,
    "InceptionV3": 75,
    **dict.fromkeys("ResNet50 ResNet50V2 ConvNeXtTiny EfficientNetB5 VGG16".split(), 32),
    **dict.fromkeys("VGG19 EfficientNetB6 ResNet101 ResNet101V2 ConvNeXtSmall".split(), 32),
    **dict.fromkeys("EfficientNetV2M".split(), 32),
    "InceptionResNetV2": 75,
    **dict.fromkeys("ResNet152 ResNet152V2 EfficientNetB7 ConvNeXtBase NASNetLarge".split(), 32),
    **dict.fromkeys("EfficientNetV2L ConvNeXtLarge ConvNeXtXLarge".split(), 32),
}
# What `keras.applications` has not: a vision transformer and a ConvNeXt, small ones of our own.
BLOCKS = ("ViT-Tiny-like", "ConvNeXt-like")
SIDES |= dict.fromkeys(BLOCKS, 32)
# A small one of every family.
FAMILIES = (
    *("MobileNetV3Small", "MobileNetV2", "MobileNet", "NASNetMobile", "EfficientNetB0"),
    *("EfficientNetV2B0", "DenseNet121", "Xception", "InceptionV3", "ResNet50", "ResNet50V2"),
    *("ConvNeXtTiny", "VGG16", "InceptionResNetV2", *BLOCKS),
)


def two_models(name: str, **options) -> dict[str, keras.Model]:
    """Two networks of an application with random weights, and heads of 7 and 5 logits.

    Args:
        name: A key of `SIDES`.
        **options: Further arguments of the application.
    """
    return {task: _model(name, task, classes, options) for task, classes in _CLASSES.items()}


_CLASSES = {"a": 7, "b": 5}


def _model(name: str, task: str, classes: int, options) -> keras.Model:
    return randomise(network(name, task, classes, **options), classes)


def network(name: str, task: str = "a", classes: int = 7, **options) -> keras.Model:
    """An application with a head of its own, as it is initialised.

    Args:
        name: A key of `SIDES`.
        task: The head's name.
        classes: The head's number of logits.
        **options: Further arguments of the application; none for those of `BLOCKS`.
    """
    if name in BLOCKS:
        image = keras.Input((SIDES[name], SIDES[name], 3))
        features = {"ViT-Tiny-like": _transformer, "ConvNeXt-like": _convnext}[name](image)
        return keras.Model(image, keras.layers.Dense(classes, name=task)(features))
    build, side = getattr(keras.applications, name), SIDES[name]
    options = {"include_top": False, "pooling": "avg", "input_shape": (side, side, 3), **options}
    body = build(weights=None, **options)
    head = keras.layers.Dense(classes, name=task)(body.output)
    return keras.Model(body.input, head)


def _transformer(image, width=192, heads=4, blocks=6):
    """Patches of 4 pixels, their places, and blocks of attention and a perceptron.

    Source: An Image is Worth 16x16 Words (Dosovitskiy et al., ICLR 2021), section 3.1; the width of
    DeiT-Tiny (Touvron et al., ICML 2021).
    """
    layers = keras.layers
    h = layers.Rescaling(1 / 127.5, -1.0)(image)
    h = layers.Conv2D(width, 4, strides=4, name="patches")(h)
    h = layers.Reshape((h.shape[1] * h.shape[2], width), name="tokens")(h)
    for block in range(blocks):
        y = layers.LayerNormalization(name=f"attention_norm_{block}")(h)
        attention = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{block}")
        h = layers.Add(name=f"attended_{block}")([h, attention(y, y)])
        h = layers.Add(name=f"block_{block}")([h, _perceptron(h, width, block)])
    h = layers.LayerNormalization(name="norm")(h)
    return layers.GlobalAveragePooling1D(name="pooled")(h)


def _convnext(image, widths=(48, 96, 192), blocks=2):
    """Stages of large depthwise convolutions, each with a perceptron behind.

    Source: A ConvNet for the 2020s (Liu et al., CVPR 2022), section 2.
    """
    layers = keras.layers
    h = layers.Rescaling(1 / 127.5, -1.0)(image)
    for stage, width in enumerate(widths):
        h = layers.Conv2D(width, 2, strides=2, name=f"down_{stage}")(h)
        h = layers.LayerNormalization(name=f"norm_{stage}")(h)
        for block in range(stage * blocks, (stage + 1) * blocks):
            y = layers.DepthwiseConv2D(7, padding="same", name=f"depthwise_{block}")(h)
            h = layers.Add(name=f"block_{block}")([h, _perceptron(y, width, block)])
    h = layers.LayerNormalization(name="norm")(h)
    return layers.GlobalAveragePooling2D(name="pooled")(h)


def _perceptron(h, width: int, block: int):
    """A normalisation and two dense layers, the first of four times the width."""
    layers = keras.layers
    y = layers.LayerNormalization(name=f"perceptron_norm_{block}")(h)
    y = layers.Dense(4 * width, activation="gelu", name=f"up_{block}")(y)
    return layers.Dense(width, name=f"back_{block}")(y)


def images(name: str, count: int, seed: int = 0) -> np.ndarray:
    """Random images of an application's least size, with values of 0 to 255."""
    return pixels((SIDES[name], SIDES[name], 3), count, seed)


def pixels(shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray:
    """Random images of a shape, with values of 0 to 255."""
    rng, images = np.random.default_rng(seed), np.empty((count, *shape), "float32")
    for image in images:  # one by one, as they are drawn in double precision
        image[...] = rng.uniform(0.0, 255.0, shape)
    return images


def alive(model: keras.Model, x: np.ndarray) -> keras.Model:
    """The model with batch-norm statistics of what it really computes.

    Deep networks of random weights compute next to the same for every image without.
    """
    return emit(reestimated(read(model), x))


def randomise(model: keras.Model, seed: int) -> keras.Model:
    """Draws all weights, so that biases, slopes and statistics tell channels apart too."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name, size = weight.path.split("/")[-1], tuple(weight.shape)
        if name in ("gamma", "moving_variance", "variance"):
            weight.assign(rng.uniform(0.5, 1.5, size))
        elif name in ("bias", "beta", "moving_mean", "mean", "alpha"):
            weight.assign(rng.normal(0.0, 0.3, size))
        elif name.endswith("kernel"):
            weight.assign(rng.normal(0.0, 1.4 * np.prod(size[:-1]) ** -0.5, size))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return model
