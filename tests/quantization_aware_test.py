"""Tests of exporting models after quantisation aware training: each combination equals Keras."""

import json

import numpy as np
import pytest
import tf_keras

import tflite_export
import tfmot_pam
from tflite_export import verify
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.tf_keras import reader, wrappers
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

X = np.random.default_rng(0).normal(size=(64, 12, 12, 1)).astype("float32")
LABELS = {"speaker": np.arange(64) % 4, "digit": np.arange(64) % 5}


def _merged():
    """A shared convolution and one of each task; the first task is not the first by name."""
    tf_keras.utils.set_random_seed(1)
    layers = tf_keras.layers
    image = tf_keras.Input((12, 12, 1), name="image")

    def block(name):
        x = layers.Conv2D(6, 3, padding="same", use_bias=False, name=f"conv_{name}")(image)
        x = layers.BatchNormalization(name=f"norm_{name}")(x)
        return layers.MaxPooling2D(3, name=f"pool_{name}")(layers.ReLU(name=f"relu_{name}")(x))

    shared = block("shared")
    outputs = {}
    for task, classes in {"speaker": 4, "digit": 5}.items():
        x = layers.Concatenate(name=f"join_{task}")([shared, block(task)])
        x = layers.DepthwiseConv2D(3, activation="relu", name=f"depthwise_{task}")(x)
        head = layers.Dense(classes, activation="softmax", name=f"head_{task}")
        outputs[task] = head(layers.Flatten(name=f"flat_{task}")(x))
    return tf_keras.Model(image, outputs)


def _train(model):
    model.compile("adam", {task: "sparse_categorical_crossentropy" for task in LABELS})
    model.fit(X, LABELS, epochs=3, verbose=0)
    return model


@pytest.fixture(scope="module")
def merged():
    return _merged()


@pytest.fixture(scope="module")
def untrained(merged):
    return tfmot_pam.quantize_model(merged)


@pytest.fixture(scope="module")
def model(merged):
    return _train(tfmot_pam.quantize_model(merged))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aware") / "out"
    options = {"quantization": "int8", "integer_io": True, "samples": X, "verbose": 0}
    return tflite_export.export(model, folder, **options)


def test_the_network_in_the_wrappers_is_the_one_that_was_wrapped(merged, untrained):
    network = reader.read(untrained, quantized=True)
    assert set(network.layers) >= {layer.name for layer in merged.layers if layer.weights}
    assert network.layers["conv_shared"].tasks == ("speaker", "digit")
    assert network.layers["conv_digit"].tasks == ("digit",)
    inside = emit(network)
    for task, expected in merged(X[:8], training=False).items():
        np.testing.assert_allclose(inside(X[:8], training=False)[task], expected, atol=1e-6)
    assert tfmot_pam.cost(inside, "digit").macs == tfmot_pam.cost(merged, "digit").macs
    assert tfmot_pam.cost(inside).parameters == tfmot_pam.cost(merged).parameters


def test_other_functions_refuse_wrapped_models(untrained):
    for function in (tfmot_pam.cost, tfmot_pam.combinations, tfmot_pam.from_tf_keras):
        with pytest.raises(ValueError, match=r"must be stripped first.*tflite_export\.export"):
            function(untrained)


def test_every_combination_equals_keras(model, exported):
    assert [file.path.stem for file in exported] == [
        "speaker",
        "digit",
        "speaker+digit",
        "all_combinations",
    ]
    expected = {task: np.asarray(value) for task, value in model(X, training=False).items()}
    for file in exported:
        for signature in file.signatures:
            outputs = verify.run_file(file.path, {"image": X}, signature.name)
            assert set(outputs) == set(signature.tasks)
            for task, values in outputs.items():
                assert verify.rms_error(values, expected[task]) < 0.02
            assert signature.label_agreement > 0.9


def test_the_one_file_computes_what_the_files_do_bit_for_bit(exported):
    *alone, together = exported
    for file in alone:
        one = verify.run_file(file.path, {"image": X})
        other = verify.run_file(together.path, {"image": X}, file.signature)
        for task, values in one.items():
            np.testing.assert_array_equal(values, other[task])


def test_weights_are_stored_once(exported):
    *alone, together = exported
    assert together.bytes < 1.2 * alone[-1].bytes < 0.6 * sum(file.bytes for file in alone)


