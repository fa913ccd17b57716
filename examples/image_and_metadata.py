"""Two models of an image and of what is known beside it become one small network.

One says what is in a picture; the other whether it is worth a notification, by the image and what
else a phone knows. Inputs are matched by name: the file of the first task takes the image only.
"""

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tflite_export
import tfmot_pam

_OUTPUT = flags.DEFINE_string("output_dir", "build/metadata", "Where to write; must not exist.")
_SAMPLES = flags.DEFINE_integer("samples", 1400, "Images that are drawn.", lower_bound=70)
_EPOCHS = flags.DEFINE_integer("epochs", 12, "Epochs of training per network.", lower_bound=1)
_EFFORT = flags.DEFINE_integer("effort", 16, "Epochs of compressing per network and arm.")
SHAPES, KNOWN = ("cross", "square", "stripes", "dot"), 6


def draw(count: int, seed: int) -> tuple[dict, dict]:
    """Images `[n, 20, 20, 1]` with metadata `[n, 6]`, and the labels of both tasks."""
    rng = np.random.default_rng(seed)
    image = 0.5 * rng.normal(size=(count, 20, 20, 1)).astype("float32")
    content = rng.integers(0, len(SHAPES), count)
    stamps = np.zeros((len(SHAPES), 8, 8), "float32")
    stamps[0, 3:5], stamps[0, :, 3:5] = 1, 1
    stamps[1, 1:7, 1:7], stamps[1, 3:5, 3:5] = 1, 0
    stamps[2, ::2] = 1
    stamps[3, 2:6, 2:6] = 1
    for i, (top, left) in enumerate(rng.integers(0, 12, (count, 2))):
        image[i, top : top + 8, left : left + 8, 0] += stamps[content[i]]
    metadata = rng.normal(size=(count, KNOWN)).astype("float32")
    worth = metadata[:, 0] + metadata[:, 1] + np.array([1.5, 0.5, -0.5, -1.5])[content] > 0
    labels = {"content": content, "notify": worth.astype("int64")}
    return {"image": image, "metadata": metadata}, labels


def features(image: keras.KerasTensor) -> keras.KerasTensor:
    """The layers that both models have."""
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1")(image)
    x = layers.Conv2D(32, 3, 2, padding="same", activation="relu", name="conv2")(x)
    return layers.GlobalMaxPooling2D()(layers.Conv2D(32, 3, activation="relu", name="conv3")(x))


def train_models(x, labels, epochs: int) -> dict[str, keras.Model]:
    """What you have already: a model of one input, and one of two."""
    image = keras.Input((20, 20, 1), name="image")
    output = layers.Dense(len(SHAPES), activation="softmax", name="content")(features(image))
    models = {"content": keras.Model(image, output)}
    image, metadata = keras.Input((20, 20, 1), name="image"), keras.Input((KNOWN,), name="metadata")
    known = layers.Dense(8, activation="relu")(metadata)
    y = layers.Dense(24, activation="relu")(layers.Concatenate()([features(image), known]))
    output = layers.Dense(2, activation="softmax", name="notify")(y)
    models["notify"] = keras.Model({"image": image, "metadata": metadata}, output)
    for task, model in models.items():
        adam = keras.optimizers.Adam(3e-3)
        model.compile(adam, "sparse_categorical_crossentropy", jit_compile=False)
        given = x if task == "notify" else x["image"]
        model.fit(given, labels[task], epochs=epochs, verbose=2)
    return models


def main(_: list[str]) -> None:
    """Trains two models, and compresses them into one that is exported."""
    keras.utils.set_random_seed(0)
    data = draw(_SAMPLES.value, seed=0)
    models = train_models(*data, _EPOCHS.value)
    result = tfmot_pam.compress(
        models, data, 0.02, validation_data=draw(_SAMPLES.value // 4, 1), effort=_EFFORT.value
    )
    print(result.verdict, result.report, sep="\n")
    samples = {name: array[:64] for name, array in data[0].items()}
    tflite_export.export(result.model, _OUTPUT.value, samples=samples)


if __name__ == "__main__":
    app.run(main)
