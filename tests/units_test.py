"""Layers that are taken whole: one network's serve all tasks, and what lies between is shared."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import randomise
from tests.tiers import regular
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.runner import evaluate
from tfmot_pam.merging.donor import donor_method

layers = keras.layers

RNG = np.random.default_rng(0)
SERIES = RNG.normal(size=(48, 10, 6)).astype("float32")
IMAGES = RNG.normal(size=(48, 8, 8, 3)).astype("float32")


def transformer(h):
    """Patches, attention and a perceptron, each with a normalisation before it."""
    h = layers.Conv2D(12, 4, strides=4, name="patches")(h)
    h = layers.Reshape((4, 12), name="tokens")(h)
    y = layers.LayerNormalization(name="norm1")(h)
    h = layers.Add(name="add1")([h, layers.MultiHeadAttention(2, 6, name="attention")(y, y)])
    y = layers.LayerNormalization(name="norm2")(h)
    y = layers.Dense(12, name="down")(layers.Dense(20, activation="gelu", name="up")(y))
    h = layers.LayerNormalization(name="norm3")(layers.Add(name="add2")([h, y]))
    return layers.GlobalAveragePooling1D(name="pool")(h)


def convnext(h):
    """A depthwise convolution, a normalisation and a perceptron beside a residual stream."""
    h = layers.LayerNormalization(name="norm0")(layers.Conv2D(8, 2, strides=2, name="stem")(h))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(h)
    y = layers.LayerNormalization(name="norm1")(y)
    y = layers.Dense(8, name="down")(layers.Dense(16, activation="gelu", name="up")(y))
    h = layers.Add(name="add1")([h, y])
    return layers.LayerNormalization(name="norm2")(layers.GlobalAveragePooling2D(name="pool")(h))


def through(make, before=8):
    """A convolution, a layer that is taken whole, a dense layer."""

    def build(h):
        h = make()(layers.Conv1D(before, 3, activation="relu", name="conv")(h))
        if len(h.shape) == 3:
            h = layers.GlobalAveragePooling1D(name="pool")(h)
        return layers.Dense(9, activation="relu", name="fc")(h)

    return build


KINDS = {
    "LayerNormalization": (through(lambda: layers.LayerNormalization(name="whole")), SERIES),
    "RMSNormalization": (through(lambda: layers.RMSNormalization(name="whole")), SERIES),
    "GroupNormalization": (through(lambda: layers.GroupNormalization(4, name="whole")), SERIES),
    "UnitNormalization": (through(lambda: layers.UnitNormalization(name="whole")), SERIES),
    "softmax": (through(lambda: layers.Softmax(name="whole")), SERIES),
    "EinsumDense": (
        through(lambda: layers.EinsumDense("abc,bcd->abd", (8, 7), name="whole")),
        SERIES,
    ),
    "SimpleRNN": (through(lambda: layers.SimpleRNN(7, name="whole")), SERIES),
    "LSTM": (through(lambda: layers.LSTM(7, return_sequences=True, name="whole")), SERIES),
    "GRU": (through(lambda: layers.GRU(7, name="whole")), SERIES),
    "Bidirectional": (through(lambda: layers.Bidirectional(layers.LSTM(4), name="whole")), SERIES),
    "transformer": (transformer, IMAGES),
    "convnext": (convnext, IMAGES),
}


def model(kind: str, classes: int, seed: int) -> keras.Model:
    build, data = KINDS[kind]
    keras.utils.set_random_seed(seed)
    x = keras.Input(data.shape[1:], name="x")
    return randomise(keras.Model(x, layers.Dense(classes, name="out")(build(x))), seed)


@pytest.fixture(params=regular(KINDS, 4))
def pair(request):
    return {"a": model(request.param, 3, 0), "b": model(request.param, 4, 1)}, KINDS[request.param][
        1
    ]


def trunk_of_a(models, x):
    return tfmot_pam.merge(
        models, x, method=donor_method("a", lambda p, n: 1.0, "donor"), verbose=0
    )


def test_a_trunk_is_its_donor_for_the_donors_task(pair):
    models, x = pair
    merged = trunk_of_a(models, x)
    np.testing.assert_allclose(
        np.array(merged(x)["a"]), np.array(models["a"](x, training=False)), atol=1e-5
    )
    rows = {row.tasks: row for row in tfmot_pam.report(merged).rows}
    head = models["b"].get_layer("out").kernel.shape
    assert rows["a", "b"].macs == rows["a",].macs + head[0] * head[1]
    assert sum(layer.name.startswith("whole") for layer in merged.layers) <= 1


def test_the_other_task_reads_the_donors_layers_as_well_as_it_can(pair):
    """The head is fitted to its own network's outputs: no worse than their mean."""
    models, x = pair
    merged, wanted = trunk_of_a(models, x), np.array(models["b"](x, training=False))
    error = np.array(merged(x)["b"]) - wanted
    assert np.mean(error**2) <= 1.001 * np.mean((wanted - wanted.mean(axis=0)) ** 2)


