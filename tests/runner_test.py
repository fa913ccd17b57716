"""Running networks node by node: the values of a model, whatever the batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.random_models import family
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


def test_a_stepper_forgets_what_nobody_reads_any_more():
    network, x = _network_and_inputs(1)
    first, last = network.nodes[1], network.nodes[-1]
    running = Stepper(network, x, batch_size=3)
    running.run_until(last.name)
    (wanted,) = evaluate(network, x, last.inputs[:1]).values()
    np.testing.assert_allclose(running.value(last.inputs[0]), wanted, rtol=1e-4, atol=1e-5)
    assert first.outputs[0] not in last.inputs
    with pytest.raises(KeyError):
        running.value(first.outputs[0])
