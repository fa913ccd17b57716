"""Tests of the choice of how layers are lowered, by a rule of thumb and by measurement."""

import dataclasses

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers

import tflite_export
from tests import small_nets
from tests.grouped_nets import grouped
from tests.tiers import regular
from tflite_export import verify
from tflite_export.compile import exporter, tuning
from tflite_export.compile.converter import convert
from tflite_export.compile.quantization import QUANTIZATIONS
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.time_model import estimated_time


@pytest.fixture(scope="module")
def model():
    return grouped("plain")


def _kinds(network):
    return [network.layer_of(node).kind for node in network.nodes]


def test_fused_networks_are_different_networks(model):
    network = read(model)
    found = tuning.with_fused_levels(network)
    assert found[0] is network
    # Of three layers in three groups each: none, the first one, two, three, the last two, one.
    # The rule of thumb chooses to fuse all, which is not listed twice.
    assert [_kinds(one).count("Conv2D") for one in found] == [9, 7, 5, 3, 5, 7]


def test_network_with_nothing_to_lower():
    network = read(small_nets.conv_net(0))
    assert tuning.with_fused_levels(network) == [network]
    assert tuning.variants(network) == [network]
    assert tuning.tune_alone(network, tuning.estimated, None) is network
    assert tuning.tune_together(network, [("head",)], tuning.estimated, None) is network


def _cost_of(width, kind="Conv2D"):
    image = keras.Input((4, 4, width if kind == "DepthwiseConv2D" else 2), name="image")
    layer = layers.Conv2D(width, 1) if kind == "Conv2D" else layers.DepthwiseConv2D(3)
    return estimated_time(read(keras.Model(image, {"a": layer(image)}))) - 13_000


def test_estimate_counts_whole_tiles():
    per_channel = 4 * 4 * 2
    of = {8: 16, 16: 16, 17: 32, 31: 32, 32: 32, 33: 64, 64: 64, 65: 96}
    assert {width: _cost_of(width) / per_channel for width in of} == pytest.approx(of)
    of = {15: 16 * 2.5, 16: 16 * 2, 17: 32 * 2.5, 32: 32 * 2}
    places = 2 * 2 * 3 * 3
    found = {width: _cost_of(width, "DepthwiseConv2D") / places for width in of}
    assert found == pytest.approx(of)


def test_estimate_counts_what_is_moved_and_calls():
    image = keras.Input((4, 4, 2), name="image")
    one, other, third = (layers.Conv2D(width, 1)(image) for width in (32, 32, 64))
    joined = layers.Add()([layers.Concatenate()([one, other]), third])
    network = read(keras.Model(image, {"a": joined}))
    expected = 16 * 2 * 128 + 15 * 16 * 64 * 2 + 5 * 13_000
    assert estimated_time(network) == pytest.approx(expected)


def _two_groups(places, shared, own, kernel=3):
    """A layer in two groups and the next in two: one reads the first group, one reads both."""
    image = keras.Input((places, places, 32), name="image")
    options = {"padding": "same", "activation": "relu"}
    first, second = (layers.Conv2D(width, 1, **options)(image) for width in (shared, own))
    joined = layers.Concatenate()([first, second])
    ends = [
        layers.Conv2D(width, kernel, **options)(x) for width, x in ((shared, first), (own, joined))
    ]
    pooled = [layers.GlobalAveragePooling2D()(end) for end in ends]
    return read(keras.Model(image, {"a": layers.Dense(2)(layers.Concatenate()(pooled))}))


def test_estimate_fuses_narrow_groups_and_keeps_wide_ones_apart():
    narrow = tuning.tune_alone(_two_groups(32, 8, 8), tuning.estimated, None)
    assert _kinds(narrow).count("Conv2D") == 2
    # Every group fills its tiles, and zeros for what a group does not read would cost.
    wide = tuning.tune_alone(_two_groups(32, 64, 64), tuning.estimated, None)
    assert _kinds(wide).count("Conv2D") >= 4


def test_estimate_sums_where_concatenating_moves_more():
    network = _two_groups(32, 32, 32, kernel=1)
    found = tuning.tune_together(network, [("a",)], tuning.estimated, None)
    assert _kinds(found).count("Add") == 2
    assert "Concatenate" not in _kinds(found)
    assert "Add" not in _kinds(
        tuning.tune_together(network, [("a",)], tuning.estimated, None, sums=False)
    )


def test_estimate_pads_what_depthwise_layers_read():
    image = keras.Input((32, 32, 8), name="image")
    x = layers.DepthwiseConv2D(7)(layers.Conv2D(28, 1)(image))
    x = layers.Conv2D(40, 1)(layers.DepthwiseConv2D(3)(x))
    x = layers.DepthwiseConv2D(3)(x)
    network = read(keras.Model(image, {"a": layers.Conv2D(3, 1)(x)}))
    found = tuning.tune_together(network, [("a",)], tuning.estimated, None)
    # 28 channels and 32 cost about as much to store; 40 stay, 48 would not pay.
    assert [node.shapes[0][-1] for node in found.nodes] == [8, 32, 32, 32, 40, 40, 3]


