"""Concatenations moved in front of pooling, where TFMOT's quantisation needs them."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfmot_pam.graph.network import (
    Layer,
    Network,
    Node,
    Tensor,
    map_tensors,
    prune_to,
    unique_name,
)

# They pass values on channel by channel, so that it does not matter which comes first.
_MOVABLE = frozenset(
    f"{kind}{rank}D"
    for kind in ("MaxPooling", "GlobalMaxPooling", "ZeroPadding", "Cropping")
    for rank in (1, 2, 3)
)


def hoist_concatenations(network: Network) -> Network:
    """Writes `pool(concat(a, b))` in the place of `concat(pool(a), pool(b))`.

    The parts of a concatenation must be quantised alike, and so must a pooling's input and output.
    TFMOT sees to the former for layers right in front of a concatenation only: with a pooling
    between, the TFLite converter refuses the model.

    Args:
        network: Any network; what it computes stays the same.

    Returns:
        The network without concatenations of poolings of one kind.
    """
    while True:
        found = next((node for node in network.nodes if _pools(network, node)), None)
        if found is None:
            return network
        network = _hoist(network, found)


def _pools(network: Network, node: Node) -> list[Node]:
    """The poolings of equal configuration that a concatenation reads, if it reads nothing else."""
    layer = network.layer_of(node)
    if layer.kind != "Concatenate" or layer.config.get("axis", -1) not in (
        -1,
        _rank(network, node),
    ):
        return []
    pools = [network.node(tensor.node) for tensor in node.inputs]
    first = network.layer_of(pools[0])
    if first.kind not in _MOVABLE or first.config.get("data_format") == "channels_first":
        return []
    alike = all(_same(network.layer_of(pool), first) for pool in pools)
    shapes = {network.shape(pool.inputs[0])[:-1] for pool in pools if pool.inputs}
    return pools if alike and len(shapes) == 1 else []


def _rank(network: Network, node: Node) -> int:
    return len(network.shape(node.inputs[0])) - 1


def _same(one: Layer, other: Layer) -> bool:
    def options(layer: Layer) -> dict[str, Any]:
        return {key: value for key, value in layer.config.items() if key != "name"}

    return one.cls is other.cls and options(one) == options(other)


def _hoist(network: Network, concatenation: Node) -> Network:
    pools = _pools(network, concatenation)
    parts = [pool.inputs[0] for pool in pools]
    shapes = [network.shape(part) for part in parts]
    pool = network.layer_of(pools[0])
    name = unique_name(f"{concatenation.layer}_{pool.name}", network.layers)
    tasks = network.layer_of(concatenation).tasks
    config = {**pool.config, "name": name}
    layer = dataclasses.replace(pool, name=name, config=config, tasks=tasks)
    joined = dataclasses.replace(
        concatenation,
        args=(parts,),
        shapes=((*shapes[0][:-1], sum(shape[-1] for shape in shapes)),),
    )
    old = Tensor(concatenation.name)
    new = Node(name, name, (old,), {}, concatenation.shapes)

    def moved(tensor: Tensor) -> Tensor:
        return Tensor(name) if tensor == old else tensor

    nodes: list[Node] = []
    for node in network.nodes:
        if node.name == concatenation.name:
            nodes += [joined, new]
        else:
            args, kwargs = map_tensors(node.args, moved), map_tensors(node.kwargs, moved)
            nodes.append(dataclasses.replace(node, args=args, kwargs=kwargs))
    outputs = map_tensors(network.outputs, moved)
    whole = network.replace(layers={**network.layers, name: layer}, nodes=tuple(nodes))
    return prune_to(whole.replace(outputs=outputs), outputs)
