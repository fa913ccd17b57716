"""What combinations of tasks cost, in the measure that a compression goes by."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.selection import all_combinations, task_names, tasks_of_nodes
from tfmot_pam.graph.time_model import node_times
from tfmot_pam.graph.usage import usage_probabilities

TaskSet = tuple[str, ...]


def _node_macs(network: Network) -> dict[str, float]:
    return {layer.name: float(layer.macs) for layer in network_cost(network).per_layer}


# By the name that `prune_channels(measure=)` has for it: what each node of a network costs, and
# the unit.
PRICES: Mapping[str, tuple[Callable[[Network], Mapping[str, float]], str]] = MappingProxyType(
    {"macs": (_node_macs, "MACs"), "latency": (node_times, "MACs' worth of estimated time")}
)


def check_measure(measure: str) -> None:
    """Raises ValueError unless a measure is a key of `PRICES`."""
    if measure not in PRICES:
        raise ValueError(
            f"Unknown `measure`: {measure!r}. Expected one of {sorted(PRICES)}. Choose one."
        )


def combination_costs(network: Network, measure: str) -> dict[TaskSet, float]:
    """The cost of the smallest network of every combination.

    It runs what any of its tasks needs. Combinations are many, sets of tasks that need a node few.
    """
    node_costs, _ = PRICES[measure]
    needed, totals = tasks_of_nodes(network), collections.Counter()
    for node, cost in node_costs(network).items():
        totals[needed[node]] += cost
    tasks = task_names(network)
    bits = {task: 1 << place for place, task in enumerate(tasks)}
    costs = {}
    for chosen in all_combinations(tasks):
        own = sum(bits[task] for task in chosen)
        costs[chosen] = math.fsum(cost for mask, cost in totals.items() if mask & own)
    return costs


def expected_cost(costs: Mapping[TaskSet, float], usage: Mapping[TaskSet, float] | None) -> float:
    """The mean of the combinations' costs, weighted by how often they run."""
    tasks = max(costs, key=len)
    probability = usage_probabilities(usage, tasks)
    return math.fsum(share * costs[chosen] for chosen, share in probability.items())


def original_costs(networks: Mapping[str, Network], measure: str) -> dict[TaskSet, float]:
    """The cost of running the original networks of every combination one by one."""
    node_costs, _ = PRICES[measure]
    alone = {task: math.fsum(node_costs(found).values()) for task, found in networks.items()}
    return {
        chosen: math.fsum(alone[task] for task in chosen)
        for chosen in all_combinations(tuple(networks))
    }
