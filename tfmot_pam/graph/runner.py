"""Running networks on data: observed tensors in batches, or node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph.emitter import instantiate, load_weights
from tfmot_pam.graph.heads import Inputs, given_to
from tfmot_pam.graph.network import (
    Layer,
    Network,
    Node,
    Tensor,
    iterate_tensors,
    map_tensors,
    prune_to,
)

# Samples that are run at once: large batches save time, until they take more memory than this.
_LARGEST_BATCH, _SMALLEST_BATCH, _BATCH_VALUES = 256, 8, 1 << 24


def evaluate(
    network: Network,
    x: Inputs,
    tensors: Iterable[Tensor],
    reduce: Callable[[Tensor, np.ndarray], np.ndarray] = lambda tensor, value: value,
    *,
    batch_size: int | None = None,
    made: dict[Layer, Any] | None = None,
) -> dict[Tensor, np.ndarray]:
    """The values of some tensors of a network, each batch reduced before it is kept.

    Args:
        network: The network.
        x: Inputs, samples first; of several a dict by name.
        tensors: What to observe.
        reduce: Called with a tensor and its value for one batch; returns what to keep.
        batch_size: Samples per batch; None takes what memory allows.
        made: Keras layers that were made before, which networks that have layers in common share;
            those that are made now are added.

    Returns:
        For each tensor, the reduced values of all samples.
    """
    kept: dict[Tensor, list[np.ndarray]] = {tensor: [] for tensor in tensors}
    network = prune_to(network, list(kept))
    # Node by node and not as a model: that would keep all tensors to the end of its call, and
    # have to take batches so small that calling its layers takes longer than their work.
    operations = _Operations(network.layers.__getitem__, made)
    batch_size = batch_size or batch_size_of(peak_floats(network))
    given = given_to(network, x)
    for start in range(0, len(next(iter(given.values()))), batch_size):
        part = {
            tensor: keras.ops.convert_to_tensor(array[start : start + batch_size])
            for tensor, array in given.items()
        }
        values = _Unread(network, part)
        for node in network.nodes:
            own = Tensor(node.name)
            results = operations(node, values.__getitem__) if node.inputs else [part[own]]
            for tensor, result in zip(node.outputs, results, strict=False):
                if tensor in kept:
                    kept[tensor].append(reduce(tensor, _to_numpy(result)))
            values.update(node, results)
    return {tensor: np.concatenate(parts) for tensor, parts in kept.items()}


class _Unread:
    """The tensors of a network that runs, each until its last reader has run."""

    def __init__(self, network: Network, given: Mapping[Tensor, Any]):
        self._left = Counter(tensor for node in network.nodes for tensor in node.inputs)
        self._values = dict(given)

    def __getitem__(self, tensor: Tensor) -> Any:
        return self._values[tensor]

    def update(self, node: Node, results: Iterable[Any]) -> None:
        """Takes what a node has written and forgets what nobody reads after it."""
        for tensor, result in zip(node.outputs, results, strict=False):
            if self._left[tensor]:
                self._values[tensor] = result
        for tensor in node.inputs:
            self._left[tensor] -= 1
            if not self._left[tensor]:
                self._values.pop(tensor, None)


class _Operations:
    """The layers of a network, each made when it is first called."""

    def __init__(self, layer: Callable[[str], Layer], made: dict[Layer, Any] | None = None):
        self._layer = layer
        self._made = {} if made is None else made

    def __call__(self, node: Node, value: Callable[[Tensor], Any]) -> list[Any]:
        """What a node's layer makes of the values that it reads."""
        args, kwargs = map_tensors((node.args, dict(node.kwargs)), value)
        layer = self._layer(node.layer)
        if issubclass(layer.cls, keras.layers.Layer):
            # As a model does in inference, whatever was said when the layer was called: calls of
            # augmentation layers are recorded with `training=True` where nothing was said.
            kwargs["training"] = False
        if layer not in self._made:
            operation = self._made[layer] = instantiate(layer, wrap=False)
            if isinstance(operation, keras.layers.Layer) and not operation.built:
                # The first call builds the layer; its weights can be loaded only then. It gets
                # copies: attention takes the masks off the tensors that it is called on.
                operation(*_copied(args), **_copied(kwargs))
                load_weights(operation, layer)
        return keras.tree.flatten(self._made[layer](*args, **kwargs))


