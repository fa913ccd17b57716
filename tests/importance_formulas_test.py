"""Importances of channels, each against its formula."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.gated_nets import constant, data, two_heads, widths
from tests.small_nets import conv_net, dense_net
from tests.surgery_test import assert_same_outputs
from tfmot_pam.pruning.importance import IMPORTANCES


def test_taylor_equals_the_gradient_of_a_linear_model_in_closed_form():
    """y = sum_j v_j h_j with h = x W: dL/dg_j = mean 2 (y - t) v_j h_j for the squared error."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, use_bias=False, name="hidden")
    output = layers.Dense(1, use_bias=False, name="out")
    model = keras.Model(inputs, output(hidden(inputs)))
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 1)).astype("float32")
    h = x @ hidden.kernel.numpy()
    v = output.kernel.numpy()[:, 0]
    residual = h @ v[:, None] - t
    expected = np.abs(np.mean(2 * residual * v * h, axis=0)) / np.mean(residual**2)
    seen = {}

    def importance(evidence):
        seen["taylor"] = IMPORTANCES["taylor"].score(evidence)
        seen["abs"] = IMPORTANCES["taylor-abs"].score(evidence)
        return seen["taylor"]

    gated = tfmot_pam.prune_channels(model, constant(0.2, begin=0), importance)
    gated.compile(keras.optimizers.SGD(0.0), "mse")
    gated.fit(x, t, batch_size=16, verbose=0, callbacks=[tfmot_pam.UpdatePruningStep()])
    np.testing.assert_allclose(seen["taylor"], expected, rtol=1e-4)
    np.testing.assert_allclose(seen["abs"], expected * np.mean(residual**2), rtol=1e-4)
    assert np.argmin(expected) == np.flatnonzero(np.array(gated.gates.mask) == 0)[0]


def test_taylor_does_not_let_tasks_cancel():
    """Two tasks that pull a shared channel in opposite directions: taylor-abs sees nothing."""
    found = {}

    def importance(evidence):
        found["squared"], found["joint"] = evidence.squared_gradients, evidence.mean_gradient
        return np.ones(len(evidence.prunable))

    inputs = keras.Input((1,))
    hidden = layers.Dense(2, use_bias=False, kernel_initializer="ones", name="hidden")(inputs)
    heads = {
        task: layers.Dense(1, use_bias=False, kernel_initializer="ones", name=task)(hidden)
        for task in ("a", "b")
    }
    gated = tfmot_pam.prune_channels(keras.Model(inputs, heads), constant(0.5, 0), importance)
    gated.compile(keras.optimizers.SGD(0.0), {"a": "mse", "b": "mse"})
    x = np.ones((8, 1), "float32")
    gated.fit(x, {"a": x * 1.0, "b": x * 3.0}, verbose=0, callbacks=[tfmot_pam.UpdatePruningStep()])
    np.testing.assert_allclose(found["joint"], [0.0, 0.0], atol=1e-6)
    assert np.all(found["squared"] > 1.0)


def test_stochastic_gates_fold_exactly():
    gated = tfmot_pam.prune_channels(conv_net(0), constant(), "vib")
    rng = np.random.default_rng(0)
    gated.gates.mean.assign(rng.normal(size=gated.gates.channels))
    mask = np.ones(gated.gates.channels)
    mask[[1, 9]] = 0
    gated.gates.mask.assign(mask)
    images = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    assert_same_outputs(gated, tfmot_pam.strip_pruning(gated), images)


def test_the_divergence_has_its_closed_form():
    gated = tfmot_pam.prune_channels(conv_net(0, widths=(3, 2)), constant(), "vib")
    gates = gated.gates
    mean, log_variance = np.array(gates.mean), np.array(gates.log_variance)
    sizes = np.array([64.0] * 3 + [1.0] * 2)  # 8x8 places; the last is read after pooling.
    expected = 0.5 * np.sum(sizes * np.log1p(mean**2 / np.exp(log_variance)))
    assert float(gates.divergence()) == pytest.approx(expected, rel=1e-5)


def test_magnitude_removes_the_smallest_filters():
    model = dense_net(0, widths=(4,))
    kernel = model.get_layer("fc0").kernel
    kernel.assign(kernel * np.array([1.0, 0.01, 1.0, 0.02]))
    small = tfmot_pam.strip_pruning(tfmot_pam.prune_channels(model, 0.5, "magnitude"))
    assert small.pruning_history.removed == {"fc0": (1, 3)}


def test_pagcp_rates_by_the_measured_loss_of_the_worst_task():
    """Of two equal layers, the one whose channels the outputs do not depend on goes first."""
    model, (x, _) = two_heads(), data()
    for task in ("a", "b"):
        kernel = model.get_layer(task).kernel
        kernel.assign(kernel * np.where(np.arange(16) < 8, 1.0, 1e-3)[:, None])
    gated = tfmot_pam.prune_channels(model, 0.5, "pagcp", data=x, measure="channels")
    left = widths(tfmot_pam.strip_pruning(gated))
    assert left["shared"] == 8
    assert left.get("own_a", 0) + left.get("own_b", 0) == 4


def test_batch_norm_scales_rate_channels():
    x = keras.Input((4,))
    h = layers.BatchNormalization(name="norm")(layers.Dense(4, name="hidden")(x))
    model = keras.Model(x, layers.Dense(2)(layers.ReLU()(h)))
    model.get_layer("norm").gamma.assign([0.1, 3.0, -2.0, 0.0])
    small = tfmot_pam.strip_pruning(tfmot_pam.prune_channels(model, 0.5, "batch-norm"))
    assert small.pruning_history.removed == {"hidden": (0, 3)}
