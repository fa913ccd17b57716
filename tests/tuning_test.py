"""Tests of the choice of fused layers, by a rule of thumb and by measurement."""

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
from tests import small_nets
from tests.lowering_test import grouped
from tflite_export import tuning, verify
from tfmot_pam.graph.reader import read


@pytest.fixture(scope="module")
def model():
    return grouped("plain")


def test_candidates_are_different_networks(model):
    network = read(model)
    found = tuning.candidates(network)
    assert found[0] is network
    convolutions = [
        [one.layer_of(node).kind for node in one.nodes].count("Conv2D") for one in found
    ]
    # Of three layers in three groups each: none, the first one, two, three, the last two, one.
    assert convolutions == [9, 7, 5, 3, 5, 7]


def test_network_without_groups_has_one_candidate():
    network = read(small_nets.conv_net(0))
    assert tuning.candidates(network) == [network]


def test_estimate_counts_whole_tiles_what_concatenations_write_and_calls():
    image = keras.Input((4, 4, 2), name="image")
    one, other = layers.Conv2D(17, 1)(image), layers.Conv2D(16, 1)(image)
    joined = layers.Concatenate()([one, other])
    model = keras.Model(image, {"a": layers.Conv2D(8, 1)(joined)})
    expected = 16 * 2 * 32 + 16 * 2 * 16 + 16 * 33 * 16 + 64 * 16 * 33 + 4 * 80_000
    assert tuning.estimated_cost(read(model)) == pytest.approx(expected)


def test_estimate_fuses_small_groups_and_keeps_large_ones_apart(model):
    small = read(model)
    assert tuning.tune_estimate(tuning.candidates(small), None) is not small
    image = keras.Input((16, 16, 64), name="image")
    options = {"padding": "same", "activation": "relu"}
    shared, own = (layers.Conv2D(64, 3, **options)(image) for _ in range(2))
    joined = layers.Concatenate()([shared, own])
    ends = [layers.Conv2D(64, 3, **options)(x) for x in (shared, joined)]
    pooled = layers.GlobalAveragePooling2D()(layers.Concatenate()(ends))
    large = read(keras.Model(image, {"a": layers.Dense(2)(pooled)}))
    # Every group fills its tiles, and zeros for what a group does not read would cost.
    assert tuning.tune_estimate(tuning.candidates(large), None) is large


@pytest.mark.parametrize(("tune", "combinations"), [("estimate", ["a", "a+b"]), ("measure", ["a"])])
def test_tuned_files_compute_the_same(model, tmp_path, tune, combinations):
    x = small_nets.images(4)
    options = {"combinations": combinations, "samples": x, "verbose": 0}
    plain = tflite_export.export(model, tmp_path / "plain", **options)
    tuned = tflite_export.export(model, tmp_path / "tuned", tune=tune, **options)
    for before, after in zip(plain, tuned, strict=True):
        for signature in before.signatures:
            one = verify.run_file(before.path, {"image": x}, signature.name)
            other = verify.run_file(after.path, {"image": x}, signature.name)
            for task in signature.tasks:
                np.testing.assert_allclose(one[task], other[task], atol=1e-5)
    if tune == "estimate":
        assert plain[0].path.read_bytes() != tuned[0].path.read_bytes()
        # The file of all combinations shares its weights, so it stays as it was.
        assert plain[-1].path.read_bytes() == tuned[-1].path.read_bytes()


def test_lowering_that_changes_outputs_is_not_used(model):
    x = small_nets.images(3)
    expected = small_nets.all_outputs(model, x)
    assert tuning.equivalent(model, x, expected)
    shifted = {task: values + 2e-5 for task, values in expected.items()}
    assert not tuning.equivalent(model, x, shifted)


def test_unknown_tuning(model, tmp_path):
    with pytest.raises(ValueError, match=r"tuning. Received: 'fast'. Expected one of: \['none'"):
        tflite_export.export(model, tmp_path / "out", tune="fast")


def test_batch_normalisation_is_folded_by_the_converter(tmp_path):
    from ai_edge_litert.tools import flatbuffer_utils

    model = grouped("normalised", ("a",))
    (file,) = tflite_export.export(model, tmp_path / "out", verbose=0)
    content = flatbuffer_utils.read_model(str(file.path))
    (graph,) = content.subgraphs
    found = {flatbuffer_utils.opcode_to_name(content, o.opcodeIndex) for o in graph.operators}
    assert found == {"CONV_2D", "CONCATENATION", "MEAN", "FULLY_CONNECTED", "SOFTMAX"}
