"""A detector with two outputs and a segmentation model on one backbone become one small network.

One says where a square is and of which colour, one which pixels it has. Tolerances have the units
of what is measured: shares of the image, accuracy, overlap.
"""

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tflite_export
import tfmot_pam

_OUTPUT = flags.DEFINE_string("output_dir", "build/detector", "Where to write; must not exist.")
_SAMPLES = flags.DEFINE_integer("samples", 1400, "Images that are drawn.", lower_bound=70)
_EPOCHS = flags.DEFINE_integer("epochs", 15, "Epochs of training per network.", lower_bound=1)
_EFFORT = flags.DEFINE_integer("effort", 16, "Epochs of compressing per network and arm.")
SIZE = 24


def draw(count: int, seed: int) -> tuple[np.ndarray, dict]:
    """Images of one square each; its box (top, left, bottom, right), colour and pixels."""
    rng = np.random.default_rng(seed)
    x = 0.3 * rng.normal(size=(count, SIZE, SIZE, 3)).astype("float32")
    corner, side = rng.integers(0, 14, (count, 2)), rng.integers(5, 11, (count, 1))
    colour, mask = rng.integers(0, 3, count), np.zeros((count, SIZE, SIZE, 1), "float32")
    for i, ((top, left), (length,)) in enumerate(zip(corner, side, strict=True)):
        inside = (i, slice(top, top + length), slice(left, left + length))
        x[(*inside, colour[i])] += 1.0
        mask[inside] = 1.0
    box = np.concatenate([corner, corner + side], axis=1) / SIZE
    return x, {"detector": {"box": box, "colour": colour}, "mask": mask}


def overlap(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Intersection over union of the pixels that are more likely inside than not, by image."""
    one, other = y_true > 0.5, y_pred > 0.5
    return (one & other).sum((1, 2, 3)) / np.maximum((one | other).sum((1, 2, 3)), 1)


def train_models(x, labels, epochs: int) -> dict[str, keras.Model]:
    """What you have already: a detector, and a model for masks on the detector's frozen layers."""

    def fit(model, y, loss):
        model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
        model.fit(x, y, epochs=epochs, verbose=2)
        return model

    image = keras.Input((SIZE, SIZE, 3), name="image")
    features = layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    features = layers.Conv2D(32, 3, 2, padding="same", activation="relu")(features)
    backbone = keras.Model(image, features, name="backbone")
    y = layers.Conv2D(32, 3, 2, padding="same", activation="relu")(backbone(image))
    box = layers.Dense(4, name="box")(layers.Dense(48, activation="relu")(layers.Flatten()(y)))
    colour = layers.Dense(3, activation="softmax", name="colour")(layers.GlobalMaxPooling2D()(y))
    detector = keras.Model(image, {"box": box, "colour": colour}, name="detector")
    fit(detector, labels["detector"], {"box": "mse", "colour": "sparse_categorical_crossentropy"})
    backbone.trainable = False
    y = layers.Conv2D(32, 3, padding="same", activation="relu")(backbone(image))
    y = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(layers.UpSampling2D()(y))
    segmentation = fit(keras.Model(image, y), labels["mask"], "binary_crossentropy")
    return {"detector": detector, "mask": segmentation}


def main(_: list[str]) -> None:
    """Trains two models, and compresses them into one that is exported."""
    keras.utils.set_random_seed(0)
    data = draw(_SAMPLES.value, seed=0)
    models = train_models(*data, _EPOCHS.value)
    metrics = {"detector": {"box": "mae"}, "mask": tfmot_pam.Metric("overlap", overlap, "higher")}
    drop = {"detector": {"box": 0.01, "colour": 0.01}, "mask": 0.03}
    search = {"validation_data": draw(_SAMPLES.value // 4, seed=1), "effort": _EFFORT.value}
    result = tfmot_pam.compress(models, data, drop, metrics=metrics, **search)
    print(f"{result.verdict}\n{result.report}")
    tflite_export.export(result.model, _OUTPUT.value, samples=data[0][:64])


if __name__ == "__main__":
    app.run(main)
