"""TFMOT's techniques on merged models: trained on real data, stripped, exported, run, measured."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

import tflite_export
import tfmot_pam
from tflite_export import verify
from tfmot_pam.graph.generation import is_tf_keras
from tfmot_pam.toolkit.crossing import import_tfmot

ROOT = pathlib.Path(__file__).resolve().parents[1]
tfmot = import_tfmot()
sparsity = tfmot.sparsity.keras
STEPS = 6


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
CLASSES = {"digit": 10, "speaker": 6, "loud": 4}


def make_model(task):
    layers = keras.layers
    x = h = keras.Input((32, 32, 1), name="spectrogram")
    for index, width in enumerate((8, 12, 12), start=1):
        h = layers.Conv2D(width, 3, 2, "same", use_bias=False, name=f"conv{index}")(h)
        h = layers.ReLU(name=f"relu{index}")(layers.BatchNormalization(name=f"norm{index}")(h))
    h = layers.Flatten(name=f"flat_{task}")(h)
    model = keras.Model(x, layers.Dense(CLASSES[task], activation="softmax", name=task)(h))
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(X, LABELS[task], batch_size=32, epochs=1, verbose=0)
    return model


HEADS = [2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=HEADS, ids=lambda count: f"{count} heads")
def merged(request):
    keras.utils.set_random_seed(0)
    models = {task: make_model(task) for task in list(CLASSES)[: request.param]}
    return tfmot_pam.merge(models, X, share=0.5, verbose=0)


def train(model, callbacks=()):
    """A few steps with losses and metrics keyed by the heads' names."""
    losses = {task: "sparse_categorical_crossentropy" for task in model.output}
    model.compile("adam", losses, metrics={task: "accuracy" for task in model.output})
    labels = {task: LABELS[task] for task in model.output}
    history = model.fit(X, labels, batch_size=32, epochs=1, verbose=0, callbacks=list(callbacks))
    if len(model.output) > 1:
        wanted = {f"{task}_{kind}" for task in model.output for kind in ("loss", "accuracy")}
        assert set(history.history) == {"loss", *wanted}
    assert np.isfinite(history.history["loss"]).all()
    return model


@pytest.fixture(scope="module")
def treated(merged):
    """Models that were pruned or clustered, trained and stripped, by the name of the treatment."""
    made = {}

    def prune(**options):
        schedule = options.pop("schedule", sparsity.ConstantSparsity(0.5, 0, frequency=2))
        pruned = tfmot_pam.prune_low_magnitude(merged, schedule, **options)
        return tfmot_pam.strip_wrappers(train(pruned, [sparsity.UpdatePruningStep()]))

    def cluster(source=merged, **options):
        return tfmot_pam.strip_wrappers(train(tfmot_pam.cluster_weights(source, 8, **options)))

    decay = sparsity.PolynomialDecay(0.0, 0.75, 0, STEPS - 1, frequency=1)
    treatments = {
        "half": prune,
        "decay": lambda: prune(schedule=decay),
        "2:4": lambda: prune(sparsity_m_by_n=(2, 4)),
        "clusters": cluster,
        "sparse clusters": lambda: cluster(get("half"), preserve_sparsity=True),
    }

    def get(name):
        if name not in made:
            made[name] = treatments[name]()
        return made[name]

    return get


def kernels(model) -> dict[str, np.ndarray]:
    found = {layer.name: layer.get_weights()[0] for layer in model.layers if layer.get_weights()}
    return {name: kernel for name, kernel in found.items() if kernel.ndim > 1}


def zeros(kernel) -> float:
    return float(np.mean(kernel == 0))


def stored_kernels(content: bytes, dtype) -> list[np.ndarray]:
    """The constant matrices and filters in a TFLite file."""
    interpreter = Interpreter(model_content=content)
    found = []
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] == dtype and len(tensor["shape"]) in (2, 4):
            try:
                value = interpreter.get_tensor(tensor["index"])
            except ValueError:
                continue  # An activation that has no memory yet.
            found.append(value)
    return found


def stored_zeros(content: bytes) -> list[float]:
    """The share of zeros of each matrix and filter in a float32 file, packed ones included."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    found = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if len(tensor.shape) in (2, 4) and data is not None and tensor.type == 0:
            values = np.frombuffer(bytes(data), np.float32)
            found.append(1.0 - np.count_nonzero(values) / np.prod(tensor.shape))
    return found


def most_values(stored) -> int:
    """The most different values in any output channel of a file's kernels."""
    return max(len(np.unique(channel)) for kernel in stored for channel in kernel)


