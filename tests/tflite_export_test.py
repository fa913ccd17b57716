"""Tests of the export: the files equal Keras, keep their names, and appear in one folder."""

import gc
import hashlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from tests.exported_nets import head, small_model
from tflite_export import verify
from tflite_export.compile import converter
from tflite_export.compile import samples as samples_of

COMBINATIONS = [
    ("speaker",),
    ("digit",),
    ("edge/map",),
    ("speaker", "digit"),
    ("speaker", "edge/map"),
    ("digit", "edge/map"),
    ("speaker", "digit", "edge/map"),
]


def _multi_head_model():
    """Convolutions, batch norm and depthwise; softmax, sigmoid and dense per-pixel heads."""
    keras.utils.set_random_seed(7)
    image = keras.Input((8, 8, 3), name="image-in")
    trunk = layers.Conv2D(6, 3, padding="same", use_bias=False)(image)
    trunk = layers.BatchNormalization()(trunk)
    trunk = layers.ReLU()(trunk)
    trunk = layers.DepthwiseConv2D(3, padding="same", activation="relu")(trunk)
    pooled = layers.GlobalAveragePooling2D()(trunk)
    outputs = {
        "speaker": layers.Dense(5, activation="softmax")(pooled),
        "digit": layers.Dense(4, activation="sigmoid")(layers.Flatten()(trunk)),
        "edge/map": layers.Conv2D(2, 1)(trunk),
    }
    model = keras.Model(image, outputs)
    random = np.random.default_rng(7)
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(random.normal(0, 0.3, weight.shape))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


@pytest.fixture(scope="module")
def model():
    return _multi_head_model()


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(3).uniform(-2, 2, (20, 8, 8, 3))


