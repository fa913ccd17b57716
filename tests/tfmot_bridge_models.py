"""Merged models trained on spoken digits, TFMOT's treatments of them, and what a file stores."""

from __future__ import annotations

import functools
import json
import pathlib

import keras
import numpy as np
import pytest
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

import tflite_export
import tfmot_pam
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLASSES = {"digit": 10, "speaker": 6, "loud": 4}
LOSS = "sparse_categorical_crossentropy"
STEPS = 6
HEADS = pytest.mark.parametrize(
    "heads",
    [2, pytest.param(3, marks=pytest.mark.slow)],
    ids=lambda count: f"{count} heads",
)
sparsity = import_tfmot().sparsity.keras


def load_data(count=192):
    """Spoken digits, with a third task: which recordings are louder than the median."""
    archive = np.load(ROOT / "examples" / "data" / "fsdd_logmel_32.npz")
    order = np.random.default_rng(0).permutation(len(archive["x_train"]))[:count]
    x = archive["x_train"][order][..., None].astype("float32")
    columns = json.loads(str(archive["meta"]))["columns"]
    labels = archive["y_train"][order].astype("int64")
    y = {task: labels[:, columns.index(task)] for task in ("digit", "speaker")}
    loudness = x.mean(axis=(1, 2, 3))
    y["loud"] = (loudness > np.median(loudness)).astype("int64")
    return (x - x.mean()) / x.std(), y


X, LABELS = load_data()
# Three channels, as usual in speech: the spectrogram, its slope in time, and the slope of that.
SPEECH = np.concatenate(
    [X, np.gradient(X, axis=2), np.gradient(np.gradient(X, axis=2), axis=2)], axis=-1
)


def make_model(task, kerases=keras):
    layers = kerases.layers
    x = h = kerases.Input((32, 32, 1), name="spectrogram")
    for index, width in enumerate((8, 12, 12), start=1):
        h = layers.Conv2D(width, 3, 2, "same", use_bias=False, name=f"conv{index}")(h)
        h = layers.ReLU(name=f"relu{index}")(layers.BatchNormalization(name=f"norm{index}")(h))
    h = layers.Flatten(name=f"flat_{task}")(h)
    return kerases.Model(x, layers.Dense(CLASSES[task], activation="softmax", name=task)(h))


def xnnpack_model(task, kerases=keras):
    """What XNNPACK's sparse inference takes from the first convolution to the pooling."""
    layers = kerases.layers
    x = h = kerases.Input((32, 32, 3), name="features")
    h = layers.Conv2D(8, 3, 2, "valid", name="conv1")(layers.ZeroPadding2D(1, name="pad1")(h))
    h = layers.ReLU(name="relu1")(layers.BatchNormalization(name="norm1")(h))
    h = layers.DepthwiseConv2D(3, padding="same", name="depth1")(h)
    h = layers.ReLU(name="relu2")(layers.BatchNormalization(name="norm2")(h))
    h = layers.Conv2D(16, 1, name="conv2")(h)
    h = layers.ReLU(name="relu3")(layers.BatchNormalization(name="norm3")(h))
    h = layers.DepthwiseConv2D(3, 2, name="depth2")(layers.ZeroPadding2D(1, name="pad2")(h))
    h = layers.ReLU(name="relu4")(layers.BatchNormalization(name="norm4")(h))
    h = layers.Conv2D(32, 1, name="conv3")(h)
    h = layers.ReLU(name="relu5")(layers.BatchNormalization(name="norm5")(h))
    h = layers.GlobalAveragePooling2D(keepdims=True, name=f"pool_{task}")(h)
    h = layers.Flatten(name=f"flat_{task}")(h)
    return kerases.Model(x, layers.Dense(CLASSES[task], activation="softmax", name=task)(h))


