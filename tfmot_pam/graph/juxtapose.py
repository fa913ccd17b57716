"""Networks side by side on one input: nothing shared, one output a task."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from tfmot_pam.graph.network import (
    Network,
    Tensor,
    map_tensors,
    rename_layers,
    scope_name,
    unique_name,
)
from tfmot_pam.graph.selection import task_names
from tfmot_pam.graph.task_sets import reached_tasks


def juxtapose(networks: Sequence[Network], tasks: Sequence[str], name: str = "merged") -> Network:
    """Puts networks of different tasks side by side on one input; each computes what it computed.

    Args:
        networks: Networks with one input each, of equal shapes; outputs named by task.
        tasks: All tasks, in the order of the outputs.
        name: The new network's name.

    Returns:
        A network whose outputs are a dict by task. Every layer is needed by the tasks of its own
        network that it reaches. Layers whose names clash get their network's tasks behind them.

    Raises:
        ValueError: the inputs differ in shape, or the tasks of the networks are not `tasks`.
    """
    covered = [task for network in networks for task in task_names(network)]
    if sorted(covered) != sorted(tasks):
        raise ValueError(
            f"The networks have the tasks {covered}. Expected each of {list(tasks)} once. Leave "
            "out or add networks."
        )
    shapes = [network.shape(network.inputs[0]) for network in networks]
    if any(len(network.inputs) != 1 for network in networks) or len(set(shapes)) > 1:
        raise ValueError(
            f"The networks have inputs of the shapes {shapes}. Expected one input each, of one "
            "shape. Resize within the networks."
        )
    counts = Counter(layer for network in networks for layer in network.layers)
    first = networks[0].node(networks[0].inputs[0].node)
    layers = {first.layer: dataclasses.replace(networks[0].layers[first.layer], tasks=None)}
    nodes, outputs = [first], {}
    for network in networks:
        part = _named(_with_task_sets(network), counts, layers)
        (source,) = part.inputs
        moved = {source: Tensor(first.name)}
        for node in part.nodes:
            if node.name == source.node:
                continue
            layers.setdefault(node.layer, part.layers[node.layer])
            nodes.append(
                dataclasses.replace(
                    node,
                    args=map_tensors(node.args, lambda t, moved=moved: moved.get(t, t)),
                    kwargs=map_tensors(dict(node.kwargs), lambda t, moved=moved: moved.get(t, t)),
                )
            )
        outputs |= part.outputs
    return Network(
        name, layers, tuple(nodes), (Tensor(first.name),), {task: outputs[task] for task in tasks}
    )


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


def _named(network: Network, counts: Mapping[str, int], taken) -> Network:
    """The network with names for its layers that no other has."""
    suffix, names = scope_name(*network.outputs), {}
    for name in network.layers:
        wanted = f"{name}_{suffix}" if counts[name] > 1 else name
        names[name] = unique_name(wanted, {*taken, *names.values()})
    return rename_layers(network, names)
