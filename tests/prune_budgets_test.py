"""How much `prune_channels` removes: measures, combinations, floors, policies."""

from __future__ import annotations

import numpy as np
import pytest

import tfmot_pam
from tests.gated_nets import two_heads, widths
from tests.small_nets import conv_net, dense_net
from tfmot_pam.graph.reader import read
from tfmot_pam.pruning.channels import find_prunable
from tfmot_pam.pruning.costs import WidthCosts


@pytest.mark.parametrize("measure", ["macs", "parameters", ("a",), [("a",), ("b",)]])
def test_measures_are_met_and_hardly_missed(measure):
    model = two_heads(40)
    small = tfmot_pam.strip_pruning(
        tfmot_pam.prune_channels(model, 0.6, "magnitude", measure=measure)
    )

    def size(network):
        if measure == "parameters":
            return [tfmot_pam.cost(network).parameters]
        if measure == "macs":
            return [tfmot_pam.report(network).expected_macs]
        listed = measure if isinstance(measure, list) else [measure]
        return [tfmot_pam.cost(network, tasks).macs for tasks in listed]

    shares = [s / w for s, w in zip(size(small), size(model), strict=True)]
    assert max(shares) <= 0.4
    assert max(shares) > 0.35


def test_channels_of_favourite_combinations_go_first():
    """What runs often saves more when it goes: the favourite becomes the cheaper one."""
    usage, costs = {("a",): 0.9, ("b",): 0.1}, {}
    drawn = np.random.default_rng(0).uniform(0.5, 1.5, 120)
    for favourite, shares in {"none": None, "a": usage}.items():
        options = {"measure": "macs", "usage": shares}
        gated = tfmot_pam.prune_channels(two_heads(40), 0.6, lambda e: drawn, **options)
        small = tfmot_pam.strip_pruning(gated)
        costs[favourite] = tfmot_pam.cost(small, "a").macs / tfmot_pam.cost(small, "b").macs
    assert costs["a"] < 0.8 * costs["none"]


def test_floors_and_width_multiples():
    floor = tfmot_pam.prune_channels(dense_net(0, (8, 8)), 0.5, "magnitude", min_channels=4)
    assert min(widths(tfmot_pam.strip_pruning(floor)).values()) >= 3
    model = dense_net(0, (32, 32))
    small = tfmot_pam.strip_pruning(
        tfmot_pam.prune_channels(model, 0.4, "random", width_multiple=8)
    )
    assert all(width % 8 == 0 for n, width in widths(small).items() if n.startswith("fc"))


def test_per_layer_removes_the_same_fraction_everywhere():
    gated = tfmot_pam.prune_channels(dense_net(0, (10, 20)), 0.5, "magnitude", scope="per-layer")
    assert widths(tfmot_pam.strip_pruning(gated)) == {"fc0": 5, "fc1": 10, "head": 3}


def test_marginal_savings_are_differences_of_costs():
    prunable = find_prunable(read(conv_net(0)))
    costs, keep = WidthCosts(prunable), np.ones(len(prunable), bool)
    weights = dict.fromkeys(prunable.node_tasks, 1.0)
    keep[2] = False
    saved = costs.marginal_macs(keep, weights)
    for channel in (0, 5, 12):
        fewer = keep.copy()
        fewer[channel] = False
        assert saved[channel] == pytest.approx(costs.macs(keep) - costs.macs(fewer))


def test_policies_say_what_may_be_pruned():
    class OnlyOwn:
        def allow_pruning(self, layer):
            return layer.name.startswith("own")

    small = tfmot_pam.strip_pruning(
        tfmot_pam.prune_channels(two_heads(), 0.5, "magnitude", pruning_policy=OnlyOwn())
    )
    assert widths(small)["shared"] == 8
    assert widths(small)["own_a"] + widths(small)["own_b"] == 8
