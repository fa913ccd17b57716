"""Two models that listen, convolutions over time and a recurrent layer, become one small network.

One spots a keyword in a second of sound, the other tells the speaker; their convolutions are
shared and pruned channel by channel, what the recurrent layers read included.
"""

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tflite_export
import tfmot_pam

_OUTPUT = flags.DEFINE_string("output_dir", "build/keywords", "Where to write; must not exist.")
_SAMPLES = flags.DEFINE_integer("samples", 1400, "Sounds that are drawn.", lower_bound=70)
_EPOCHS = flags.DEFINE_integer("epochs", 12, "Epochs of training per network.", lower_bound=1)
_EFFORT = flags.DEFINE_integer("effort", 16, "Epochs of compressing per network and arm.")
STEPS, BANDS, CLASSES = 48, 20, {"keyword": 5, "speaker": 3}


def draw(count: int, seed: int) -> tuple[np.ndarray, dict]:
    """Spectra over time `[n, 48, 20]`: a word is an order of tones, a speaker their pitch."""
    rng, words = np.random.default_rng(seed), np.random.default_rng(0)
    tones = words.integers(0, BANDS - 4, (CLASSES["keyword"], 6))
    labels = {task: rng.integers(0, classes, count) for task, classes in CLASSES.items()}
    x = 0.4 * rng.normal(size=(count, STEPS, BANDS)).astype("float32")
    for i, start in enumerate(rng.integers(0, STEPS - 36, count)):
        for place, tone in enumerate(tones[labels["keyword"][i]]):
            at = start + 6 * place
            x[i, at : at + 6, tone + 2 * labels["speaker"][i]] += 1.0
    return x, labels


def train_model(task: str, classes: int, x, y, epochs: int) -> keras.Model:
    """What you have already."""
    sound = keras.Input((STEPS, BANDS), name="sound")
    z = layers.Conv1D(24, 5, 2, padding="same", activation="relu", name="conv1")(sound)
    z = layers.Conv1D(32, 5, 2, padding="same", activation="relu", name="conv2")(z)
    # Unrolled, so that int8 files can be made of it, too.
    z = layers.GRU(24, unroll=True, name=f"gru_{task}")(z)
    model = keras.Model(sound, layers.Dense(classes, activation="softmax", name=task)(z))
    adam = keras.optimizers.Adam(3e-3)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    model.fit(x, y, epochs=epochs, verbose=2)
    return model


def main(_: list[str]) -> None:
    """Trains two models, and compresses them into one that is exported."""
    keras.utils.set_random_seed(0)
    x, labels = draw(_SAMPLES.value, seed=0)
    models = {
        task: train_model(task, classes, x, labels[task], _EPOCHS.value)
        for task, classes in CLASSES.items()
    }
    result = tfmot_pam.compress(
        models,
        (x, labels),
        0.02,
        validation_data=draw(_SAMPLES.value // 4, seed=1),
        effort=_EFFORT.value,
    )
    print(result.verdict, result.report, sep="\n")
    tflite_export.export(
        result.model, _OUTPUT.value, quantization="int8", representative_data=x[:128]
    )


if __name__ == "__main__":
    app.run(main)
