"""A detector with two outputs and a segmentation: models, images and labels."""

import keras
import numpy as np
from keras import layers

from tfmot_pam.graph.heads import leaves

RNG = np.random.default_rng(5)
IMAGES = RNG.normal(size=(140, 8, 8, 2)).astype("float32")
LABELS = {
    "detector": {
        "boxes": IMAGES[:, 2, 3, :2].copy(),
        "classes": (IMAGES.mean((1, 2)).argmax(-1)).astype("int64"),
    },
    "mask": (IMAGES[..., :1] > 0.5).astype("float32"),
}


def features(image, width=6):
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="first")(image)
    return layers.Conv2D(8, 3, padding="same", activation="relu", name="second")(x)


def detector(form=dict):
    image = keras.Input((8, 8, 2), name="image")
    x = layers.GlobalAveragePooling2D()(features(image))
    boxes = layers.Dense(2, name="boxes")(x)
    classes = layers.Dense(2, activation="softmax", name="classes")(x)
    if form is dict:
        return keras.Model(image, {"boxes": boxes, "classes": classes}, name="detector")
    return keras.Model(image, form([boxes, classes]), name="detector")


def segmentation():
    image = keras.Input((8, 8, 2), name="image")
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid", name="m")(features(image)))


def flat(outputs):
    return {head: v for task, nest in outputs.items() for head, v in leaves(task, nest).items()}
