"""Task sets of layers that do not carry them: which outputs a layer reaches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tfmot_pam.graph.network import Network, Tensor, scope_name


def reached_tasks(network: Network) -> dict[str, tuple[str, ...]]:
    """The tasks whose output needs each layer, in the order of the outputs.

    Args:
        network: A network with a dict of outputs by task.
    """
    readers: dict[str, set[str]] = {node.name: set() for node in network.nodes}
    for task, tensor in network.outputs.items():
        readers[tensor.node].add(task)
    for node in reversed(network.nodes):
        for tensor in node.inputs:
            readers[tensor.node] |= readers[node.name]
    found: dict[str, set[str]] = {}
    for node in network.nodes:
        found.setdefault(node.layer, set()).update(readers[node.name])
    return {name: tuple(t for t in network.outputs if t in tasks) for name, tasks in found.items()}


def restore_task_sets(network: Network) -> Network:
    """Gives the layers of a merged network that lost its task sets the sets they had.

    In a merged network a layer is needed by exactly the tasks whose outputs it reaches. That it
    is a merged one, and no multi-head model that somebody wrote, is told by the names of its
    groups of several tasks: `conv1_shared`, `conv1_digit_speaker`. Other networks are returned as
    they are.

    Args:
        network: Any network.

    Returns:
        The network, with task sets if it was merged.
    """
    outputs = network.outputs
    if not isinstance(outputs, Mapping) or len(outputs) < 2:
        return network
    if not all(isinstance(value, Tensor) for value in outputs.values()):
        return network
    tasks = reached_tasks(network)
    if not any(_is_group(name, found, len(outputs)) for name, found in tasks.items()):
        return network
    inputs = {tensor.node for tensor in network.inputs}
    layers = {
        name: layer
        if layer.tasks is not None or name in inputs or not tasks[name]
        else dataclasses.replace(layer, tasks=tasks[name])
        for name, layer in network.layers.items()
    }
    return network.replace(layers=layers)


def _is_group(name: str, tasks: tuple[str, ...], count: int) -> bool:
    if len(tasks) < 2:
        return False  # `head_digit` is what anyone might write.
    endings = [scope_name("", *tasks)] + ["_shared"] * (len(tasks) == count)
    return name.endswith(tuple(endings))
