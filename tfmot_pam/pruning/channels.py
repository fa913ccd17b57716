"""The channels of a network that may be pruned, in groups, with the tasks that need them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmot_pam.graph.attention import attention_apart
from tfmot_pam.graph.channels import ChannelGraph
from tfmot_pam.graph.emitter import instantiate
from tfmot_pam.graph.following import follow_channels
from tfmot_pam.graph.network import Network, Tensor
from tfmot_pam.graph.selection import task_names
from tfmot_pam.graph.surgery import fixed_channels, output_channels
from tfmot_pam.graph.task_sets import tasks_of_nodes


@dataclasses.dataclass(frozen=True)
class PrunableSpace:
    """The prunable channels of one space.

    Args:
        name: The space's name: its first writer.
        tasks: The tasks that need it, in model order.
        start: Its first position in the vector of all prunable channels.
        stop: One beyond its last position.
    """

    name: str
    tasks: tuple[str, ...]
    start: int
    stop: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def width(self) -> int:
        return self.stop - self.start


@dataclasses.dataclass(frozen=True, eq=False)
class PrunableChannels:
    """What of a network may be pruned. The prunable channels are numbered group by group.

    Args:
        graph: The network's channel graph.
        tasks: The network's tasks.
        groups: The spaces that may be pruned, in topological order.
        numbers: For each prunable channel its number in the channel graph.
        kept_whole: For each other space that a layer writes, why it is left alone.
        node_tasks: For each node, the tasks whose outputs need it, as a bit mask.
    """

    graph: ChannelGraph
    tasks: tuple[str, ...]
    groups: tuple[PrunableSpace, ...]
    numbers: np.ndarray
    kept_whole: Mapping[str, str]
    node_tasks: Mapping[str, int]

    @property
    def network(self) -> Network:
        return self.graph.network

    def __len__(self) -> int:
        return len(self.numbers)

    def in_graph(self, keep: np.ndarray) -> np.ndarray:
        """`keep` of the prunable channels as one value a channel of the graph."""
        result = np.ones(len(self.graph.space_of), bool)
        result[self.numbers] = keep
        return result

    def reading_places(self) -> dict[Tensor, np.ndarray]:
        """The tensors that mixing layers read, each position's prunable channel or -1.

        This is where a channel's value is used at last: a zero here is the channel removed.
        """
        place = np.full(len(self.graph.space_of), -1)
        place[self.numbers] = np.arange(len(self.numbers))
        found: dict[Tensor, np.ndarray] = {}
        for node in self.network.nodes:
            if self.graph.roles[node.name] == "mixing":
                positions = place[self.graph.labels[node.inputs[0]]]
                if np.any(positions >= 0):
                    found.setdefault(node.inputs[0], positions)
        return found


def find_prunable(network: Network, policy: Any = None) -> PrunableChannels:
    """Finds the channels of a network that may be pruned.

    Args:
        network: Any network whose outputs have task names. Its attention layers are taken apart,
            so that heads are channels.
        policy: An object with `allow_pruning(layer) -> bool`, such as a TFMOT `PruningPolicy`; it
            is asked about every layer that writes a space. None allows all.

    Raises:
        ValueError: nothing may be pruned; the message lists the reasons.
    """
    network = attention_apart(network)
    graph = follow_channels(network)
    tasks = task_names(network)
    node_tasks = tasks_of_nodes(network)
    kept_whole = _reasons(graph, policy)
    channels = _tasks_of_channels(graph, node_tasks)
    groups, numbers, start = [], [], 0
    for space in graph.spaces:
        if space.given or space.name in kept_whole:
            continue
        needed = int(np.bitwise_or.reduce(channels[space.channels]))
        names = tuple(task for t, task in enumerate(tasks) if needed >> t & 1)
        groups.append(PrunableSpace(space.name, names, start, start + space.width))
        numbers.append(space.channels)
        start += space.width
    if not groups:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in kept_whole.items())
        raise ValueError(
            f"Nothing of the model '{network.name}' can be pruned. The channels of every layer "
            f"must stay: {reasons or 'it has no layer that mixes channels'}. Teach the layers' "
            "rules with register_layer_rule, or loosen the pruning policy."
        )
    return PrunableChannels(
        graph, tasks, tuple(groups), np.concatenate(numbers), kept_whole, node_tasks
    )


def _reasons(graph: ChannelGraph, policy: Any) -> dict[str, str]:
    fixed, outputs = fixed_channels(graph), np.zeros(len(graph.space_of), bool)
    outputs[output_channels(graph)] = True
    found = {}
    for space in graph.spaces:
        if space.given:
            continue
        if space.frozen is not None:
            found[space.name] = space.frozen
        elif outputs[space.channels[0]]:
            found[space.name] = "it is an output of the model"
        elif not space.readers:
            found[space.name] = "no layer reads it"
        elif fixed[space.channels].any():
            found[space.name] = "it must stay"
        elif policy is not None:
            refused = [name for name in space.writers if not _allows(policy, graph, name)]
            if refused:
                found[space.name] = f"the pruning policy does not allow '{refused[0]}'"
    return found


def _allows(policy: Any, graph: ChannelGraph, name: str) -> bool:
    layer = graph.network.layer_of(graph.network.node(name))
    return bool(policy.allow_pruning(instantiate(layer, wrap=False)))


def _tasks_of_channels(graph: ChannelGraph, node_tasks: Mapping[str, int]) -> np.ndarray:
    """For each channel, the tasks of the nodes that read it."""
    found = np.zeros(len(graph.space_of), int)
    for node in graph.network.nodes:
        for tensor in node.inputs:
            found[graph.labels[tensor]] |= node_tasks[node.name]
    return found
