"""Masks of padded sequences: read, run node by node, merged, pruned and crossed."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.tiers import regular
from tfmot_pam.graph.network import iterate_tensors
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.runner import Stepper, evaluate

layers = keras.layers
LENGTH, WORDS = 8, 12
pytestmark = pytest.mark.filterwarnings("ignore:Layer 'conv.*with a mask attached")


def _pooled(layer):
    return lambda h: layers.GlobalAveragePooling1D()(layer(h))


READERS = {
    "lstm": lambda h: layers.LSTM(4)(h),
    "gru": lambda h: layers.GRU(4)(h),
    "simple rnn": lambda h: layers.SimpleRNN(4)(h),
    "bidirectional": lambda h: layers.Bidirectional(layers.LSTM(3))(h),
    "two recurrent": lambda h: layers.LSTM(4)(layers.GRU(5, return_sequences=True)(h)),
    "time distributed": lambda h: layers.LSTM(3)(layers.TimeDistributed(layers.Dense(4))(h)),
    "pooling": _pooled(lambda h: layers.Dense(6, activation="relu")(h)),
    "multi-head attention": _pooled(lambda h: layers.MultiHeadAttention(2, 4)(h, h)),
    "attention": _pooled(lambda h: layers.Attention()([h, h])),
    "additive attention": _pooled(lambda h: layers.AdditiveAttention()([h, h])),
    "add": lambda h: layers.LSTM(4)(layers.Add()([layers.Dense(5)(h), layers.Dense(5)(h)])),
    "concatenate": lambda h: layers.LSTM(4)(
        layers.Concatenate()([layers.Dense(5)(h), layers.Dense(4)(h)])
    ),
    "convolution": lambda h: layers.GlobalMaxPooling1D()(
        layers.Conv1D(6, 3, activation="relu", name="conv")(h)
    ),
}


def words():
    tokens = keras.Input((LENGTH,), dtype="int32")
    return tokens, layers.Embedding(WORDS, 6, mask_zero=True)(tokens)


def frames():
    signal = keras.Input((LENGTH, 5))
    return signal, layers.Masking()(signal)


def padded(source, samples=24) -> np.ndarray:
    """Sequences of several lengths with zeros behind them."""
    rng = np.random.default_rng(0)
    behind = np.arange(LENGTH) >= rng.integers(2, LENGTH, samples)[:, None]
    if source is words:
        return np.where(behind, 0, rng.integers(1, WORDS, (samples, LENGTH))).astype("int32")
    values = rng.normal(size=(samples, LENGTH, 5)).astype("float32")
    return np.where(behind[..., None], np.float32(0), values)


def model(source, reader, classes=3) -> keras.Model:
    keras.utils.set_random_seed(classes)
    entry, h = source()
    h = layers.Dense(8, activation="relu", name="hidden")(READERS[reader](h))
    return keras.Model(entry, layers.Dense(classes, name="head")(h))


CASES = [(words, reader) for reader in READERS]
CASES += [(frames, reader) for reader in ("lstm", "pooling", "multi-head attention", "attention")]


def assert_same(found, expected):
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("source", "reader"), regular(CASES, 5, several=True))
def test_masks_run_and_cross(source, reader):
    trained, x = model(source, reader), padded(source)
    expected = trained(x)
    with_zeros = np.array(x)
    with_zeros[x == 0] = 1
    assert np.abs(np.array(trained(with_zeros)) - np.array(expected)).max() > 1e-5
    network = read(trained)
    (output,) = iterate_tensors(network.outputs)
    assert_same(evaluate(network, x, [output])[output], expected)
    stepper = Stepper(network, x, batch_size=7)
    before = keras.Model(trained.input, trained.get_layer("hidden").output)
    found = stepper.gather(output.node, lambda span, value: value)
    assert_same(np.concatenate(found), before(x))
    there = tfmot_pam.to_tf_keras(trained)
    assert_same(there(x), expected)
    assert_same(tfmot_pam.from_tf_keras(there)(x), expected)


@pytest.mark.parametrize("reader", ["lstm", "multi-head attention", "pooling", "convolution"])
def test_masks_merge(reader):
    models = {"a": model(words, reader, 3), "b": model(words, reader, 2)}
    x = padded(words)
    merged = tfmot_pam.merge(models, x, method="separate", verbose=0)
    for task, found in merged(x).items():
        assert_same(found, models[task](x))


def test_what_reads_a_mask_is_pruned():
    gated = tfmot_pam.prune_channels(model(words, "convolution"), 0.3, "magnitude")
    small = tfmot_pam.strip_pruning(gated)
    assert "conv" in small.pruning_history.widths
    assert_same(small(padded(words)), gated(padded(words)))