@pytest.fixture(scope="module")
def exported(model, samples, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "new" / "out"
    accuracy = {"digit": 0.75}
    return tflite_export.export(model, directory, samples=samples, accuracy=accuracy, verbose=0)


def test_one_file_per_combination_and_one_of_all(exported):
    assert [file.tasks for file in exported] == [*COMBINATIONS, COMBINATIONS[-1]]
    assert [file.path.name for file in exported][3:5] == [
        "speaker+digit.tflite",
        "speaker+edge%2Fmap.tflite",
    ]
    for file in exported:
        assert file.bytes == file.path.stat().st_size
        assert file.quantization == "none"
    for file in exported[:-1]:
        assert (file.signature, len(file.signatures)) == (file.path.stem, 1)
    together = exported[-1]
    assert together.path.name == "all_combinations.tflite"
    assert together.signature == "speaker+digit+edge%2Fmap"
    assert [signature.tasks for signature in together.signatures] == COMBINATIONS
    assert [signature.name for signature in together.signatures] == [
        file.signature for file in exported[:-1]
    ]
    sizes = {file.tasks: file.bytes for file in exported[:-1]}
    assert sizes[("edge/map",)] < sizes[("digit", "edge/map")] < sizes[COMBINATIONS[-1]]


def test_files_equal_keras_and_keep_the_names(model, exported):
    fresh = np.random.default_rng(11).normal(size=(5, 8, 8, 3)).astype("float32")
    expected = {task: np.asarray(values) for task, values in model(fresh, training=False).items()}
    for file in exported:
        for signature in file.signatures:
            outputs = verify.run_file(file.path, {"image-in": fresh}, signature.name)
            assert set(outputs) == set(signature.tasks)
            for task in signature.tasks:
                np.testing.assert_allclose(outputs[task], expected[task], rtol=1e-4, atol=1e-4)
            assert 0 <= signature.mean_abs_error <= signature.max_abs_error < 1e-4
            assert signature.label_agreement == 1
        assert 0 <= file.max_abs_error < 1e-4


def test_manifest_describes_the_folder(exported):
    directory = exported[0].path.parent
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    assert {entry["file"] for entry in manifest["files"]} == {
        path.name for path in directory.glob("*.tflite")
    }
    for entry, file in zip(manifest["files"], exported, strict=True):
        assert entry["bytes"] == file.bytes
        assert entry["sha256"] == hashlib.sha256(file.path.read_bytes()).hexdigest()
        for one, signature in zip(entry["signatures"], file.signatures, strict=True):
            assert one["name"] == signature.name
            assert tuple(one["tasks"]) == tuple(one["outputs"]) == signature.tasks
            assert one["inputs"] == {"image-in": {"shape": [1, 8, 8, 3], "dtype": "float32"}}
            errors = [agreement["max_abs_error"] for agreement in one["agreement"].values()]
            assert max(errors) == signature.max_abs_error
    (edges,) = manifest["files"][2]["signatures"]
    assert edges["outputs"]["edge/map"]["shape"] == [1, 8, 8, 2]
    assert (edges["macs"], edges["parameters"]) == (64 * (27 * 6 + 9 * 6 + 12), 260)
    assert (manifest["schema_version"], manifest["quantization"]) == (1, "none")
    assert manifest["tasks"] == ["speaker", "digit", "edge/map"]
    assert manifest["checked_on"] == {"inputs": "given", "number": 20}
    assert manifest["accuracy"] == {"digit": 0.75}
    assert {"tensorflow", "keras", "ai-edge-litert"} <= set(manifest["versions"])


def test_running_files_needs_neither_tensorflow_nor_keras(exported):
    program = (
        "import sys, numpy as np, tflite_export\n"
        "from absl import flags\n"
        "from tflite_export import verify\n"
        "x = {'image-in': np.zeros((2, 8, 8, 3), 'float32')}\n"
        "print(verify.run_file(sys.argv[1], x)['digit'].shape)\n"
        "print([name for name in ('keras', 'tensorflow', 'tfmot_pam') if name in sys.modules])\n"
        "print('quantization' in flags.FLAGS)\n"
    )
    command = [sys.executable, "-c", program, str(exported[1].path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["(2, 4)", "[]", "False"]


def test_chosen_combinations_and_modes(tmp_path):
    chosen = ["digit+speaker", ("speaker", "digit"), ["speaker"]]
    names = {}
    for mode in ("files", "signatures", "both"):
        files = tflite_export.export(
            small_model(), tmp_path / mode, combinations=chosen, mode=mode, verbose=0
        )
        names[mode] = [file.path.stem for file in files]
        written = {path.name for path in (tmp_path / mode).iterdir()}
        assert written == {f"{name}.tflite" for name in names[mode]} | {
            "manifest.json",
            "README.md",
        }
    assert names == {
        "files": ["digit+speaker", "speaker"],
        "signatures": ["all_combinations"],
        "both": ["digit+speaker", "speaker", "all_combinations"],
    }


def test_tasks_that_only_run_alone_and_one_named_like_the_common_file(tmp_path):
    signal = keras.Input((6,), name="signal")
    tasks = ("all_combinations", "digit")
    model = keras.Model(signal, {task: head(3)(signal) for task in tasks})
    chosen = ["all_combinations", "digit"]
    files = tflite_export.export(model, tmp_path / "out", combinations=chosen, verbose=0)
    stems = [file.path.stem for file in files]
    assert stems == ["all_combinations", "digit", "all_combinations+"]
    assert (files[-1].tasks, files[-1].signature) == (tasks, "all_combinations")


def test_single_task_model_and_integer_input(tmp_path, capfd):
    token = keras.Input((4,), dtype="int32", name="token")
    embedded = layers.GlobalMaxPooling1D()(layers.Embedding(9, 6)(token))
    model = keras.Model(token, head(2, name="mood")(embedded))
    (file,) = tflite_export.export(model, str(tmp_path / "out"), verbose=0)
    assert (file.tasks, file.path.name) == (("mood",), "mood.tflite")
    x = np.array([[1, 8, 3, 0]], "int32")
    outputs = verify.run_file(file.path, {"token": x})
    np.testing.assert_allclose(outputs["mood"], model(x), atol=1e-5)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_sequential_model_and_replaced_folder(tmp_path):
    directory = tmp_path / "out"
    directory.mkdir()
    model = keras.Sequential([keras.Input((6,), name="signal"), head(3, name="digit")])
    (first,) = tflite_export.export(model, directory, verbose=0)
    model.layers[0].set_weights([np.ones((6, 3)), np.ones(3)])
    with pytest.raises(ValueError, match=r"exists and is not empty.*overwrite=True"):
        tflite_export.export(model, directory, verbose=0)
    (second,) = tflite_export.export(
        model, directory, combinations=["digit"], overwrite=True, verbose=0
    )
    assert (first.tasks, first.path) == (second.tasks, second.path)
    outputs = verify.run_file(second.path, {"signal": np.ones((1, 6), "float32")})
    np.testing.assert_allclose(outputs["digit"], np.full((1, 3), 7.0), rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_at_most_256_samples_evenly_spaced():
    given = np.repeat(np.arange(1000.0)[:, np.newaxis], 6, axis=1)
    (used,) = samples_of.trial_inputs(small_model(), given, seed=0).values()
    assert used.shape == (256, 6)
    assert (used[0, 0], used[-1, 0]) == (0, 999)
    assert set(np.diff(used[:, 0])) == {3, 4}


def test_random_inputs_follow_the_seed():
    drawn = [samples_of.trial_inputs(small_model(), None, seed) for seed in (1, 1, 2)]
    first, again, other = (array for found in drawn for array in found.values())
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_running_a_file_checks_names(exported):
    path = exported[0].path
    with pytest.raises(ValueError, match=r"takes the inputs \['image-in'\]. Received: \['image'\]"):
        verify.run_file(path, {"image": np.zeros((1, 8, 8, 3), "float32")})
    with pytest.raises(ValueError, match=r"signatures \['speaker'\]. Received: 'digit'"):
        verify.run_file(path, {"image-in": np.zeros((1, 8, 8, 3), "float32")}, "digit")
    with pytest.raises(ValueError, match=r"signatures \['digit', 'digit\+.* Received: None"):
        verify.run_file(exported[-1].path, {"image-in": np.zeros((1, 8, 8, 3), "float32")})
    with pytest.raises(ValueError, match="expected a file with one. Measure it with"):
        tflite_export.measure_latency(exported[-1].path)


def test_one_file_run_in_turns_equals_the_files_bit_for_bit(exported):
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(10, 8, 8, 3)).astype("float32")
    expected = {
        file.signature: verify.run_file(file.path, {"image-in": inputs}) for file in exported[:-1]
    }
    interpreter = verify.open_file(exported[-1].path)
    runners = {
        name: verify.signature_runner(interpreter, name, "all_combinations") for name in expected
    }
    previous = None
    for turn in range(1000):
        name = rng.choice([name for name in expected if name != previous])
        outputs = runners[name](**{"image-in": inputs[turn % 10 : turn % 10 + 1]})
        assert set(outputs) == set(expected[name])
        for task, values in outputs.items():
            np.testing.assert_array_equal(values[0], expected[name][task][turn % 10])
        previous = name


@pytest.mark.slow
def test_weights_are_stored_once_for_all_combinations(tmp_path):
    signal = keras.Input((128,), name="signal")
    shared = layers.Dense(100, activation="relu")(signal)
    heads = {
        task: head(5)(layers.Concatenate()([shared, layers.Dense(60, activation="relu")(signal)]))
        for task in ("digit", "speaker", "mood")
    }
    model = keras.Model(signal, heads)
    data = np.random.default_rng(0).normal(size=(32, 128))
    for quantization in ("none", "int8"):
        files = tflite_export.export(
            model,
            tmp_path / quantization,
            combinations=["digit", "speaker+mood", "digit+speaker+mood"],
            quantization=quantization,
            representative_data=data,
            verbose=0,
        )
        assert files[-1].bytes <= 1.1 * files[-2].bytes


def test_conversion_leaves_the_users_frozen_objects_frozen():
    before = gc.get_freeze_count()
    gc.unfreeze()
    try:
        with converter._little_garbage():
            assert gc.get_freeze_count() > 0
        assert gc.get_freeze_count() == 0
        gc.freeze()
        with converter._little_garbage():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.freeze() if before else gc.unfreeze()
