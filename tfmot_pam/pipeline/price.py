"""What combinations of tasks cost, in the measure that a compression goes by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.levels import combination_times
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.selection import all_combinations, sums_by_combination, task_names
from tfmot_pam.graph.task_sets import tasks_of_nodes
from tfmot_pam.graph.time_model import CallCost, checked_cost, node_costs, node_times
from tfmot_pam.graph.usage import usage_probabilities

TaskSet = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Price:
    """A measure of cost.

    Args:
        node_costs: What each node of a network costs.
        combinations: What combinations of a network cost, where that is not the sum of the nodes
            that any of their tasks needs.
        unit: What costs are told in.
        scale: How many of it are told as one.
    """

    node_costs: Callable[[Network], Mapping[str, float]]
    unit: str
    scale: float = 1e6
    combinations: Callable[[Network], dict[TaskSet, float]] | None = None

    def told(self, cost: float) -> str:
        """A cost in words."""
        value = cost / self.scale
        return f"{value:{'.3f' if value >= 0.1 else '.3g'}} {self.unit}"


def _node_macs(network: Network) -> dict[str, float]:
    return {layer.name: float(layer.macs) for layer in network_cost(network).per_layer}


# By the name that `prune_channels(measure=)` has for it.
PRICES: Mapping[str, Price] = MappingProxyType(
    {
        "macs": Price(_node_macs, "M MACs"),
        "latency": Price(
            node_times, "M MACs' worth of estimated time", combinations=combination_times
        ),
    }
)


def find_price(measure: str | CallCost) -> Price:
    """The price that a name means, or a function of the calls of layers.

    Raises:
        ValueError: it means none.
    """
    if callable(measure):
        cost = checked_cost(measure)
        return Price(lambda network: node_costs(network, cost), measure_name(measure), 1.0)
    if not isinstance(measure, str) or measure not in PRICES:
        raise ValueError(
            f"Unknown `measure`: {measure!r}. Expected one of {sorted(PRICES)} or a function "
            "cost(kind, inputs, shape, macs). Choose one."
        )
    return PRICES[measure]


def measure_name(measure: str | CallCost) -> str:
    """What a measure is called in results."""
    if isinstance(measure, str):
        return measure
    return getattr(measure, "__name__", type(measure).__name__)


def combination_costs(network: Network, measure: str | CallCost) -> dict[TaskSet, float]:
    """The cost of the smallest network of every combination, which runs what its tasks need."""
    price = find_price(measure)
    if price.combinations is not None:
        return price.combinations(network)
    costs = price.node_costs(network)
    return sums_by_combination(task_names(network), tasks_of_nodes(network), costs)


def expected_cost(costs: Mapping[TaskSet, float], usage: Mapping[TaskSet, float] | None) -> float:
    """The mean of the combinations' costs, weighted by how often they run."""
    tasks = max(costs, key=len)
    probability = usage_probabilities(usage, tasks)
    return math.fsum(share * costs[chosen] for chosen, share in probability.items())


def original_costs(
    networks: Mapping[str, Network], measure: str | CallCost
) -> dict[TaskSet, float]:
    """The cost of running the original networks of every combination one by one.

    Raises:
        ValueError: a network costs nothing, by a function that is no measure of it.
    """
    price = find_price(measure)
    alone = {t: math.fsum(price.node_costs(found).values()) for t, found in networks.items()}
    free = [task for task, cost in alone.items() if cost == 0.0]
    if free:
        raise ValueError(
            f"By `measure` the models of {free} cost nothing. Expected a cost above 0, of which a "
            "part can be saved. Let the function count what these models compute."
        )
    return {
        chosen: math.fsum(alone[task] for task in chosen)
        for chosen in all_combinations(tuple(networks))
    }
