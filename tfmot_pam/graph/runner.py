"""Running networks on data: observed tensors in batches, or node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph.emitter import emit, instantiate, load_weights
from tfmot_pam.graph.network import Layer, Network, Tensor, iterate_tensors, map_tensors, prune_to

# Samples that are run at once: large batches save time, until they take more memory than this.
_LARGEST_BATCH, _SMALLEST_BATCH, _BATCH_VALUES = 256, 8, 1 << 24


def evaluate(
    network: Network,
    x: np.ndarray,
    tensors: Iterable[Tensor],
    reduce: Callable[[Tensor, np.ndarray], np.ndarray] = lambda tensor, value: value,
    *,
    batch_size: int | None = None,
) -> dict[Tensor, np.ndarray]:
    """The values of some tensors of a network, each batch reduced before it is kept.

    Args:
        network: A network with one input.
        x: Inputs, samples first.
        tensors: What to observe.
        reduce: Called with a tensor and its value for one batch; returns what to keep.
        batch_size: Samples per batch; None takes what memory allows.

    Returns:
        For each tensor, the reduced values of all samples.
    """
    tensors = list(dict.fromkeys(tensors))
    # A model keeps all of its tensors to the end of a call.
    batch_size = batch_size or _batch_size(sum(_value_counts(network).values()))
    model = emit(prune_to(network, tensors), wrap=False)
    kept: dict[Tensor, list[np.ndarray]] = {tensor: [] for tensor in tensors}
    for start in range(0, len(x), batch_size):
        values = keras.tree.flatten(model(x[start : start + batch_size], training=False))
        for tensor, value in zip(tensors, values, strict=True):
            kept[tensor].append(reduce(tensor, keras.ops.convert_to_numpy(value)))
    return {tensor: np.concatenate(parts) for tensor, parts in kept.items()}


class Stepper:
    """Runs a network node by node and forgets every tensor after its last reader.

    Args:
        network: A network with one input.
        x: Inputs, samples first.
        batch_size: Samples that a layer is given at once; None takes what memory allows.
    """

    def __init__(self, network: Network, x: np.ndarray, batch_size: int | None = None):
        self._network = network
        self._layers: dict[str, Any] = {}
        self._values: dict[Tensor, np.ndarray] = {network.inputs[0]: x}
        self._readers = Counter(tensor for node in network.nodes for tensor in node.inputs)
        self._position = 0
        self._batch_size = batch_size or _batch_size(peak_floats(network))
        self._changed: dict[str, Layer] = {}

    def value(self, tensor: Tensor) -> np.ndarray:
        return self._values[tensor]

    def change(self, layer: Layer) -> None:
        """Gives a layer that has not run yet another configuration and other weights."""
        self._changed[layer.name] = layer

    def layer(self, name: str) -> Layer:
        return self._changed.get(name, self._network.layers[name])

    def run_until(self, name: str) -> None:
        """Runs all nodes before `name`."""
        while self._network.nodes[self._position].name != name:
            self.step()

    def step(self) -> None:
        """Runs the next node."""
        node = self._network.nodes[self._position]
        self._position += 1
        if not node.inputs:
            return
        results = self._run(node)
        for tensor, result in zip(node.outputs, results, strict=False):
            if self._readers[tensor]:
                self._values[tensor] = result
        for tensor in node.inputs:
            self._readers[tensor] -= 1
            if not self._readers[tensor]:
                self._values.pop(tensor, None)

    def _run(self, node) -> list[np.ndarray]:
        if node.layer not in self._layers:
            self._layers[node.layer] = instantiate(self.layer(node.layer), wrap=False)
        operation = self._layers[node.layer]
        fresh = isinstance(operation, keras.layers.Layer) and not operation.built
        samples = len(self._values[node.inputs[0]])
        results: list[np.ndarray] = []
        for start in range(0, samples, self._batch_size):
            stop = start + self._batch_size

            def cut(tensor, start=start, stop=stop):
                return keras.ops.convert_to_tensor(self._values[tensor][start:stop])

            if fresh:
                # The first call builds the layer; its weights can be loaded only then.
                operation(*map_tensors(node.args, cut), **map_tensors(node.kwargs, cut))
                load_weights(operation, self.layer(node.layer))
                fresh = False
            outputs = operation(*map_tensors(node.args, cut), **map_tensors(node.kwargs, cut))
            parts = [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(outputs)]
            if not results:
                results = [np.empty((samples, *part.shape[1:]), part.dtype) for part in parts]
            for whole, part in zip(results, parts, strict=True):
                whole[start:stop] = part
        return results


def peak_floats(network: Network) -> int:
    """The most values per sample that are alive at once when the network runs node by node."""
    readers = Counter(tensor for node in network.nodes for tensor in node.inputs)
    counts = _value_counts(network)
    alive, peak = {}, 0
    for node in network.nodes:
        alive.update({tensor: counts[tensor] for tensor in node.outputs})
        peak = max(peak, sum(alive.values()))
        for tensor in iterate_tensors((node.args, dict(node.kwargs))):
            readers[tensor] -= 1
            if not readers[tensor]:
                alive.pop(tensor, None)
    return peak


def _value_counts(network: Network) -> dict[Tensor, int]:
    """The number of values per sample of every tensor."""
    return {
        tensor: int(np.prod([size or 1 for size in (shape or (1,))[1:]]))
        for node in network.nodes
        for tensor, shape in zip(node.outputs, node.shapes, strict=True)
    }


def _batch_size(values: int) -> int:
    """How many samples are run at once where each takes so many values."""
    return min(max(_BATCH_VALUES // max(values, 1), _SMALLEST_BATCH), _LARGEST_BATCH)
