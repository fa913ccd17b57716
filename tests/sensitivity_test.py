"""What an error of a layer does to the outputs: against closed forms and against trial."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tests import random_models
from tests.small_nets import vectors
from tests.surgery_test import assert_same_outputs
from tfmot_pam.closed_form.linear import LINEAR_FORMS
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.pruning.outputs import answers, before_activation, output_values, relative_errors
from tfmot_pam.pruning.sensitivity import output_sensitivity, pre_activations_apart


def net(*, hidden=None, output=None, outputs=4, apart=False) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    h = layers.Dense(5, hidden, name="hidden")(x)
    y = layers.Dense(outputs, None if apart else output, name="out")(h)
    return keras.Model(x, layers.Activation(output)(y) if apart else y)


def sensitivity(model, nodes, x, **options):
    return output_sensitivity(read(model), nodes, x, np.random.default_rng(0), **options)


def lost(matrix, covariance) -> float:
    return float(np.sum(matrix * covariance))


def covariance(values) -> np.ndarray:
    return np.cov(values.reshape(-1, values.shape[-1]).T, bias=True)


def test_of_a_linear_network_it_is_the_product_of_the_later_weights():
    model, x = net(), vectors(20_000)
    hidden, out = sensitivity(model, ["hidden", "out"], x)
    total = np.trace(covariance(model.predict(x, verbose=0)))
    kernel = model.get_layer("out").kernel.numpy()
    np.testing.assert_allclose(out, np.eye(4) / total, atol=0.03 / total)
    np.testing.assert_allclose(hidden, kernel @ kernel.T / total, atol=0.1 / total)


def test_of_probabilities_it_is_their_fisher_information():
    model, x = net(output="sigmoid", outputs=2), vectors(20_000)
    (found,) = sensitivity(model, ["out"], x)
    logits = output_values(before_activation(read(model))[0], x)[0]
    chances = 1 / (1 + np.exp(-logits / 2.0))
    information = np.diag(np.mean(chances * (1 - chances), axis=0))
    expected = information / lost(information, covariance(logits))
    np.testing.assert_allclose(found, expected, atol=0.03 * expected.max())


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("output", ["softmax", "sigmoid", "linear"])
def test_to_lose_a_whole_output_costs_its_weight(output, apart):
    model, x = net(hidden="relu", output=output, apart=apart), vectors(500)
    (found,) = sensitivity(model, ["out"], x, task_weights=[0.7])
    (logits,) = output_values(before_activation(read(model))[0], x)
    assert lost(found, covariance(logits)) == pytest.approx(0.7, rel=1e-4)


def test_it_foretells_what_a_small_error_does():
    model, x = net(hidden="tanh"), vectors(5000)
    (found,) = sensitivity(model, ["hidden"], x)
    before = model.predict(x, verbose=0)
    layer = model.get_layer("hidden")
    noise = 0.02 * np.random.default_rng(1).normal(size=layer.kernel.shape).astype("float32")
    layer.kernel.assign_add(noise)
    error = np.mean(np.square(model.predict(x, verbose=0) - before)) / np.mean(
        np.square(before - before.mean(axis=0))
    )
    assert lost(found, (x @ noise).T @ (x @ noise) / len(x)) == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize("seed", range(4))
def test_activations_apart_compute_the_same(seed):
    family = random_models.family(seed)
    network = read(family.models["t0"])
    nodes = [n.name for n in network.nodes if network.layer_of(n).kind in LINEAR_FORMS]
    split = pre_activations_apart(network, nodes)
    assert_same_outputs(emit(split), family.models["t0"], family.x, 1e-5)
    for name in nodes:
        assert split.layer_of(split.node(name)).config.get("activation") in (None, "linear")


def test_a_layer_that_is_called_twice_is_split_at_both_calls():
    x = keras.Input((5,))
    shared = layers.Dense(5, "relu", name="shared")
    model = keras.Model(x, layers.Dense(2, name="out")(shared(shared(x))))
    network, data = read(model), vectors(64, size=5)
    nodes = [node.name for node in network.nodes if node.layer == "shared"]
    assert len(nodes) == 2
    split = pre_activations_apart(network, nodes[:1])
    assert_same_outputs(emit(split), model, data, 1e-6)
    assert len(sensitivity(model, nodes, data)) == 2


def test_a_layer_that_no_output_needs_is_worth_nothing():
    x = keras.Input((6,))
    y = layers.Dense(3, name="out")(x)
    gone = layers.Multiply(name="nothing")([layers.Dense(3, name="unread")(x), y * 0.0])
    model = keras.Model(x, layers.Add()([y, gone]))
    (found,) = sensitivity(model, ["unread"], vectors(32))
    assert not found.any()


def test_outputs_keep_their_order_whatever_they_are_called():
    x = keras.Input((6,))
    heads = {
        "z": layers.Dense(3, "softmax", name="z")(x),
        "a": layers.Dense(2, "sigmoid", name="a")(x),
    }
    model, data = keras.Model(x, heads), vectors(500)
    of_z, of_a = sensitivity(model, ["z", "a"], data, task_weights=[1.0, 0.0])
    logits = data @ model.get_layer("z").kernel.numpy() + model.get_layer("z").bias.numpy()
    assert lost(of_z, covariance(logits)) == pytest.approx(1.0, rel=1e-4)
    assert not of_a.any()
    found = answers(read(model), data)
    assert [value.shape[-1] for value in found] == [3, 2]
    np.testing.assert_allclose(found[0].sum(axis=-1), 1.0, rtol=1e-5)


def test_errors_are_shares_of_what_outputs_tell_apart():
    wanted = np.array([[0.0, 1.0], [2.0, 1.0]])
    constant = np.broadcast_to(wanted.mean(axis=0), wanted.shape)
    assert relative_errors([wanted, constant], [wanted, wanted]) == [0.0, 1.0]