def test_manifest_and_card_say_what_it_is(exported, merged):
    folder = exported[0].path.parent
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["quantization_aware_training"] is True
    assert manifest["calibrated_on"] is None
    for entry in manifest["files"]:
        for signature in entry["signatures"]:
            counted = tfmot_pam.cost(merged, signature["tasks"])
            assert (signature["macs"], signature["parameters"]) == (
                counted.macs,
                counted.parameters,
            )
            for tensor in (*signature["inputs"].values(), *signature["outputs"].values()):
                assert tensor["dtype"] == "int8"
                assert tensor["scale"] > 0
    assert "quantisation aware training" in (folder / "README.md").read_text()


def test_the_model_stays_as_it_was(model, tmp_path):
    before, outputs = model.get_weights(), model.predict(X[:4], verbose=0)
    assert list(outputs) == list(LABELS)
    tflite_export.export(
        model, tmp_path / "out", combinations=["digit"], quantization="int8", verbose=0
    )
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for task, values in model.predict(X[:4], verbose=0).items():
        np.testing.assert_array_equal(values, outputs[task])


def _single_task():
    """What TFMOT's own function returns for a sequential model, trained."""
    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    plain = tf_keras.Sequential(
        [tf_keras.Input((6,), name="signal"), layers.Dense(3, "softmax", name="mood")]
    )
    model = import_tfmot().quantization.keras.quantize_model(plain)
    model.compile("adam", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    model.fit(x, np.arange(64) % 3, epochs=3, verbose=0)
    return model, x


def test_a_single_task_is_named_after_the_layer_in_the_wrapper(tmp_path):
    model, x = _single_task()
    (file,) = tflite_export.export(
        model, tmp_path / "out", quantization="int8", samples=x, verbose=0
    )
    assert (file.tasks, file.path.name) == (("mood",), "mood.tflite")
    found = verify.run_file(file.path, {"signal": x})["mood"]
    np.testing.assert_allclose(found, model(x), atol=0.02)


def test_weights_that_are_not_finite(tmp_path):
    model, _ = _single_task()
    model.get_layer("quant_mood").weights[1].assign(np.full(3, np.nan))
    with pytest.raises(ValueError, match="NaN or infinity in 'mood/bias:0' of model 'sequential"):
        tflite_export.export(model, tmp_path / "out", quantization="int8", verbose=0)


@pytest.mark.parametrize("quantization", ["none", "float16", "dynamic", "int16x8"])
def test_other_quantizations_are_errors(model, tmp_path, quantization):
    message = rf"learned to compute in 8 bits.*'{quantization}'\. Expected one of: \['int8'\]"
    with pytest.raises(ValueError, match=message):
        tflite_export.export(model, tmp_path / "out", quantization=quantization, verbose=0)
    assert list(tmp_path.iterdir()) == []


def test_tuning_is_an_error(model, tmp_path):
    with pytest.raises(ValueError, match="stay as they were trained.*tune='measure'.*Leave"):
        tflite_export.export(
            model, tmp_path / "out", quantization="int8", tune="measure", verbose=0
        )


def test_another_quantizer_is_an_error(model, tmp_path):
    with pytest.raises(ValueError, match="read by the converter.*'ai-edge-quantizer'.*Leave"):
        tflite_export.export(
            model,
            tmp_path / "out",
            quantization="int8",
            quantizer="ai-edge-quantizer",
            verbose=0,
        )


def test_untrained_ranges_are_an_error(untrained, model, tmp_path):
    assert wrappers.has_learned_ranges(model)
    with pytest.raises(ValueError, match=r"not been trained since quantize_model.*fit it"):
        tflite_export.export(untrained, tmp_path / "out", quantization="int8", verbose=0)


def test_representative_data_is_not_needed(model, tmp_path):
    with pytest.warns(UserWarning, match="gives no ranges.*has learned its own"):
        tflite_export.export(
            model,
            tmp_path / "out",
            combinations=["digit"],
            quantization="int8",
            representative_data=X[:4],
            verbose=0,
        )


def test_other_wrappers_must_be_stripped_first(merged, tmp_path):
    schedule = import_tfmot().sparsity.keras.ConstantSparsity(0.5, 0)
    for model in (
        tfmot_pam.prune_low_magnitude(merged, schedule),
        tfmot_pam.cluster_weights(merged, 2, skip=["depthwise_speaker", "depthwise_digit"]),
    ):
        with pytest.raises(ValueError, match="must be stripped first.*tfmot_pam.strip_wrappers"):
            tflite_export.export(model, tmp_path / "out", quantization="int8", verbose=0)
