"""Networks side by side on one input, or on inputs by name: nothing shared, one output a task."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tfmot_pam.graph.heads import common_inputs, input_names, named_inputs
from tfmot_pam.graph.network import (
    Layer,
    Network,
    Node,
    Tensor,
    map_tensors,
    rename_layers,
    scope_name,
    unique_name,
)
from tfmot_pam.graph.selection import task_names
from tfmot_pam.graph.task_sets import reached_tasks


def juxtapose(networks: Sequence[Network], tasks: Sequence[str], name: str = "merged") -> Network:
    """Puts networks of different tasks side by side; each computes what it computed.

    Args:
        networks: Networks with one input each, of equal shapes, or with inputs by name; outputs
            named by task.
        tasks: All tasks, in the order of the outputs.
        name: The new network's name.

    Returns:
        A network whose outputs are a dict by task. Every layer is needed by the tasks of its own
        network that it reaches. Layers whose names clash get their network's tasks behind them.

    Raises:
        ValueError: inputs of one name differ in shape, or the networks' tasks are not `tasks`.
    """
    covered = [task for network in networks for task in task_names(network)]
    if sorted(covered) != sorted(tasks):
        raise ValueError(
            f"The networks have the tasks {covered}. Expected each of {list(tasks)} once. Leave "
            "out or add networks."
        )
    by_name = isinstance(common_inputs({n.name: n for n in networks}), Mapping)
    counts = Counter(layer for network in networks for layer in network.layers)
    inputs: dict[str, Node] = {}
    layers: dict[str, Layer] = {}
    for network in networks:
        for name, tensor in named_inputs(network).items():
            if by_name or not inputs:
                inputs.setdefault(name, network.node(tensor.node))
                layers.setdefault(name, dataclasses.replace(network.layers[name], tasks=None))
    nodes, outputs = list(inputs.values()), dict[str, Any]()
    for network in networks:
        given = [inputs[name] if by_name else nodes[0] for name in input_names(network)]
        part = _named(_with_task_sets(network), counts, layers)
        moved = {tensor: Tensor(node.name) for tensor, node in zip(part.inputs, given, strict=True)}
        for node in part.nodes:
            if Tensor(node.name) in moved:
                continue
            layers.setdefault(node.layer, part.layers[node.layer])
            args, kwargs = _moved((node.args, dict(node.kwargs)), moved)
            nodes.append(dataclasses.replace(node, args=args, kwargs=kwargs))
        outputs |= part.outputs
    return Network(
        name,
        layers,
        tuple(nodes),
        tuple(Tensor(node.name) for node in inputs.values()),
        {task: outputs[task] for task in tasks},
        by_name,
    )


def _moved(structure: Any, moved: Mapping[Tensor, Tensor]) -> Any:
    return map_tensors(structure, lambda tensor: moved.get(tensor, tensor))


def _with_task_sets(network: Network) -> Network:
    """The network with a dict of outputs, and the tasks of every layer."""
    if not isinstance(network.outputs, Mapping):
        (task,) = task_names(network)
        network = network.replace(outputs={task: network.outputs})
    reached = reached_tasks(network)
    return network.replace(
        layers={
            name: dataclasses.replace(layer, tasks=layer.tasks or reached[name])
            for name, layer in network.layers.items()
        }
    )


def _named(network: Network, counts: Mapping[str, int], taken: Collection[str]) -> Network:
    """The network with names for its layers that no other has."""
    suffix, names = scope_name(*network.outputs), dict[str, str]()
    for name in network.layers:
        wanted = f"{name}_{suffix}" if counts[name] > 1 else name
        names[name] = unique_name(wanted, {*taken, *names.values()})
    return rename_layers(network, names)
