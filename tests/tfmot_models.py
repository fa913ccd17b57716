"""Merged models, and a model of TFMOT's documents, for TFMOT's own functions."""

from __future__ import annotations

import functools
import gzip

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

import tfmot_pam
from tests.tfmot_bridge_models import (
    CLASSES,
    LABELS,
    LOSS,
    SPEECH,
    X,
    make_model,
    merge_trained,
    xnnpack_model,
)
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

sparsity = import_tfmot().sparsity.keras
# The means of patches of a spectrogram.
PATCHES = X.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(-1, 64)
HALF = sparsity.ConstantSparsity(0.5, begin_step=0, frequency=2)
BOTH = pytest.mark.parametrize("kind", ["merged", pytest.param("crossed", marks=pytest.mark.slow)])


def dense_model(task, kerases=tf_keras):
    x = h = kerases.Input((64,), name="patches")
    h = kerases.layers.Dense(40, activation="relu", name="fc1")(h)
    h = kerases.layers.Dense(24, activation="relu", name="fc2")(h)
    return kerases.Model(x, kerases.layers.Dense(CLASSES[task], activation="softmax", name=task)(h))


def conv_model(task, kerases=tf_keras):
    """Convolutions with bias and activation, as in TFMOT's examples."""
    x = h = kerases.Input((32, 32, 1), name="spectrogram")
    h = kerases.layers.Conv2D(8, 3, 2, activation="relu", name="conv1")(h)
    h = kerases.layers.Conv2D(12, 3, 2, activation="relu", name="conv2")(h)
    h = kerases.layers.Flatten(name=f"flat_{task}")(h)
    return kerases.Model(x, kerases.layers.Dense(CLASSES[task], activation="softmax", name=task)(h))


MODELS = {
    conv_model: (X, {"share": 0.5}),
    dense_model: (PATCHES, {"share": 0.5}),
    make_model: (X, {"share": 0.5}),
    xnnpack_model: (SPEECH, {"method": "shared"}),
}


@functools.cache
def merged(kind, make):
    x, options = MODELS[make]
    kerases = {"merged": tf_keras, "crossed": keras}[kind]
    return merge_trained(functools.partial(make, kerases=kerases), 2, x, **options)


def fresh(kind, make=dense_model):
    """A merged tf_keras model or a merged Keras 3 model that crossed, as TFMOT changes it."""
    model = merged(kind, make)
    if kind == "crossed":
        return tfmot_pam.to_tf_keras(model)
    copied = tf_keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


def plain():
    """A model as in TFMOT's documents."""
    return dense_model("digit")


def labels(model):
    return {task: LABELS[task] for task in model.output} if is_multitask(model) else LABELS["digit"]


def is_multitask(model) -> bool:
    return isinstance(model.output, dict)


def fit(model, callbacks=(), x=PATCHES, batch_size=32, epochs=1):
    losses = {task: LOSS for task in model.output} if is_multitask(model) else LOSS
    model.compile("adam", losses)
    options = {"batch_size": batch_size, "epochs": epochs, "verbose": 0}
    history = model.fit(x, labels(model), callbacks=list(callbacks), **options).history
    assert np.isfinite(history["loss"]).all()
    return model


def fit_pruned(model, x=PATCHES, **options):
    return fit(model, [sparsity.UpdatePruningStep()], x, **options)


def evaluate(model, x=PATCHES):
    return model.evaluate(x, labels(model), verbose=0)


def zipped(model, folder) -> int:
    """The size of a model's file after compression, as in TFMOT's guides."""
    model.save(folder / "model.h5", include_optimizer=False)
    return len(gzip.compress((folder / "model.h5").read_bytes()))


def convert(model, optimization=None) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [optimization] if optimization else []
    return converter.convert()


def check_file(content, model, x, tolerance):
    """LiteRT's outputs are Keras's; the file names them after layers, with TFMOT's prefix."""
    runner = Interpreter(model_content=content).get_signature_runner()
    (name,) = runner.get_input_details()
    found = [runner(**{name: sample[None]}) for sample in x[:16]]
    assert len(found[0]) == len(model.output)
    for task, value in model(x[:16], training=False).items():
        (key,) = (key for key in found[0] if key.endswith(task))
        outputs = np.concatenate([result[key] for result in found])
        assert np.abs(outputs - value).mean() < tolerance


def wrap(model, wrapper, chosen):
    """TFMOT's way to treat some layers."""
    return tf_keras.models.clone_model(
        model, clone_function=lambda layer: wrapper(layer) if chosen(layer) else layer
    )