def test_each_combination_computes_what_the_whole_does(pair):
    models, x = pair
    for method in ("shared", donor_method("b", lambda p, n: 0.75, "donor")):
        merged = tfmot_pam.merge(models, x, method=method, verbose=0)
        for task in models:
            part = tfmot_pam.select_tasks(merged, [task])
            np.testing.assert_allclose(
                np.array(part(x)[task]), np.array(merged(x)[task]), atol=1e-5
            )


def test_what_lies_between_is_pruned_and_what_is_taken_whole_stays(pair):
    models, x = pair
    merged = trunk_of_a(models, x)
    gated = tfmot_pam.prune_channels(merged, 0.3, "magnitude")
    small = tfmot_pam.strip_pruning(gated)
    for task in models:
        np.testing.assert_allclose(np.array(small(x)[task]), np.array(gated(x)[task]), atol=1e-5)
    assert tfmot_pam.cost(small).macs < tfmot_pam.cost(merged).macs


@pytest.mark.parametrize("kind", ["transformer", "convnext"])
@pytest.mark.slow
@pytest.mark.tensorflow
def test_blocks_train_save_and_export(kind, tmp_path):
    tflite_export = pytest.importorskip("tflite_export")
    models, x = {"a": model(kind, 3, 0), "b": model(kind, 4, 1)}, KINDS[kind][1]
    merged = trunk_of_a(models, x)
    plan = tfmot_pam.MergePlan.from_json(merged.merge_plan.to_json())
    again = tfmot_pam.merge(models, x, plan=plan, verbose=0)
    np.testing.assert_array_equal(np.array(again(x)["b"]), np.array(merged(x)["b"]))
    trained = tfmot_pam.fine_tune(merged, x, models, epochs=1, verbose=0)
    trained.save(tmp_path / "trained.keras")
    loaded = keras.models.load_model(tmp_path / "trained.keras")
    np.testing.assert_allclose(np.array(loaded(x)["b"]), np.array(trained(x)["b"]), atol=1e-5)
    files = tflite_export.export(loaded, tmp_path / "files", samples=x[:4], verbose=0)
    assert {file.tasks for file in files} >= {("a",), ("b",), ("a", "b")}
    assert max(file.max_abs_error for file in files) < 1e-3


def test_a_head_with_a_normalisation_of_its_own_reads_the_donors_channels():
    """Its first layer cannot be taken apart either: the donor's channels stand in for its own."""

    def net(classes, seed, norm):
        keras.utils.set_random_seed(seed)
        x = keras.Input((10, 6), name="x")
        h = layers.LayerNormalization(name="whole")(layers.Dense(8, name="fc")(x))
        h = layers.GlobalAveragePooling1D(name="pool")(h)
        if norm:
            h = layers.UnitNormalization(name="unit")(h)
        return randomise(keras.Model(x, layers.Dense(classes, name="out")(h)), seed)

    models = {"a": net(3, 0, False), "b": net(4, 1, True)}
    merged = trunk_of_a(models, SERIES)
    network = read(merged)
    unit = next(node for node in network.nodes if node.layer.startswith("unit"))
    (pooled,) = unit.inputs
    values = evaluate(network, SERIES, [*unit.outputs, pooled])
    norms = np.linalg.norm(values[pooled], axis=-1, keepdims=True)
    np.testing.assert_allclose(values[unit.outputs[0]], values[pooled] / norms, atol=1e-5)
    assert sum(layer.name.startswith("whole") for layer in merged.layers) == 1