def check_export(model, folder) -> bytes:
    """Exports every combination, runs it in LiteRT against Keras; the largest file's content."""
    files = tflite_export.export(model, folder, mode="files", samples=X[:16], verbose=0)
    assert [file.tasks for file in files] == tfmot_pam.combinations(model)
    assert max(file.max_abs_error for file in files) < 1e-5
    return files[-1].path.read_bytes()


# --- sparsity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share"), [("half", 0.5), pytest.param("decay", 0.75, marks=pytest.mark.slow)]
)
def test_pruning_schedules(name, share, merged, treated, tmp_path):
    model = treated(name)
    assert list(kernels(model)) == list(kernels(tfmot_pam.to_tf_keras(merged)))
    measured = [zeros(kernel) for kernel in kernels(model).values()]
    for kernel in kernels(model).values():
        assert abs(zeros(kernel) - share) <= 1 / kernel.size
    stored = stored_zeros(check_export(model, tmp_path / "out"))
    assert len(stored) == len(measured)
    np.testing.assert_allclose(sorted(stored), sorted(measured), atol=1e-6)


@pytest.mark.slow
def test_two_of_four(merged, treated, tmp_path):
    with pytest.warns(UserWarning, match="'conv1_.*1 input channels are fewer than a pattern of 4"):
        tfmot_pam.prune_low_magnitude(merged, sparsity_m_by_n=(2, 4))
    model = treated("2:4")
    pruned = {n: kernel for n, kernel in kernels(model).items() if not n.startswith("conv1")}
    assert pruned
    for kernel in pruned.values():
        # TFMOT counts along the input channels, and pads the last of them.
        rows = np.moveaxis(kernel, -2, -1).reshape(-1, kernel.shape[-2])
        whole = rows[:, : rows.shape[1] // 4 * 4].reshape(-1, 4)
        assert ((whole == 0).sum(axis=1) >= 2).all()
    check_export(model, tmp_path / "out")


@pytest.mark.slow
def test_blocks(merged, tmp_path):
    schedule = sparsity.ConstantSparsity(0.5, 0, frequency=2)
    with pytest.warns(UserWarning, match="left out 'conv1_.*blocks need weights of two axes"):
        model = tfmot_pam.prune_low_magnitude(merged, schedule, block_size=(4, 2))
    model = tfmot_pam.strip_wrappers(train(model, [sparsity.UpdatePruningStep()]))
    for task in merged.output:
        kernel = kernels(model)[task]
        blocks = kernel.reshape(len(kernel) // 4, 4, -1, 2).swapaxes(1, 2).reshape(-1, 8)
        whole = (blocks == 0).all(axis=1)
        assert abs(whole.mean() - 0.5) < 0.05
        assert ((blocks != 0).any(axis=1) == ~whole).all()
    check_export(model, tmp_path / "out")


def xnnpack_model(task, size=3):
    """What XNNPACK's sparse inference takes from the first convolution to the pooling."""
    layers = keras.layers
    x = h = keras.Input((16, 16, 3), name="image")
    h = layers.ZeroPadding2D(1, name="pad")(h)
    h = layers.Conv2D(8, 3, 2, "valid", name="conv1")(h)
    h = layers.ReLU(name="relu1")(layers.BatchNormalization(name="norm1")(h))
    h = layers.DepthwiseConv2D(3, padding="same", name="depth")(h)
    h = layers.Conv2D(16, 1, name="conv2")(layers.ReLU(name="relu2")(h))
    h = layers.GlobalAveragePooling2D(keepdims=True, name=f"pool_{task}")(h)
    h = layers.Flatten(name=f"flat_{task}")(h)
    return keras.Model(x, layers.Dense(size, name=task)(h))


def test_xnnpack_policy():
    x = np.random.default_rng(0).normal(size=(64, 16, 16, 3)).astype("float32")
    models = {task: xnnpack_model(task) for task in ("a", "b")}
    merged = tfmot_pam.merge(models, x, method="shared", verbose=0)
    policy = sparsity.PruneForLatencyOnXNNPack()
    schedule = sparsity.ConstantSparsity(0.5, 0, frequency=1)
    with pytest.warns(UserWarning, match="'depth_shared': TFMOT leaves the weights of Depthwise"):
        model = tfmot_pam.prune_low_magnitude(merged, schedule, pruning_policy=policy)
    wrapped = [layer.layer.name for layer in model.layers if hasattr(layer, "pruning_vars")]
    assert wrapped == ["conv2_shared"]
    model.compile("adam", {"a": "mse", "b": "mse"})
    model.fit(
        x,
        {task: np.zeros((64, 3)) for task in ("a", "b")},
        callbacks=[sparsity.UpdatePruningStep()],
        verbose=0,
    )
    stripped = tfmot_pam.strip_wrappers(model)
    assert zeros(kernels(stripped)["conv2_shared"]) == 0.5


def test_xnnpack_policy_on_other_models(merged):
    with pytest.raises(ValueError, match="Could not find `Conv2D 3x3`"):
        tfmot_pam.prune_low_magnitude(merged, pruning_policy=sparsity.PruneForLatencyOnXNNPack())


def test_sparsity_comes_back_to_keras_and_stays(treated):
    back = tfmot_pam.from_tf_keras(treated("half"))
    before = {w.path: np.array(w.numpy()) for w in back.trainable_weights if len(w.shape) > 1}
    losses = {task: "sparse_categorical_crossentropy" for task in back.output}
    back.compile("adam", losses, jit_compile=False)
    labels = {task: LABELS[task] for task in back.output}
    back.fit(X, labels, epochs=1, verbose=0, callbacks=[tfmot_pam.KeepSparsity()])
    assert np.isclose(np.mean([zeros(kernel) for kernel in before.values()]), 0.5, atol=0.02)
    for weight in back.trainable_weights:
        if len(weight.shape) > 1:
            np.testing.assert_array_equal(weight.numpy() == 0, before[weight.path] == 0)
            assert np.abs(weight.numpy() - before[weight.path]).max() > 0
    tuned = tfmot_pam.fine_tune(
        back, (X, labels), epochs=1, callbacks=[tfmot_pam.KeepSparsity()], verbose=0
    )
    assert np.mean([zeros(w) for w in tuned.get_weights() if w.ndim > 1]) > 0.45


# --- clusters ---------------------------------------------------------------------------------


def test_clusters(treated, tmp_path):
    model = treated("clusters")
    assert max(len(np.unique(kernel)) for kernel in kernels(model).values()) <= 8
    # Normalisation is folded into the kernels, so that each channel has values of its own.
    stored = stored_kernels(check_export(model, tmp_path / "out"), np.float32)
    assert most_values(stored) <= 8


@pytest.mark.slow
def test_clusters_that_keep_zeros(treated, tmp_path):
    model = treated("sparse clusters")
    assert max(len(np.unique(kernel)) for kernel in kernels(model).values()) <= 9
    before = kernels(treated("half"))
    for name, kernel in kernels(model).items():
        assert (kernel[before[name] == 0] == 0).all()
    check_export(model, tmp_path / "out")


# --- quantisation -----------------------------------------------------------------------------


def check_quantized(model, source, folder) -> list[np.ndarray]:
    """Trains, exports and runs every combination against Keras; the largest file's int8 kernels."""
    train(model)
    expected = {task: np.asarray(value) for task, value in model(X[:32], training=False).items()}
    files = tflite_export.export(
        model, folder / "out", quantization="int8", samples=X[:64], verbose=0
    )
    assert [file.tasks for file in files[:-1]] == tfmot_pam.combinations(source)
    assert len(files[-1].signatures) == len(files) - 1
    for file in files:
        for signature in file.signatures:
            found = verify.run_file(file.path, {"spectrogram": X[:32]}, signature.name)
            assert set(found) == set(signature.tasks)
            for task, values in found.items():
                # Outputs are probabilities; an int8 step of an output is 1/256.
                assert np.abs(values - expected[task]).mean() < 0.01
            assert signature.label_agreement >= 0.9
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    for entry in manifest["files"]:
        for signature in entry["signatures"]:
            counted = tfmot_pam.cost(source, signature["tasks"])
            assert (signature["macs"], signature["parameters"]) == (
                counted.macs,
                counted.parameters,
            )
    content = files[-2].path.read_bytes()
    assert len(content) < 4 * sum(np.size(weight) for weight in source.get_weights())
    stored = stored_kernels(content, np.int8)
    assert len(stored) == len(kernels(source))
    return stored


@pytest.mark.slow
def test_quantisation_aware_training(merged, tmp_path):
    source = tfmot_pam.to_tf_keras(merged)
    check_quantized(tfmot_pam.quantize_model(merged), source, tmp_path)


@pytest.mark.slow
def test_quantisation_that_keeps_sparsity(treated, tmp_path):
    source = treated("half")
    model = tfmot_pam.quantize_model(source, preserve="sparsity")
    stored = check_quantized(model, source, tmp_path)
    assert sum(np.sum(kernel == 0) for kernel in stored) >= sum(
        np.sum(kernel == 0) for kernel in kernels(source).values()
    )


@pytest.mark.slow
def test_quantisation_that_keeps_clusters(treated, tmp_path):
    source = treated("clusters")
    model = tfmot_pam.quantize_model(source, preserve="clusters")
    assert most_values(check_quantized(model, source, tmp_path)) <= 8


@pytest.mark.slow
def test_quantisation_that_keeps_sparsity_and_clusters(treated, tmp_path):
    source = treated("sparse clusters")
    model = tfmot_pam.quantize_model(source, preserve="sparsity+clusters")
    stored = check_quantized(model, source, tmp_path)
    assert most_values(stored) <= 9
    assert np.mean([zeros(kernel) for kernel in stored]) > 0.45


@pytest.mark.slow
def test_convolutions_without_zeros_are_named(merged):
    with pytest.warns(UserWarning, match="'conv1_.*no zeros, so that TFMOT may keep none of those"):
        tfmot_pam.quantize_model(merged, preserve="sparsity+clusters")


@pytest.mark.slow
def test_converted_bytes_compute_what_the_exported_file_does(merged, tmp_path):
    model = train(tfmot_pam.quantize_model(merged))
    whole = tfmot_pam.convert_quantized(model)
    part = tfmot_pam.convert_quantized(model, "digit")
    assert len(part) < len(whole)
    (file,) = tflite_export.export(
        model, tmp_path / "out", combinations=["digit"], quantization="int8", verbose=0
    )
    runners = [
        Interpreter(model_content=content).get_signature_runner()
        for content in (whole, part, file.path.read_bytes())
    ]
    assert list(runners[1].get_output_details()) == ["digit"]
    first, second, third = (runner(spectrogram=X[:1])["digit"] for runner in runners)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(second, third)


def test_layers_that_tfmot_cannot_quantise():
    """They compute in floats, their outputs are quantised, and the rest is as always."""
    layers = keras.layers
    x = keras.Input((32, 32, 1), name="spectrogram")
    h = layers.Conv2D(4, 3, 2, activation="hard_silu", name="conv")(layers.Rescaling(0.5)(x))
    h = layers.BatchNormalization(name="alone")(layers.MaxPooling2D()(h))
    h = layers.LayerNormalization(name="norm")(layers.Flatten()(h))
    model = keras.Model(x, {"digit": layers.Dense(10, activation="softmax", name="digit")(h)})
    quantized = tfmot_pam.quantize_model(model)
    train(quantized)
    content = tfmot_pam.convert_quantized(quantized)
    found = Interpreter(model_content=content).get_signature_runner()(spectrogram=X[:1])["digit"]
    np.testing.assert_allclose(found, quantized(X[:1])["digit"], atol=0.05)
    assert len(stored_kernels(content, np.int8)) == 2


# --- what every technique does ----------------------------------------------------------------


TECHNIQUES = {
    "prune": tfmot_pam.prune_low_magnitude,
    "cluster": lambda model, **options: tfmot_pam.cluster_weights(model, 4, **options),
    "quantise": tfmot_pam.quantize_model,
}


def small_model(kerases):
    x = kerases.Input((8,), name="x")
    trunk = kerases.layers.Dense(6, activation="relu", name="trunk")(x)
    heads = {name: kerases.layers.Dense(3, name=name)(trunk) for name in ("b", "a")}
    return kerases.Model(x, heads)


@pytest.mark.parametrize("kerases", [keras, tf_keras])
@pytest.mark.parametrize("technique", TECHNIQUES.values(), ids=TECHNIQUES.keys())
def test_inputs_are_left_alone(technique, kerases):
    model = small_model(kerases)
    x = np.ones((2, 8), "float32")
    before, outputs = model.get_weights(), model(x)
    found = technique(model)
    assert is_tf_keras(found)
    assert list(found.output) == ["b", "a"]
    assert list(found.output_names) == ["a", "b"]
    for weight in found.weights:
        weight.assign(np.ones(weight.shape))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for task, value in outputs.items():
        np.testing.assert_array_equal(model(x)[task], value)
    assert model.get_layer("trunk").output is not None


def test_stripping_leaves_the_wrapped_model_alone():
    wrapped = tfmot_pam.prune_low_magnitude(small_model(keras))
    before = wrapped.get_weights()
    stripped = tfmot_pam.strip_wrappers(wrapped)
    assert [layer.name for layer in stripped.layers] == ["x", "trunk", "a", "b"] or [
        layer.name for layer in stripped.layers
    ] == ["x", "trunk", "b", "a"]
    for weight in stripped.weights:
        weight.assign(np.ones(weight.shape))
    for one, other in zip(before, wrapped.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert wrapped.get_layer("prune_low_magnitude_trunk").output is not None


@pytest.mark.parametrize("technique", ["prune", "cluster"])
def test_skipped_layers_stay_plain(technique):
    found = TECHNIQUES[technique](small_model(keras), skip=["a", "trunk"])
    assert {"a", "trunk"} <= {layer.name for layer in found.layers}
    assert "b" not in {layer.name for layer in found.layers}


def test_skipped_layers_are_not_quantised():
    found = tfmot_pam.quantize_model(small_model(keras), skip=["a", "trunk"])
    assert type(found.get_layer("a")).__name__ == "Dense"
    # What a quantised layer reads is quantised all the same.
    config = found.get_layer("quant_trunk").quantize_config
    assert config.get_weights_and_quantizers(found.get_layer("quant_trunk").layer) == []


PROGRAM = """
import os
import keras, tfmot_pam
x = keras.Input((8,), name="x")
model = keras.Model(x, {"a": keras.layers.Dense(4, name="a")(x)})
tfmot_pam.prune_low_magnitude(model)
import tensorflow as tf
assert tf.keras.layers.Dense is keras.layers.Dense
assert "TF_USE_LEGACY_KERAS" not in os.environ
"""


@pytest.mark.slow
def test_tfmot_changes_nothing_for_the_user():
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=ROOT, env=environment)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("technique", TECHNIQUES.values(), ids=TECHNIQUES.keys())
def test_bad_models(technique):
    with pytest.raises(TypeError, match="must be a keras.Model of Keras 3. Received: 'model'"):
        technique("model")
    with pytest.raises(ValueError, match=r"`skip` names the layers \['c'\].*Correct the names"):
        technique(small_model(keras), skip="c")
    with pytest.raises(ValueError, match="must be stripped first"):
        technique(tfmot_pam.prune_low_magnitude(small_model(keras)))


def test_nothing_to_treat():
    x = keras.Input((4, 4, 3))
    model = keras.Model(x, keras.layers.DepthwiseConv2D(3, name="depth")(x))
    for technique in ("prune", "cluster"):
        with pytest.raises(ValueError, match="no layer that TFMOT can .*'depth'.*at least one"):
            TECHNIQUES[technique](model)


def test_bad_options():
    model = small_model(keras)
    with pytest.raises(ValueError, match="number_of_clusters=1.*at least 2"):
        tfmot_pam.cluster_weights(model, 1)
    with pytest.raises(ValueError, match="Unknown `preserve`: 'zeros'.*'sparsity'"):
        tfmot_pam.quantize_model(model, preserve="zeros")


def test_models_that_were_never_wrapped():
    with pytest.raises(TypeError, match="tf_keras model that TFMOT has wrapped.*strip_pruning"):
        tfmot_pam.strip_wrappers(small_model(keras))
    with pytest.raises(TypeError, match="tf_keras model of quantize_model.*tflite_export.export"):
        tfmot_pam.convert_quantized(small_model(keras))
    with pytest.raises(ValueError, match="must not be wrapped for quantisation.*convert_quantized"):
        tfmot_pam.strip_wrappers(tfmot_pam.quantize_model(small_model(keras)))


def test_outputs_without_names():
    x = tf_keras.Input((4,))
    model = tf_keras.Model(x, [tf_keras.layers.Dense(2)(x), tf_keras.layers.Dense(3)(x)])
    with pytest.raises(ValueError, match="one tensor or a dict keyed by task. Received: 2 outputs"):
        tfmot_pam.convert_quantized(tfmot.quantization.keras.quantize_model(model))
