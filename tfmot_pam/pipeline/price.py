"""What combinations of tasks cost, in the measure that a compression goes by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.selection import all_combinations, select, task_names
from tfmot_pam.graph.time_model import estimated_time
from tfmot_pam.graph.usage import usage_probabilities

TaskSet = tuple[str, ...]


def _macs(network: Network) -> float:
    return float(network_cost(network).macs)


# By the name that `prune_channels(measure=)` has for it: the cost of a network, and its unit.
PRICES: Mapping[str, tuple[Callable[[Network], float], str]] = MappingProxyType(
    {"macs": (_macs, "MACs"), "latency": (estimated_time, "MACs' worth of estimated time")}
)


def check_measure(measure: str) -> None:
    """Raises ValueError unless a measure is a key of `PRICES`."""
    if measure not in PRICES:
        raise ValueError(
            f"Unknown `measure`: {measure!r}. Expected one of {sorted(PRICES)}. Choose one."
        )


def combination_costs(network: Network, measure: str) -> dict[TaskSet, float]:
    """The cost of the smallest network of every combination."""
    cost, _ = PRICES[measure]
    return {
        chosen: cost(select(network, chosen)) for chosen in all_combinations(task_names(network))
    }


def expected_cost(costs: Mapping[TaskSet, float], usage: Mapping[TaskSet, float] | None) -> float:
    """The mean of the combinations' costs, weighted by how often they run."""
    tasks = max(costs, key=len)
    probability = usage_probabilities(usage, tasks)
    return math.fsum(share * costs[chosen] for chosen, share in probability.items())


def original_costs(networks: Mapping[str, Network], measure: str) -> dict[TaskSet, float]:
    """The cost of running the original networks of every combination one by one."""
    cost, _ = PRICES[measure]
    alone = {task: cost(network) for task, network in networks.items()}
    return {
        chosen: math.fsum(alone[task] for task in chosen)
        for chosen in all_combinations(tuple(networks))
    }
