"""A network for each combination of tasks: the cheapest that any arm found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras

from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.generation import as_keras
from tfmot_pam.graph.reader import read
from tfmot_pam.pipeline.price import TaskSet

_BYTES = 4  # of a float32 weight


def bytes_of(model: keras.Model) -> int:
    """Bytes of a network's weights in float32."""
    return _BYTES * network_cost(read(as_keras(model))).parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Portfolio:
    """For every combination the network that runs it at the least cost.

    A lower envelope: no single network runs every combination for less. It takes the space of
    several networks, and an app loads another one whenever its tasks change.
    `tflite_export.export(portfolio.models, directory)` writes it as one folder.

    Args:
        models: The network of each combination, with these tasks and no others.
        arms: The arm that found it.
        costs: What one run of it costs in the measure that the compression went by:
            multiply-accumulates, estimated time in multiply-accumulates of a convolution, or what
            the user's function gave.

    Example:
    >>> portfolio = result.portfolio()  # doctest: +SKIP
    >>> portfolio.arms[("digit",)], portfolio.bytes  # doctest: +SKIP
    ('separate', 61200)
    """

    models: Mapping[TaskSet, keras.Model]
    arms: Mapping[TaskSet, str]
    costs: Mapping[TaskSet, float]

    @property
    def bytes_by_combination(self) -> dict[TaskSet, int]:
        """Bytes of each network's weights in float32: what an app loads when it takes over."""
        return {chosen: bytes_of(model) for chosen, model in self.models.items()}

    @property
    def bytes(self) -> int:
        """Bytes of all networks' weights in float32."""
        return sum(self.bytes_by_combination.values())


def told_portfolio(portfolio: Portfolio, model: keras.Model, costs: Mapping[TaskSet, float]) -> str:
    """What networks of their own save and weigh, in words.

    Args:
        portfolio: The networks.
        model: The network that does all combinations.
        costs: What it costs for each.
    """
    factors = {chosen: costs[chosen] / cost for chosen, cost in portfolio.costs.items()}
    listed = ", ".join(f"{'+'.join(chosen)} {factor:.2f}x" for chosen, factor in factors.items())
    together = bytes_of(model)
    return (
        f"Networks of their own cost less by: {listed}. They take {portfolio.bytes:,} bytes as "
        f"float32, the one network {together:,}; when the tasks change, an app loads up to "
        f"{max(portfolio.bytes_by_combination.values()):,} bytes."
    )
