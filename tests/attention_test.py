"""Heads of attention as channels: taken apart, removed one by one, put together again."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import randomise
from tests.tiers import regular
from tfmot_pam.attention_heads import AttentionHeads
from tfmot_pam.graph.attention import attention_apart, attention_together
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.pruning.at_once import cut
from tfmot_pam.pruning.settings import PruningSettings

layers = keras.layers
X = np.random.default_rng(0).normal(size=(64, 6, 8)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 64)


def heads(count=4, **options):
    return layers.MultiHeadAttention(count, 3, name="attention", **options)


def shared(**options):
    return layers.GroupQueryAttention(3, 6, 3, name="attention", **options)


def block(x, attend):
    """Attention and a perceptron, each beside a residual stream."""
    y = layers.LayerNormalization(name="norm1")(x)
    x = layers.Add(name="add1")([x, attend(y)])
    y = layers.LayerNormalization(name="norm2")(x)
    y = layers.Dense(12, name="down")(layers.Dense(32, activation="gelu", name="up")(y))
    return layers.Add(name="add2")([x, y])


def network(attend, shape=(6, 8), before=lambda x: x):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, name="x")
    h = block(layers.Dense(12, name="embed")(before(inputs)), attend)
    return randomise(keras.Model(inputs, layers.Dense(3, name="out")(h)), 0)


def twice(layer):
    return lambda y: layer(layer(y, y), y)


KINDS = {
    "heads": lambda: network(lambda y: heads()(y, y)),
    "values of another width": lambda: network(lambda y: heads(value_dim=5)(y, y)),
    "no bias": lambda: network(lambda y: heads(use_bias=False)(y, y)),
    "causal": lambda: network(lambda y: heads()(y, y, use_causal_mask=True)),
    "dropout": lambda: network(lambda y: heads(dropout=0.3)(y, y)),
    "other keys": lambda: network(lambda y: heads()(y, layers.Dense(7)(y), layers.Dense(5)(y))),
    "by name": lambda: network(lambda y: heads()(query=y, value=y)),
    "another width out": lambda: network(
        lambda y: layers.Dense(12)(heads(output_shape=10)(y, y)),
    ),
    "two axes": lambda: network(lambda y: heads()(y, y), (3, 2, 8)),
    "called twice": lambda: network(twice(heads())),
    "shared keys": lambda: network(lambda y: shared()(y, y)),
    "shared keys, causal": lambda: network(lambda y: shared()(y, y, use_causal_mask=True)),
    "after a mask": lambda: network(lambda y: heads()(y, y), before=layers.Masking(0.0)),
}


def outputs(model, x):
    return np.array(model(x.reshape(-1, *model.input_shape[1:]), training=False))


@pytest.fixture(params=regular(KINDS, 4))
def model(request):
    return KINDS[request.param]()


@pytest.fixture
def x():
    found = X.copy()
    found[:, 4:] *= np.arange(64)[:, None, None] % 2  # What Masking leaves out of every other one.
    return found


def test_taken_apart_it_computes_the_same_at_the_same_cost(model, x):
    whole = read(model)
    apart = attention_apart(whole)
    assert any(layer.cls is AttentionHeads for layer in apart.layers.values())
    np.testing.assert_allclose(outputs(emit(apart), x), outputs(model, x), atol=2e-5)
    assert network_cost(apart).macs == network_cost(whole).macs
    assert network_cost(apart).parameters == network_cost(whole).parameters


def test_put_together_it_is_the_same_to_the_last_bit(model):
    whole = read(model)
    again = attention_together(attention_apart(whole))
    assert [node.name for node in again.nodes] == [node.name for node in whole.nodes]
    for name, layer in whole.layers.items():
        assert again.layers[name].config == layer.config
        for key, weight in layer.weights.items():
            np.testing.assert_array_equal(again.layers[name].weights[key], weight)


@pytest.mark.parametrize("importance", ["magnitude", "reconstruction"])
def test_half_of_the_heads_removed(model, x, importance):
    """Masked = removed, and what is left is an attention layer of half of the heads."""
    data = x.reshape(-1, *model.input_shape[1:]) if importance == "reconstruction" else None
    gated = tfmot_pam.prune_channels(model, 0.5, importance, data=data, scope="per-layer")
    smaller = tfmot_pam.strip_pruning(gated)
    np.testing.assert_allclose(outputs(gated, x), outputs(smaller, x), atol=2e-5)
    found, was = (m.get_layer("attention").get_config() for m in (smaller, model))
    # Of three heads of keys and values at least half stay: two.
    units = min(count for name, count in was.items() if name.startswith("num_"))
    for name in (name for name in was if name.startswith("num_")):
        assert found[name] == was[name] * -(-units // 2) // units
    assert 14 <= smaller.get_layer("up").units <= 18


def test_a_budget_in_macs_counts_heads():
    model = KINDS["heads"]()
    gated = tfmot_pam.prune_channels(model, 0.4, "magnitude", measure="macs")
    left = tfmot_pam.cost(tfmot_pam.strip_pruning(gated)).macs
    assert 0.45 < left / tfmot_pam.cost(model).macs <= 0.6


@pytest.mark.parametrize("importance", ["taylor", pytest.param("vib", marks=pytest.mark.slow)])
def test_heads_go_while_the_model_trains(importance, tmp_path):
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    ramp = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.5, 0, 20, frequency=4)
    model = KINDS["heads"]()
    pooled = keras.Model(model.input, layers.GlobalAveragePooling1D()(model.output))
    gated = tfmot_pam.prune_channels(pooled, ramp, importance, observations=1, scope="per-layer")
    gated.compile("adam", "mse")
    wanted = np.eye(3)[Y].astype("float32")
    gated.fit(X, wanted, epochs=8, batch_size=16, verbose=0,
              callbacks=[tfmot_pam.UpdatePruningStep()])  # fmt: skip
    gated.save(tmp_path / "gated.keras")
    gated = keras.saving.load_model(tmp_path / "gated.keras")
    smaller = tfmot_pam.strip_pruning(gated)
    np.testing.assert_allclose(outputs(gated, X), outputs(smaller, X), atol=2e-5)
    assert smaller.get_layer("attention").get_config()["num_heads"] == 2


def test_the_history_removes_the_same_heads_of_another_model():
    model = KINDS["heads"]()
    smaller = tfmot_pam.strip_pruning(tfmot_pam.prune_channels(model, 0.5, "magnitude"))
    again = smaller.pruning_history.apply(model)
    np.testing.assert_array_equal(outputs(again, X), outputs(smaller, X))
    assert smaller.pruning_history.widths["attention_query"] == 12


@pytest.mark.parametrize(
    "attend",
    [
        lambda y: heads()(y, y, attention_mask=keras.ops.ones_like(y @ keras.ops.transpose(
            y, (0, 2, 1)))),
        lambda y: heads()(y, y, y, keras.ops.cast(y[..., 0] > 0, "bool")),
        lambda y: heads(sliding_window=2)(y, y),
        lambda y: heads(use_gate=True)(y, y),
        lambda y: heads()(y, y, return_attention_scores=True)[0],
        lambda y: layers.Dense(12)(layers.Flatten()(heads(output_shape=(2, 3))(y, y))),
    ],
)  # fmt: skip
def test_other_attention_stays_whole(attend):
    model = network(attend)
    assert all(
        layer.cls is not AttentionHeads for layer in attention_apart(read(model)).layers.values()
    )


def test_attention_along_one_axis_stays_whole():
    model = network(lambda y: heads(attention_axes=2)(y, y), (3, 2, 8))
    assert attention_apart(read(model)).layers.keys() == read(model).layers.keys()


def test_sequences_of_any_length():
    """Heads are counted at the length that is told, and go at any."""
    model = network(lambda y: heads()(y, y), (None, 8))
    gated = tfmot_pam.prune_channels(model, 0.4, "magnitude", measure="macs", input_shape=(6, 8))
    smaller = tfmot_pam.strip_pruning(gated)
    for x in (X, X[:, :4]):
        np.testing.assert_allclose(gated(x), smaller(x), atol=2e-5)
    left, whole = (tfmot_pam.cost(m, input_shape=(6, 8)).macs for m in (smaller, model))
    assert left <= 0.6 * whole


def test_merged_attention_is_pruned_by_heads():
    """Attention is merged whole; heads of what both tasks need, and of what one needs, go."""
    models = {"a": KINDS["heads"](), "b": KINDS["values of another width"]()}
    for method in ("separate", "shared"):
        pair = models if method == "separate" else {"a": models["a"], "b": KINDS["heads"]()}
        merged = tfmot_pam.merge(pair, X, method=method, verbose=0)
        gated = tfmot_pam.prune_channels(merged, 0.5, "magnitude", scope="per-layer")
        smaller = tfmot_pam.strip_pruning(gated)
        for task in pair:
            np.testing.assert_allclose(gated(X)[task], smaller(X)[task], atol=2e-5)
        found = [layer for layer in smaller.layers if isinstance(layer, layers.MultiHeadAttention)]
        assert len(found) == (2 if method == "separate" else 1)
        assert {layer.get_config()["num_heads"] for layer in found} == {2}


def test_compression_removes_heads():
    """`compress` goes from network to network, without gates."""
    whole = read(KINDS["heads"]())
    smaller = cut(whole, PruningSettings(None, "reconstruction", scope="per-layer"), 0.5, X)
    assert smaller.layers["attention"].config["num_heads"] == 2
    assert smaller.layers.keys() == whole.layers.keys()
    assert outputs(emit(smaller), X).shape == (64, 6, 3)


@pytest.mark.parametrize(
    ("equation", "bias", "dense"),
    [
        ("abc,cd->abd", "d", True),
        ("...c,cd->...d", None, True),
        ("abc,cd->abd", "bd", False),
        ("abc,bcd->abd", "d", False),
        ("abc,cd->adb", None, False),
    ],
)
def test_sums_over_the_last_axis_are_dense_layers(equation, bias, dense):
    inputs = keras.Input((6, 8))
    shape = {"adb": (9, 6), "..d": 9}.get(equation[-3:], (6, 9))
    layer = layers.EinsumDense(equation, shape, bias_axes=bias, activation="relu", name="sum")
    model = randomise(keras.Model(inputs, layers.Dense(2, name="out")(layer(inputs))), 0)
    whole = read(model)
    assert (whole.layers["sum"].kind == "Dense") == dense
    np.testing.assert_allclose(outputs(emit(whole), X), outputs(model, X), atol=1e-5)
    assert network_cost(whole).macs == 6 * 8 * 9 + 6 * 9 * 2
