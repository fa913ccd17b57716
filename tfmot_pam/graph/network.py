"""Networks as data: layers, the calls between them, and the tensors that flow."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# What may be None, but not where most of its readers are: they need not rule it out first.
MaybeNone = Any
Size = int | MaybeNone  # None where it is open
Shape = tuple[Size, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One output of one node."""

    node: str
    index: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A Keras layer or free operation without its graph: class, configuration, weights.

    Args:
        name: Unique in its network.
        cls: The Keras class that computes it.
        config: What `cls.from_config` takes; the entry `name` is replaced on emission.
        weights: Arrays by leaf name (`kernel`, `gamma`, ...).
        tasks: The tasks that need its channels, or None where nobody has said.
    """

    name: str
    cls: type[Any]
    config: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    tasks: tuple[str, ...] | None = None

    @property
    def kind(self) -> str:
        return self.cls.__name__


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer. `args` and `kwargs` hold `Tensor` leaves; `shapes` one shape a result.

    The shape of a result that nobody reads may be missing (None).
    """

    name: str
    layer: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[Shape | MaybeNone, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(iterate_tensors((self.args, dict(self.kwargs))))

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(Tensor(self.name, index) for index in range(len(self.shapes)))


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A functional model as immutable data: nodes in topological order, inputs and outputs.

    Every transformation of this package takes networks and returns new ones. `outputs` keeps the
    model's structure: a `Tensor`, or a nest of them (a merged network: a dict by task).
    `dict_inputs` says whether the model takes a dict of tensors by the names of its inputs.
    """

    name: str
    layers: Mapping[str, Layer]
    nodes: tuple[Node, ...]
    inputs: tuple[Tensor, ...]
    outputs: Any
    dict_inputs: bool = False

    def node(self, name: str) -> Node:
        return self.nodes_by_name[name]

    @property
    def nodes_by_name(self) -> Mapping[str, Node]:
        cached = self.__dict__.get("_nodes_by_name")
        if cached is None:
            cached = {node.name: node for node in self.nodes}
            object.__setattr__(self, "_nodes_by_name", cached)
        return cached

    def layer_of(self, node: Node) -> Layer:
        return self.layers[node.layer]

    def shape(self, tensor: Tensor) -> Shape | MaybeNone:
        return self.node(tensor.node).shapes[tensor.index]

    def readers(self) -> dict[Tensor, tuple[str, ...]]:
        """The names of the nodes that read each tensor, in topological order."""
        found: dict[Tensor, list[str]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                found.setdefault(tensor, []).append(node.name)
        return {tensor: tuple(names) for tensor, names in found.items()}

    def calls(self) -> dict[str, int]:
        """How often each layer is called."""
        counts = dict.fromkeys(self.layers, 0)
        for node in self.nodes:
            counts[node.layer] += 1
        return counts

    def replace(self, **changes: Any) -> Network:
        return dataclasses.replace(self, **changes)


def iterate_tensors(structure: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and dicts, in order."""
    if isinstance(structure, Tensor):
        yield structure
    elif isinstance(structure, Mapping):
        for value in structure.values():
            yield from iterate_tensors(value)
    elif isinstance(structure, (tuple, list)):
        for value in structure:
            yield from iterate_tensors(value)


def map_tensors(structure: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same structure with `function(tensor)` in place of every tensor."""
    if isinstance(structure, Tensor):
        return function(structure)
    if isinstance(structure, Mapping):
        return {key: map_tensors(value, function) for key, value in structure.items()}
    if isinstance(structure, (tuple, list)):
        return type(structure)(map_tensors(value, function) for value in structure)
    return structure


def input_structure(network: Network, tensors: Mapping[Tensor, Any]) -> Any:
    """The inputs as the network's model takes them: one alone, a list, or a dict by name."""
    found = [tensors[tensor] for tensor in network.inputs]
    if network.dict_inputs:
        names = (network.node(tensor.node).layer for tensor in network.inputs)
        return dict(zip(names, found, strict=True))
    return found[0] if len(found) == 1 else found


def unique_name(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or the first of `wanted_1`, `wanted_2`, ... that is not in `taken`."""
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def family_name(name: str, tasks: Sequence[str]) -> str:
    """A group's name without its tasks, which come last in the names that merging gives."""
    for ending in ("_shared", scope_name("", *tasks)):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def scope_name(*names: str) -> str:
    """Names joined to one that TensorFlow takes as a scope, whatever tasks are called."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "_".join(names))


def weight_names(layer: Any) -> list[str]:
    """Names of a layer's weights, unique within the layer, in the order of `layer.weights`."""
    names: list[str] = []
    for weight in getattr(layer, "weights", ()):
        # Keras numbers those that were given no name anew whenever a layer is built again.
        name = re.sub(r"^variable_\d+$", "variable", weight.name)
        names.append(unique_name(name, names))
    return names


def prune_to(network: Network, outputs: Any) -> Network:
    """The smallest sub-network that yields `outputs` (tensors of `network`).

    Inputs that nothing reads any more are kept, so that it is still called alike.
    """
    needed = {tensor.node for tensor in iterate_tensors(outputs)}
    needed.update(tensor.node for tensor in network.inputs)
    kept = []
    for node in reversed(network.nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(tensor.node for tensor in node.inputs)
    nodes = tuple(reversed(kept))
    layers = {node.layer: network.layers[node.layer] for node in nodes}
    return network.replace(layers=layers, nodes=nodes, outputs=outputs)


def without_unread_inputs(network: Network) -> Network:
    """The network without those of its several inputs that nothing reads; at least one stays."""
    read = {tensor for node in network.nodes for tensor in node.inputs}
    read |= set(iterate_tensors(network.outputs))
    kept = [tensor for tensor in network.inputs if tensor in read] or network.inputs[:1]
    gone = {tensor.node for tensor in network.inputs} - {tensor.node for tensor in kept}
    nodes = tuple(node for node in network.nodes if node.name not in gone)
    layers = {node.layer: network.layers[node.layer] for node in nodes}
    return network.replace(layers=layers, nodes=nodes, inputs=tuple(kept))


def with_input_names(network: Network, names: Sequence[str]) -> Network:
    """The network with other names for its inputs, in their order."""
    own = [network.node(tensor.node).layer for tensor in network.inputs]
    if own == list(names):
        return network
    renamed = dict(zip(own, names, strict=True))
    taken = {*network.layers, *names}
    for name in network.layers:
        if name in names and name not in renamed:
            renamed[name] = unique_name(name, taken)
            taken.add(renamed[name])
    return rename_layers(network, renamed)


def rename_layers(network: Network, names: Mapping[str, str]) -> Network:
    """The same network with other names for some layers; calls are named after their layer."""

    def renamed(name: str) -> str:
        layer, _, call = name.partition("@")
        return f"{names.get(layer, layer)}{'@' * bool(call)}{call}"

    def moved(tensor: Tensor) -> Tensor:
        return Tensor(renamed(tensor.node), tensor.index)

    layers = [
        dataclasses.replace(layer, name=renamed(name)) for name, layer in network.layers.items()
    ]
    nodes = (
        dataclasses.replace(
            node,
            name=renamed(node.name),
            layer=renamed(node.layer),
            args=map_tensors(node.args, moved),
            kwargs=map_tensors(node.kwargs, moved),
        )
        for node in network.nodes
    )
    return network.replace(
        layers={layer.name: layer for layer in layers},
        nodes=tuple(nodes),
        inputs=tuple(moved(tensor) for tensor in network.inputs),
        outputs=map_tensors(network.outputs, moved),
    )
