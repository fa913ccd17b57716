"""Running networks node by node: the values of a model, whatever the batches."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from tests.random_models import family
from tests.tiers import regular
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.network import iterate_tensors
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.runner import Stepper, evaluate


def _network_and_inputs(seed: int):
    found = family(seed)
    network = read(next(iter(found.models.values())))
    rng = np.random.default_rng(seed)
    return network, rng.normal(size=(7, *found.x.shape[1:])).astype("float32")


@pytest.mark.parametrize("seed", range(4))
def test_every_tensor_has_the_models_value(seed):
    network, x = _network_and_inputs(seed)
    tensors = [tensor for node in network.nodes for tensor in node.outputs]
    model = emit(network.replace(outputs=tensors), wrap=False)
    wanted = keras.tree.flatten(model(x, training=False))
    found = evaluate(network, x, tensors, batch_size=3)  # the last batch has one sample
    assert list(found) == tensors
    for tensor, right in zip(tensors, wanted, strict=True):
        np.testing.assert_allclose(found[tensor], right, rtol=1e-4, atol=1e-5)


def test_batches_are_reduced_one_by_one():
    network, x = _network_and_inputs(0)
    (output,) = iterate_tensors(network.outputs)
    seen = []

    def first(tensor, value):
        seen.append((tensor, len(value)))
        return value[:1]

    found = evaluate(network, x, [output, output], first, batch_size=3)
    assert seen == [(output, 3), (output, 3), (output, 1)]
    whole = evaluate(network, x, [output])[output]
    np.testing.assert_allclose(found[output], whole[[0, 3, 6]], rtol=1e-4, atol=1e-5)


def _gathered(running, name):
    return np.concatenate(running.gather(name, lambda span, value: value))


@pytest.mark.parametrize(
    ("seed", "memory"), regular([(1, 600), (3, 0), (0, 1 << 30), (2, 1500)], 2, several=True)
)
def test_a_stepper_reads_the_same_whatever_memory_it_has(seed, memory):
    network, x = _network_and_inputs(seed)
    running = Stepper(network, x, batch_size=3, memory=memory)
    for node in network.nodes:
        if node.inputs:
            (wanted,) = evaluate(network, x, node.inputs[:1], batch_size=3).values()
            np.testing.assert_array_equal(_gathered(running, node.name), wanted)
            assert running.shape(node.name) == wanted.shape


def test_a_stepper_forgets_what_nobody_reads_any_more():
    network, x = _network_and_inputs(1)
    last = network.nodes[-1]
    running = Stepper(network, x, batch_size=3)
    _gathered(running, last.name)
    assert [set(alive.values) for alive in running._kept.values()] == [set(last.inputs)] * 3


def test_a_stepper_keeps_no_more_than_its_memory_of_all_samples():
    network, x = _network_and_inputs(1)
    running, most = Stepper(network, x, batch_size=3, memory=1500), 0
    for node in network.nodes[1:]:
        running.gather(node.name, lambda span, value: None)
        most = max(most, sum(alive.nbytes for alive in running._kept.values()))
    assert 0 < most <= 1500


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_layers_that_are_run_anew_are_those_that_ran(memory):
    """A layer that is called twice, and changed between the calls."""
    image = keras.Input((4,))
    dense = keras.layers.Dense(4, name="dense")
    model = keras.Model(image, keras.layers.Dense(2, name="head")(dense(dense(image))))
    network, x = read(model), np.ones((5, 4), "float32")
    first, second = [node for node in network.nodes if node.layer == "dense"]
    running = Stepper(network, x, batch_size=2, memory=memory)
    wanted = _gathered(running, second.name)
    layer = running.layer("dense")
    zeros = {name: np.zeros_like(weight) for name, weight in layer.weights.items()}
    running.change(dataclasses.replace(layer, weights=zeros))
    np.testing.assert_array_equal(_gathered(running, "head"), np.zeros((5, 4)))
    np.testing.assert_array_equal(_gathered(running, second.name), wanted)
    assert first.name != second.name
    assert np.any(wanted)