def _copied(arguments: Any) -> Any:
    """Arguments of a call with copies of the tensors among them, without their masks."""
    return keras.tree.map_structure(
        lambda value: keras.ops.copy(value) if keras.ops.is_tensor(value) else value, arguments
    )


class Stepper:
    """Runs a network node by node and forgets every tensor after its last reader.

    Args:
        network: The network.
        x: Inputs, samples first; of several a dict by name.
        batch_size: Samples that a layer is given at once; None takes what memory allows.
    """

    def __init__(self, network: Network, x: Inputs, batch_size: int | None = None):
        self._network = network
        self._operations = _Operations(self.layer)
        self._values = _Unread(network, given_to(network, x))
        # Keras hands masks on as an attribute of tensors, which arrays cannot have.
        self._masks: dict[Tensor, np.ndarray] = {}
        self._position = 0
        self._batch_size = batch_size or batch_size_of(peak_floats(network))
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
        if node.inputs:
            self._values.update(node, self._run(node))

    def _run(self, node: Node) -> list[np.ndarray]:
        samples = len(self._values[node.inputs[0]])
        results: list[np.ndarray] = []
        masks: dict[Tensor, list[np.ndarray]] = {}
        for start in range(0, samples, self._batch_size):
            read: dict[Tensor, Any] = {}

            def cut(
                tensor: Tensor,
                read: dict[Tensor, Any] = read,
                span: slice = slice(start, start + self._batch_size),
            ) -> Any:
                if tensor not in read:
                    read[tensor] = keras.ops.convert_to_tensor(self._values[tensor][span])
                    if tensor in self._masks:
                        read[tensor]._keras_mask = keras.ops.convert_to_tensor(
                            self._masks[tensor][span]
                        )
                return read[tensor]

            found = self._operations(node, cut)
            parts = [_to_numpy(value) for value in found]
            if not results:
                results = [np.empty((samples, *part.shape[1:]), part.dtype) for part in parts]
            for whole, part in zip(results, parts, strict=True):
                whole[start : start + len(part)] = part
            for tensor, value in [*read.items(), *zip(node.outputs, found, strict=False)]:
                mask = getattr(value, "_keras_mask", None)
                if mask is not None:
                    masks.setdefault(tensor, []).append(keras.ops.convert_to_numpy(mask))
        # A mask that a layer has taken off what it reads is gone for those that follow, too.
        for tensor in (*node.inputs, *node.outputs):
            self._masks.pop(tensor, None)
        self._masks |= {tensor: np.concatenate(parts) for tensor, parts in masks.items()}
        return results


def _to_numpy(value: Any) -> np.ndarray:
    """An array that can be summed up: half precision becomes float32."""
    array = keras.ops.convert_to_numpy(value)
    return array.astype("float32") if array.dtype.name in ("float16", "bfloat16") else array


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


def all_floats(network: Network) -> int:
    """The values per sample of all tensors of a network, which a backward pass keeps."""
    return sum(_value_counts(network).values())


def _value_counts(network: Network) -> dict[Tensor, int]:
    """The number of values per sample of every tensor."""
    return {
        tensor: int(np.prod([size or 1 for size in (shape or (1,))[1:]]))
        for node in network.nodes
        for tensor, shape in zip(node.outputs, node.shapes, strict=True)
    }


def batch_size_of(values: int, most: int = _BATCH_VALUES) -> int:
    """How many samples are run at once where each takes so many values, and all at most so many."""
    return min(max(most // max(values, 1), _SMALLEST_BATCH), _LARGEST_BATCH)
