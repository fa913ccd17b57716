r"""Two tf_keras models become one int8 file: merge, prune weights, train quantisation aware.

Every step between the merge and the files is TensorFlow Model Optimization's own, on a merged
model whose losses, metrics and signatures keep the names of its tasks.

    python examples/merge_prune_quantize.py --output_dir=build/int8 \
        --digit_model=digit.keras --speaker_model=speaker.keras

Without models of yours it trains two small ones first.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import tf_keras as keras
from absl import app, flags

import tflite_export
import tfmot_pam
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

ARCHIVE = pathlib.Path(__file__).parent / "data" / "fsdd_logmel_32.npz"
CLASSES = {"digit": 10, "speaker": 6}

_DATA = flags.DEFINE_string("data", str(ARCHIVE), "Spoken digits as 32x32 log-mel images.")
_OUTPUT = flags.DEFINE_string("output_dir", "build/int8", "Where to write; must not exist yet.")
_MODELS = {
    task: flags.DEFINE_string(f"{task}_model", None, f"A saved tf_keras model of the {task}.")
    for task in CLASSES
}
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of training per network.", lower_bound=1)
_TUNE = flags.DEFINE_integer("tune_epochs", 3, "Epochs of pruning, and of QAT.", lower_bound=1)
_SPARSITY = flags.DEFINE_float("final_sparsity", 0.5, "Share of zeros in every kernel, 0 to 1.")
_SHARE = flags.DEFINE_float("share", 0.5, "Wanted share of shared channels, 0 to 1.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.")

LOSS = "sparse_categorical_crossentropy"
BATCH = 32


def load_data(path: str, split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images `[n, 32, 32, 1]` of values 0 to 1, and class indices `[n]` by task."""
    archive = np.load(path)
    columns = json.loads(str(archive["meta"]))["columns"]
    labels = archive[f"y_{split}"].astype("int64")
    x = archive[f"x_{split}"][..., None].astype("float32") / 255.0
    return x, {task: labels[:, columns.index(task)] for task in CLASSES}


def build_model(task: str) -> keras.Model:
    """A small network of layers that TFMOT quantises."""
    layers = keras.layers
    inputs = x = keras.Input((32, 32, 1), name="spectrogram")
    for index, filters in enumerate((16, 32, 48), start=1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(layers.BatchNormalization(name=f"norm{index}")(x))
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    x = layers.Flatten(name=f"flat_{task}")(x)
    outputs = layers.Dense(CLASSES[task], activation="softmax", name=task)(x)
    return keras.Model(inputs, outputs, name=f"{task}_network")


def load_or_train(task: str, x: np.ndarray, y: np.ndarray) -> keras.Model:
    """The user's model, or a small one."""
    if _MODELS[task].value:
        return keras.models.load_model(_MODELS[task].value)
    model = build_model(task)
    model.compile("adam", LOSS)
    model.fit(x, y, batch_size=BATCH, epochs=_EPOCHS.value, verbose=2)
    return model


def train(model: keras.Model, train_data, callbacks=()) -> None:
    """Trains all heads together; the dict of losses has the tasks' names."""
    losses = {task: LOSS for task in CLASSES}
    model.compile(keras.optimizers.Adam(5e-4), losses, metrics={t: "accuracy" for t in CLASSES})
    model.fit(
        *train_data, batch_size=BATCH, epochs=_TUNE.value, verbose=2, callbacks=list(callbacks)
    )


def accuracy(model: keras.Model, test_data) -> dict[str, float]:
    """The share of right answers of each head."""
    x, labels = test_data
    found = model.predict(x, verbose=0)
    return {t: float(np.mean(found[t].argmax(axis=-1) == labels[t])) for t in CLASSES}


def lite_accuracy(file: tflite_export.ExportedFile, test_data) -> dict[str, float]:
    """The same in LiteRT, as a phone would run it."""
    from ai_edge_litert.interpreter import Interpreter

    x, labels = test_data
    runner = Interpreter(model_path=str(file.path)).get_signature_runner(file.signature)
    found = [runner(**{"spectrogram": sample[None]}) for sample in x]
    answers = {task: np.array([result[task].argmax() for result in found]) for task in file.tasks}
    return {task: float(np.mean(answers[task] == labels[task])) for task in file.tasks}


def show(step: str, values: dict[str, float], size: int | None = None) -> None:
    """One line of the result."""
    scores = ", ".join(f"{task} {value:.1%}" for task, value in values.items())
    print(f"{step:28} {scores}" + ("" if size is None else f", {size / 1000:.0f} kB"))


def main(argv: list[str]) -> None:
    """Runs the steps one after the other."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    tfmot = import_tfmot()
    pathlib.Path(_OUTPUT.value).mkdir(parents=True)
    keras.utils.set_random_seed(_SEED.value)
    train_data, test_data = (load_data(_DATA.value, split) for split in ("train", "test"))
    models = {t: load_or_train(t, train_data[0], train_data[1][t]) for t in CLASSES}

    # tf_keras models in, a tf_keras model out: ordinary layers, one a channel group.
    merged = tfmot_pam.merge(models, train_data, share=_SHARE.value, verbose=0)
    show("merged", accuracy(merged, test_data))

    steps = -(-len(train_data[0]) // BATCH) * _TUNE.value
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, _SPARSITY.value, 0, int(0.8 * steps), frequency=10
    )
    pruned = tfmot_pam.prune_low_magnitude(merged, schedule)
    train(pruned, train_data, [tfmot.sparsity.keras.UpdatePruningStep()])
    sparse = tfmot_pam.strip_wrappers(pruned)
    show("pruned", accuracy(sparse, test_data))

    quantized = tfmot_pam.quantize_model(sparse, preserve="sparsity")
    train(quantized, train_data)
    show("quantisation aware", accuracy(quantized, test_data))

    files = tflite_export.export(
        quantized, _OUTPUT.value, mode="files", quantization="int8", samples=test_data[0], verbose=0
    )
    for file in files:
        show(file.path.name, lite_accuracy(file, test_data), file.bytes)


if __name__ == "__main__":
    app.run(main)
