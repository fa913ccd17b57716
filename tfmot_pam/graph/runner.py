"""Running networks on data: observed tensors in batches, or node by node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam import backends
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
MEMORY = 1 << 30  # bytes that values of all samples may take while a network runs

# Keras layers that were made before, for whatever else runs layers of the same networks; those that
# are made are added. Building a layer takes longer than running it on a few samples.
Made = dict[Layer, Any]


def evaluate(
    network: Network,
    x: Inputs,
    tensors: Iterable[Tensor],
    reduce: Callable[[Tensor, np.ndarray], np.ndarray] = lambda tensor, value: value,
    *,
    batch_size: int | None = None,
    made: Made | None = None,
) -> dict[Tensor, np.ndarray]:
    """The values of some tensors of a network, each batch reduced before it is kept.

    Args:
        network: The network.
        x: Inputs, samples first; of several a dict by name.
        tensors: What to observe.
        reduce: Called with a tensor and its value for one batch; returns what to keep.
        batch_size: Samples per batch; None takes what memory allows.
        made: See `Made`.

    Returns:
        For each tensor, the reduced values of all samples.
    """
    kept: dict[Tensor, list[np.ndarray]] = {tensor: [] for tensor in tensors}
    network = prune_to(network, list(kept))
    # Node by node and not as a model: that would keep all tensors to the end of its call, and
    # have to take batches so small that calling its layers takes longer than their work.
    operations, last = _Operations(made), _last_readers(network)
    batch_size = batch_size or batch_size_of(peak_floats(network))
    given = given_to(network, x)
    for start in range(0, len(next(iter(given.values()))), batch_size):
        part = {
            tensor: keras.ops.convert_to_tensor(array[start : start + batch_size])
            for tensor, array in given.items()
        }
        with backends.current().no_gradients():
            for tensor, value in _in_turn(network, operations, last, part):
                if tensor in kept:
                    kept[tensor].append(reduce(tensor, _to_numpy(value)))
    return {tensor: np.concatenate(parts) for tensor, parts in kept.items()}


def offset_run(
    network: Network, tensors: Sequence[Tensor]
) -> Callable[[Inputs, Sequence[Any]], list[Any]]:
    """A function that runs a network with something added to some of its tensors.

    Args:
        network: The network.
        tensors: What is added to, before it is read.

    Returns:
        A function of inputs and of an array for each of the tensors, which returns the network's
        outputs. It can be differentiated.
    """
    operations, last = _Operations(), _last_readers(network)

    def run(x: Inputs, offsets: Sequence[Any]) -> list[Any]:
        added = dict(zip(tensors, offsets, strict=True))

        def change(tensor: Tensor, value: Any) -> Any:
            return value + added[tensor] if tensor in added else value

        outputs: dict[Tensor, Any] = dict.fromkeys(iterate_tensors(network.outputs))
        for tensor, value in _in_turn(network, operations, last, given_to(network, x), change):
            if tensor in outputs:
                outputs[tensor] = value
        return [outputs[tensor] for tensor in iterate_tensors(network.outputs)]

    return run


def _in_turn(
    network: Network,
    operations: _Operations,
    last: Mapping[Tensor, int],
    given: Mapping[Tensor, Any],
    change: Callable[[Tensor, Any], Any] = lambda tensor, value: value,
) -> Iterator[tuple[Tensor, Any]]:
    """Yields every tensor of a network that runs, with its value, which may be changed first."""
    alive = _Alive(last, given)
    for place, node in enumerate(network.nodes):
        if node.inputs:
            found = operations(network.layers[node.layer], node, alive.values.__getitem__)
        else:
            found = [given[Tensor(node.name)]]
        results = [change(t, value) for t, value in zip(node.outputs, found, strict=False)]
        yield from zip(node.outputs, results, strict=False)
        alive.update(place, node, results)


def _last_readers(network: Network) -> dict[Tensor, int]:
    """The place of the last node that reads each tensor; those that nobody reads are left out."""
    return {tensor: i for i, node in enumerate(network.nodes) for tensor in node.inputs}


class _Alive:
    """The tensors of a network that runs, each until its last reader has run.

    Args:
        last: The place of each tensor's last reader.
        values: The tensors that there are.
        masks: Their masks, which Keras hands on as an attribute that layers take off.
        place: The node that runs next.
    """

    def __init__(
        self,
        last: Mapping[Tensor, int],
        values: Mapping[Tensor, Any],
        masks: Mapping[Tensor, Any] | None = None,
        place: int = 0,
    ):
        self._last = last
        self.values = {t: value for t, value in values.items() if t in last}
        self.masks = dict(masks or {})
        self.place = place

    def update(self, place: int, node: Node, results: Iterable[Any]) -> None:
        """Takes what a node has written and forgets what nobody reads after it."""
        for tensor, result in zip(node.outputs, results, strict=False):
            if tensor in self._last:
                self.values[tensor] = result
        for tensor in node.inputs:
            if self._last[tensor] == place:
                self.values.pop(tensor, None)
        self.place = place + 1

    def copy(self) -> _Alive:
        return _Alive(self._last, self.values, self.masks, self.place)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(
            math.prod(value.shape) * np.dtype(keras.backend.standardize_dtype(value.dtype)).itemsize
            for value in self.values.values()
        )


class _Operations:
    """Layers that run, each made when it is first called."""

    def __init__(self, made: Made | None = None):
        self._made = {} if made is None else made

    def __call__(self, layer: Layer, node: Node, value: Callable[[Tensor], Any]) -> list[Any]:
        """What a node's layer makes of the values that it reads."""
        args, kwargs = map_tensors((node.args, dict(node.kwargs)), value)
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
    """Runs a network from node to node, batch by batch, in memory that does not grow with them.

    What is alive at the node that was reached is kept for all samples as long as that fits; where
    it does not, batches are run anew from the last node where it did, or from the inputs. Layers
    run as they were when they first did.

    Args:
        network: The network.
        x: Inputs, samples first; of several a dict by name.
        batch_size: Samples that a layer is given at once; None takes what memory allows.
        memory: Bytes that the values of all samples may take from one node to the next.
        made: See `Made`.
    """

    def __init__(
        self,
        network: Network,
        x: Inputs,
        batch_size: int | None = None,
        *,
        memory: float = MEMORY,
        made: Made | None = None,
    ):
        self._network = network
        self._operations = _Operations(made)
        self._given = given_to(network, x)
        self._samples = len(next(iter(self._given.values())))
        self._batch_size = batch_size or batch_size_of(peak_floats(network))
        self._memory = memory
        self._last = _last_readers(network)
        self._kept: dict[int, _Alive] = {}  # by the first sample of each batch
        self._changed: dict[str, Layer] = {}
        self._ran: list[Layer] = []
        self._places = {node.name: place for place, node in enumerate(network.nodes)}

    def change(self, layer: Layer) -> None:
        """Gives a layer that has not run yet another configuration and other weights."""
        self._changed[layer.name] = layer

    def layer(self, name: str) -> Layer:
        return self._changed.get(name, self._network.layers[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of what a node reads first, of all samples."""
        (tensor, *_) = self._network.node(name).inputs
        sizes = self._network.shape(tensor)[1:]
        if None in sizes:
            sizes = next(self._reached(name, 1))[1].values[tensor].shape[1:]
        return (self._samples, *sizes)

    def gather(
        self,
        name: str,
        function: Callable[[slice, np.ndarray], Any],
        samples: int | None = None,
    ) -> list[Any]:
        """What a function makes of what a node reads first, batch by batch.

        Args:
            name: The node; those that come before one that was asked for are dear.
            function: Called with the batch's span of samples and with the value there.
            samples: Batches that begin behind so many are left out.
        """
        tensor = self._network.node(name).inputs[0]
        found = []
        for span, alive in self._reached(name, samples):
            found.append(function(span, keras.ops.convert_to_numpy(alive.values[tensor])))
        return found

    def _reached(self, name: str, samples: int | None = None) -> Iterator[tuple[slice, _Alive]]:
        """Every batch's span and values right before a node runs."""
        target = self._places[name]
        for node in self._network.nodes[len(self._ran) : target]:
            self._ran.append(self.layer(node.layer))
        total = self._samples if samples is None else min(samples, self._samples)
        for start in range(0, total, self._batch_size):
            span = slice(start, min(start + self._batch_size, self._samples))
            yield span, self._run(span, target)

    def _run(self, span: slice, target: int) -> _Alive:
        alive = self._kept.get(span.start)
        if alive is None or alive.place > target:
            given = {t: keras.ops.convert_to_tensor(a[span]) for t, a in self._given.items()}
            alive = _Alive(self._last, given)
        if alive.place == target:
            return alive
        alive = alive.copy()
        with backends.current().no_gradients():
            for place in range(alive.place, target):
                self._step(alive, place)
        if alive.nbytes * self._samples <= self._memory * (span.stop - span.start):
            self._kept[span.start] = alive
        return alive

    def _step(self, alive: _Alive, place: int) -> None:
        node = self._network.nodes[place]
        if not node.inputs:
            alive.place = place + 1
            return
        read: dict[Tensor, Any] = {}
        backend = backends.current()

        def value(tensor: Tensor) -> Any:
            found = read[tensor] = alive.values[tensor]
            # What is kept may be read again, after a layer has taken its mask off.
            if tensor in alive.masks or backend.keras_mask(found) is not None:
                backend.set_keras_mask(found, alive.masks.get(tensor))
            return found

        results = self._operations(self._ran[place], node, value)
        # A mask that a layer has taken off what it reads is gone for those that follow, too.
        for tensor in (*node.inputs, *node.outputs):
            alive.masks.pop(tensor, None)
        for tensor, result in [*read.items(), *zip(node.outputs, results, strict=False)]:
            mask = backend.keras_mask(result)
            if mask is not None:
                alive.masks[tensor] = mask
        alive.update(place, node, [_full_precision(result) for result in results])


def _full_precision(value: Any) -> Any:
    """A tensor that can be summed up: half precision becomes float32."""
    value = keras.ops.convert_to_tensor(value)
    half = keras.backend.standardize_dtype(value.dtype) in ("float16", "bfloat16")
    return keras.ops.cast(value, "float32") if half else value


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