def merge_trained(make, heads, x=X, **options):
    """The merged model of as many single-task models, each trained for an epoch."""
    keras.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)
    models = {}
    for task in list(CLASSES)[:heads]:
        models[task] = make(task)
        models[task].compile("adam", LOSS, jit_compile=False)
        models[task].fit(x, LABELS[task], batch_size=32, epochs=1, verbose=0)
    labels = {task: LABELS[task] for task in models}
    return tfmot_pam.merge(models, (x, labels), verbose=0, **options)


@functools.cache
def merged_model(heads):
    return merge_trained(make_model, heads, share=0.5)


def train(model, callbacks=(), x=X):
    """A few steps with losses and metrics keyed by the heads' names."""
    losses = {task: LOSS for task in model.output}
    model.compile("adam", losses, metrics={task: "accuracy" for task in model.output})
    labels = {task: LABELS[task] for task in model.output}
    history = model.fit(x, labels, batch_size=32, epochs=1, verbose=0, callbacks=list(callbacks))
    if len(model.output) > 1:
        wanted = {f"{task}_{kind}" for task in model.output for kind in ("loss", "accuracy")}
        assert set(history.history) == {"loss", *wanted}
    assert np.isfinite(history.history["loss"]).all()
    return model


def prune(source, schedule=None, x=X, **options):
    """Prunes in training, and takes the wrappers off."""
    schedule = schedule or sparsity.ConstantSparsity(0.5, 0, frequency=2)
    pruned = tfmot_pam.prune_low_magnitude(source, schedule, **options)
    return tfmot_pam.strip_wrappers(train(pruned, [sparsity.UpdatePruningStep()], x))


def cluster(source, **options):
    """Clusters in training, and takes the wrappers off."""
    return tfmot_pam.strip_wrappers(train(tfmot_pam.cluster_weights(source, 8, **options)))


def decay(final):
    return sparsity.PolynomialDecay(0.0, final, 0, STEPS - 1, frequency=1)


TREATMENTS = {
    "half": lambda heads: prune(merged_model(heads)),
    "decay": lambda heads: prune(merged_model(heads), decay(0.75)),
    "2:4": lambda heads: prune(merged_model(heads), sparsity_m_by_n=(2, 4)),
    "clusters": lambda heads: cluster(merged_model(heads)),
    "sparse clusters": lambda heads: cluster(treated("half", heads), preserve_sparsity=True),
}


@functools.cache
def treated(name, heads):
    """A merged model that was pruned or clustered, trained and stripped."""
    return TREATMENTS[name](heads)


def kernels(model) -> dict[str, np.ndarray]:
    found = {layer.name: layer.get_weights()[0] for layer in model.layers if layer.get_weights()}
    return {name: kernel for name, kernel in found.items() if kernel.ndim > 1}


def zeros(kernel) -> float:
    return float(np.mean(kernel == 0))


def most_values(stored) -> int:
    """The most different values in any output channel of a file's kernels."""
    return max(len(np.unique(channel)) for kernel in stored for channel in kernel)


def stored_kernels(content: bytes, dtype=np.float32) -> list[np.ndarray]:
    """The matrices and filters in a TFLite file, unpacked, output channels first."""
    graph = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (part,) = graph.subgraphs
    wanted = [
        index
        for index, tensor in enumerate(part.tensors)
        if graph.buffers[tensor.buffer].data is not None and tensor.sparsity is None
    ]
    for operation in part.operators:
        if flatbuffer_utils.opcode_to_name(graph, operation.opcodeIndex) == "DENSIFY":
            wanted.append(operation.outputs[0])
    interpreter = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    interpreter.invoke()
    values = [interpreter.get_tensor(index) for index in wanted]
    return [value for value in values if value.ndim in (2, 4) and value.dtype == dtype]


def check_export(model, folder, x=X) -> bytes:
    """Exports every combination, runs it in LiteRT against Keras; the largest file's content."""
    files = tflite_export.export(
        model, folder, mode="files", tune="none", samples=x[:16], verbose=0
    )
    assert [file.tasks for file in files] == tfmot_pam.combinations(model)
    assert max(file.max_abs_error for file in files) < 1e-5
    return files[-1].path.read_bytes()
