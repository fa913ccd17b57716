"""Which task groups the layers of a model's trunk consist of."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfmot_pam.graph.channels import rule_of
from tfmot_pam.graph.network import Network, Node, iterate_tensors, scope_name
from tfmot_pam.graph.rules import call_of
from tfmot_pam.graph.selection import sums_by_combination, task_names
from tfmot_pam.graph.task_sets import tasks_of_layers

TaskSet = tuple[str, ...]


def trunk_groups(network: Network) -> dict[str, dict[tuple[str, ...], int]]:
    """The channels of every group of the trunk, by layer and task set.

    Groups of one layer are recognised by their names: `conv1_shared`, `conv1_digit`,
    `conv1_digit_speaker`. Layers that write a task's output, and other layers of a single task
    whose name does not say that they belong to a trunk layer, are heads and left out.

    Args:
        network: Any network; only layers with a task set have groups.

    Returns:
        For each layer that mixes channels, in network order, the number of channels by task set,
        largest task set first.
    """
    tasks = task_names(network)
    heads = _output_writers(network)
    found: dict[str, dict[tuple[str, ...], int]] = {}
    named: set[str] = set()
    inner: set[str] = set()
    for name, own, width in _mixing_layers(network):
        base = _layer_name(name, own)
        if base != name or len(own) > 1 or len(tasks) == 1:
            named.add(base)
        # Where an output is read off the trunk, its layers write outputs but are shared.
        if name not in heads or len(own) > 1:
            inner.add(base)
        channels = found.setdefault(base, {})
        channels[own] = channels.get(own, 0) + width
    return {
        name: _in_order(channels, tasks)
        for name, channels in found.items()
        if name in named and name in inner
    }


def count_groups(
    network: Network, layers: Mapping[str, Mapping[tuple[str, ...], int]]
) -> dict[tuple[str, ...], int]:
    """How many of the groups in `layers` every combination of tasks runs."""
    masks = tasks_of_layers(network)
    groups: dict[tuple[str, TaskSet], int] = collections.defaultdict(int)
    for name, own, _ in _mixing_layers(network):
        base = _layer_name(name, own)
        if own in layers.get(base, {}):
            groups[base, own] |= masks[name]
    counted = sums_by_combination(task_names(network), groups, dict.fromkeys(groups, 1))
    return {chosen: int(count) for chosen, count in counted.items()}


def _mixing_layers(network: Network) -> list[tuple[str, TaskSet, int]]:
    """Name, tasks and width of each layer that mixes channels and has a task set."""
    calls = network.calls()
    found: dict[str, tuple[str, TaskSet, int]] = {}
    for node in network.nodes:
        layer = network.layer_of(node)
        if layer.tasks is None or layer.name in found:
            continue
        rule = rule_of(call_of(network, node, calls))
        if rule is not None and rule.role == "mixing":
            found[layer.name] = (layer.name, layer.tasks, node.shapes[0][-1])
    return list(found.values())


def _layer_name(name: str, tasks: TaskSet) -> str:
    """The name of the trunk layer that a group belongs to."""
    suffixes = [scope_name("", *tasks)]
    if len(tasks) > 1:
        suffixes.append("_shared")
    for suffix in suffixes:
        # Where names of tasks make equal endings, the later groups have a number behind theirs.
        found = re.fullmatch(rf"(.+){re.escape(suffix)}(_\d+)?", name)
        if found:
            return found[1]
    return name


def _output_writers(network: Network) -> set[str]:
    """The layers that write the outputs' channels, behind activations and the like."""
    nodes = network.nodes_by_name
    calls = network.calls()
    writers = set()

    def trace(node: Node) -> None:
        rule = rule_of(call_of(network, node, calls)) if node.inputs else None
        if rule is None or rule.role == "mixing":
            writers.add(node.layer)
            return
        for tensor in node.inputs:
            trace(nodes[tensor.node])

    for tensor in iterate_tensors(network.outputs):
        trace(nodes[tensor.node])
    return writers


def _in_order(channels: Mapping[TaskSet, int], tasks: Sequence[str]) -> dict[TaskSet, int]:
    def key(names: TaskSet) -> tuple[Any, ...]:
        places = [tasks.index(name) if name in tasks else len(tasks) for name in names]
        return -len(names), places, names

    return {names: channels[names] for names in sorted(channels, key=key)}
