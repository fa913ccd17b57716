"""Room for several tasks: layers that cost next to nothing get wider before training."""

from __future__ import annotations

import heapq

import numpy as np

from tfmot_pam.graph.attention import attention_together
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.surgery import repeat_channels, repeatable_channels
from tfmot_pam.graph.time_model import CallCost
from tfmot_pam.graph.widening import widen
from tfmot_pam.pipeline.price import combination_costs, expected_cost
from tfmot_pam.pruning.channels import PrunableChannels, PrunableSpace, find_prunable
from tfmot_pam.pruning.costs import Usage

_MOST_ADDED = 0.05


def with_room(
    network: Network, measure: str | CallCost, usage: Usage | None, seed: int = 0
) -> Network:
    """A network that computes the same, with wider layers where several tasks share cheap ones.

    What limits merging is the width that several tasks need together, and where it costs nothing
    it need not: dense layers behind convolutions take a few percent of the computation. A group of
    channels becomes up to as many times as wide as there are tasks that need it, the cheapest
    groups first, as long as all of it adds at most 5 % to the expected cost.

    Args:
        network: A network whose outputs have task names.
        measure: What the compression goes by.
        usage: Probability of each combination; None for all alike.
        seed: Seed of the new channels' weights.
    """
    prunable = find_prunable(network)
    may = repeatable_channels(prunable.graph)[prunable.numbers]
    groups = [g for g in prunable.groups if len(g.tasks) > 1 and may[g.slice].all()]
    times = dict.fromkeys(groups, 1)

    def cost(chosen: dict[PrunableSpace, int]) -> float:
        wider = repeat_channels(prunable.graph, _by_channel(prunable, chosen)).network
        return expected_cost(combination_costs(wider, measure), usage)

    spent = cost(times)
    most = (1.0 + _MOST_ADDED) * spent
    # What a step adds only grows with the others' steps: the least known one that is still the
    # least when it is looked at anew is the least of all.
    steps = [(0.0, place) for place in range(len(groups))]
    while steps:
        _, place = heapq.heappop(steps)
        more = {**times, groups[place]: times[groups[place]] + 1}
        added = cost(more) - spent
        if steps and added > steps[0][0]:
            heapq.heappush(steps, (added, place))
        elif spent + added > most:
            break
        else:
            times, spent = more, spent + added
            if times[groups[place]] < len(groups[place].tasks):
                heapq.heappush(steps, (added, place))
    return attention_together(widen(prunable.graph, _by_channel(prunable, times), seed))


def _by_channel(prunable: PrunableChannels, times: dict[PrunableSpace, int]) -> np.ndarray:
    """How often each channel of the graph is there."""
    result = np.ones(len(prunable.graph.space_of), int)
    for group, count in times.items():
        result[prunable.numbers[group.slice]] = count
    return result