@pytest.mark.parametrize("quantization", regular(QUANTIZATIONS, 3))
def test_padded_files_in_every_quantisation(quantization, tmp_path):
    image = keras.Input((16, 16, 8), name="image")
    x = layers.Conv2D(28, 1, activation="relu", bias_initializer="random_normal")(image)
    x = layers.DepthwiseConv2D(5, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    head = layers.Dense(3, activation="softmax", bias_initializer="random_normal")
    model = small_nets.randomise(keras.Model(image, {"a": head(x)}), 0)
    data = small_nets.images(32, shape=(16, 16, 8))
    (file,) = tflite_export.export(
        model,
        tmp_path / "out",
        quantization=quantization,
        representative_data=data,
        samples=data,
        verbose=0,
    )
    graph = flatbuffer_utils.read_model(str(file.path)).subgraphs[0]
    assert max(tensor.shape[-1] for tensor in graph.tensors if len(tensor.shape) == 4) == 32


@pytest.mark.slow
def test_measurement_takes_the_fastest():
    networks = [_two_groups(size, 64, 64) for size in (64, 8)]
    found = tuning.measured(networks, _file)
    assert found[0] > found[1] > 0


def _file(network):
    return convert(emit(network, wrap=False), "a", QUANTIZATIONS["none"])


@pytest.mark.parametrize(
    ("tune", "mode"),
    [
        ("estimate", "files"),
        ("estimate", "signatures"),
        ("measure", "files"),
        ("measure", "signatures"),
    ],
)
@pytest.mark.slow
def test_tuned_files_compute_the_same(model, tmp_path, tune, mode):
    x = small_nets.images(4)
    combinations = ["a"] if (tune, mode) == ("measure", "files") else ["a", "a+b"]
    options = {"combinations": combinations, "mode": mode, "samples": x, "verbose": 0}
    plain = tflite_export.export(model, tmp_path / "plain", tune="none", **options)
    tuned = tflite_export.export(model, tmp_path / "tuned", tune=tune, **options)
    for before, after in zip(plain, tuned, strict=True):
        for signature in before.signatures:
            one = verify.run_file(before.path, {"image": x}, signature.name)
            other = verify.run_file(after.path, {"image": x}, signature.name)
            for task in signature.tasks:
                np.testing.assert_allclose(one[task], other[task], atol=1e-5)
    if (tune, mode) == ("estimate", "files"):
        assert plain[0].path.read_bytes() != tuned[0].path.read_bytes()


@pytest.mark.slow
def test_tuned_combinations_share_their_weights(tmp_path):
    widths = (28, 9, 10), (30, 12, 11), (28, 14, 13)
    model = grouped("depthwise", widths=widths, size=32)
    files = tflite_export.export(model, tmp_path / "out", verbose=0)
    together, largest = files[-1], files[-2]
    graph = flatbuffer_utils.read_model(str(largest.path)).subgraphs[0]
    names = [tensor.name.decode() for tensor in graph.tensors]
    assert any("lowered" in name for name in names)
    assert together.bytes < 1.1 * sum(file.bytes for file in files[:-1]) / 2
    x = small_nets.images(4, shape=(32, 32, 1))
    for file in files[:-1]:
        alone = verify.run_file(file.path, {"image": x}, file.signature)
        shared = verify.run_file(together.path, {"image": x}, file.signature)
        for task in file.tasks:
            np.testing.assert_array_equal(alone[task], shared[task])


def test_lowering_that_changes_outputs_is_not_used(model, tmp_path, monkeypatch):
    """A network that computes something else, passed off as the cheapest."""
    tuned = []

    def wrong(network, *args, **kwargs):
        tuned.append(network)
        head = network.layers["head_a"]
        weights = {**head.weights, "bias": head.weights["bias"] + [1, 0, 0]}
        changed = dataclasses.replace(head, weights=weights)
        return network.replace(layers={**network.layers, "head_a": changed})

    options = {"combinations": ["a"], "verbose": 0}
    plain = tflite_export.export(model, tmp_path / "plain", tune="none", **options)
    monkeypatch.setattr(exporter, "tune_alone", wrong)
    kept = tflite_export.export(model, tmp_path / "kept", **options)
    assert tuned
    assert kept[0].path.read_bytes() == plain[0].path.read_bytes()


@keras.saving.register_keras_serializable(package="tests")
class Forgetful(layers.Layer):
    """A layer whose configuration leaves out what it was made with."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs

    def get_config(self):
        return {"name": self.name}


def test_layers_that_cannot_be_built_anew_stay_as_they_are(tmp_path):
    image = keras.Input((16, 16, 8), name="image")
    x = layers.DepthwiseConv2D(5)(layers.Conv2D(28, 1)(Forgetful(2.0)(image)))
    x = layers.Conv2D(3, 1, bias_initializer="ones")(x)
    model = keras.Model(image, {"a": layers.GlobalMaxPooling2D()(x)})
    with pytest.warns(UserWarning, match="stay as they are.*factor.*tune='none'"):
        tflite_export.export(model, tmp_path / "out", verbose=0)
    assert (tmp_path / "out" / "a.tflite").is_file()


def test_unknown_tuning(model, tmp_path):
    with pytest.raises(ValueError, match=r"tuning. Received: 'fast'. Expected one of: \['none'"):
        tflite_export.export(model, tmp_path / "out", tune="fast")


@pytest.mark.parametrize("tune", ["none", "estimate"])
def test_batch_normalisation_is_folded(tmp_path, tune):
    model = grouped("normalised", ("a",))
    (file,) = tflite_export.export(model, tmp_path / "out", tune=tune, verbose=0)
    content = flatbuffer_utils.read_model(str(file.path))
    (graph,) = content.subgraphs
    found = {flatbuffer_utils.opcode_to_name(content, o.opcodeIndex) for o in graph.operators}
    joined = {"CONCATENATION"} if tune == "none" else set()
    assert found == {"CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"} | joined
