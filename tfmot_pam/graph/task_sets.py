"""Which tasks need what: task sets of nodes and layers, by the outputs that they reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tfmot_pam.graph.network import Network, Tensor, iterate_tensors, scope_name


def tasks_of_nodes(network: Network) -> dict[str, int]:
    """For each node, the tasks whose outputs depend on it, as a bit mask in task order."""
    found = dict.fromkeys((node.name for node in network.nodes), 0)
    outputs = network.outputs
    by_task = outputs.values() if isinstance(outputs, dict) else [outputs]
    for t, structure in enumerate(by_task):
        for tensor in iterate_tensors(structure):
            found[tensor.node] |= 1 << t
    for node in reversed(network.nodes):
        for tensor in node.inputs:
            found[tensor.node] |= found[node.name]
    return found


def tasks_of_layers(network: Network) -> dict[str, int]:
    """For each layer, the tasks that need any of its calls, as `tasks_of_nodes` has it."""
    found = dict.fromkeys(network.layers, 0)
    for node, mask in tasks_of_nodes(network).items():
        found[network.node(node).layer] |= mask
    return found


def reached_tasks(network: Network) -> dict[str, tuple[str, ...]]:
    """The tasks whose output needs each layer, in the order of the outputs.

    Args:
        network: A network with a dict of outputs by task.
    """
    return {
        layer: tuple(task for place, task in enumerate(network.outputs) if mask >> place & 1)
        for layer, mask in tasks_of_layers(network).items()
    }


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
