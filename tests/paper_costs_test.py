"""The published FLOPs and parameters, from networks that the merging itself assembles.

Source: the table of section 9 of the project's algorithms page; PAM (He et al., KDD 2021),
section 5, for the LeNet-5 whose groups are given.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.network import Layer, Network, Node, Tensor
from tfmot_pam.graph.selection import all_combinations, select
from tfmot_pam.merging.alignment import align
from tfmot_pam.merging.assemble import assemble
from tfmot_pam.merging.grouping import fixed_masks, free_spaces
from tfmot_pam.merging.methods import Request, Threshold
from tfmot_pam.merging.regroup import regroup

layers = keras.layers

A, B, SHARED = 1, 2, 3


class Builder:
    """Writes a network as data, with weights of one byte: only their shapes are counted."""

    def __init__(self, shape):
        self.layers, self.nodes, self.shape = {}, [], shape
        config = {"batch_shape": (None, *shape), "dtype": "float32"}
        self.add("input", layers.InputLayer, config, {}, shape)

    def add(self, name, kind, config, weights, shape):
        args = (Tensor(self.nodes[-1].name),) if self.nodes else ()
        weights = {
            key: np.broadcast_to(np.int8(0), size) if size else np.int8(0)
            for key, size in weights.items()
        }
        self.layers[name] = Layer(name, kind, {**config, "name": name}, weights)
        self.nodes.append(Node(name, name, args, {}, ((None, *shape),)))
        self.shape = shape

    def conv(self, name, filters, size):
        config = {
            "filters": filters,
            "kernel_size": (size, size),
            "strides": (1, 1),
            "padding": "same",
            "dilation_rate": (1, 1),
            "groups": 1,
            "activation": "relu",
        }
        weights = {"kernel": (size, size, self.shape[-1], filters), "bias": (filters,)}
        self.add(name, layers.Conv2D, config, weights, (*self.shape[:2], filters))

    def pool(self, name):
        height, width, channels = self.shape
        config = {"pool_size": (2, 2), "strides": (2, 2), "padding": "valid"}
        self.add(name, layers.MaxPooling2D, config, {}, (height // 2, width // 2, channels))

    def flatten(self):
        self.add("flatten", layers.Flatten, {}, {}, (int(np.prod(self.shape)),))

    def dense(self, name, units, activation="relu"):
        config = {"units": units, "activation": activation}
        weights = {"kernel": (self.shape[-1], units), "bias": (units,)}
        self.add(name, layers.Dense, config, weights, (units,))

    def network(self):
        inputs, outputs = Tensor("input"), Tensor(self.nodes[-1].name)
        return Network("single", self.layers, tuple(self.nodes), (inputs,), outputs)


def lenet(widths, classes=5):
    """LeNet-5 on spectrograms of 124 x 496."""
    builder = Builder((124, 496, 1))
    for position, filters in enumerate(widths[:2]):
        builder.conv(f"conv{position}", filters, 5)
        builder.pool(f"pool{position}")
    builder.flatten()
    for position, units in enumerate(widths[2:]):
        builder.dense(f"fc{position}", units)
    builder.dense("head", classes, "softmax")
    return builder.network()


def vgg(units, classes):
    """VGG-16 on faces of 72 x 72."""
    builder = Builder((72, 72, 3))
    for block, (filters, count) in enumerate(
        ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1
    ):
        for index in range(count):
            builder.conv(f"conv{block}_{index}", filters, 3)
        builder.pool(f"pool{block}")
    builder.flatten()
    builder.dense("fc0", units)
    builder.dense("fc1", units)
    builder.dense("head", classes, "sigmoid")
    return builder.network()


def aligned(networks):
    # All weights are 0: what is counted is not that the networks are the same.
    return align([f"t{index}" for index in range(len(networks))], networks, once=False)


def merged(networks, method):
    alignment = aligned(networks)
    grouping = regroup(Request(alignment, None, Threshold(rho=0.05), 0), method)
    return assemble(alignment, grouping).network


def costs(network):
    """Kernels and FLOPs of every combination, small ones first."""
    found = [network_cost(select(network, tasks)) for tasks in all_combinations(network.outputs)]
    assert all(cost.unsupported == {} for cost in found)
    return [(cost.kernel_parameters, cost.flops) for cost in found]


SINGLES = {
    "LeNet-5": (lambda: lenet((6, 16, 120, 84)), (7_393_530, 106_422_711)),
    "VGG-16 (512)": (lambda: vgg(512, 20), (16_031_424, 3_112_200_684)),
    "VGG-16 (128)": (lambda: vgg(128, 15), (14_990_912, 3_110_120_433)),
}


@pytest.mark.parametrize("name", SINGLES)
def test_networks_kept_apart_cost_the_sum(name):
    """Separate pruning, as the papers count it: each combination pays for each of its tasks."""
    build, (parameters, flops) = SINGLES[name]
    alone = network_cost(build())
    assert (alone.kernel_parameters, alone.flops) == (parameters, flops)
    one, other, both = costs(merged([build(), build()], "separate"))
    assert one == other == (parameters, flops)
    assert both == (2 * parameters, 2 * flops)


SHARED_ROWS = {
    "two LeNet-5": (
        lambda: [lenet((6, 16, 120, 84)) for _ in range(2)],
        (29_573_820, 390_018_942),
        168 * 5,
    ),
    "two VGG-16 (512)": (
        lambda: [vgg(512, 20) for _ in range(2)],
        (64_122_240, 12_415_759_320),
        1024 * 20,
    ),
    "five VGG-16 (128)": (
        lambda: [vgg(128, classes) for classes in (15, 15, 15, 15, 13)],
        (374_736_960, 77_422_558_647),
        640 * 15,
    ),
}


@pytest.mark.parametrize("name", SHARED_ROWS)
def test_networks_whose_channels_are_all_shared(name):
    build, row, head = SHARED_ROWS[name]
    networks = build()
    network = merged(networks, "shared")
    everything = network_cost(network)
    assert (everything.kernel_parameters, everything.flops) == row
    # One task alone pays for the whole trunk: all it saves is the other heads.
    count = len(networks)
    heads = [layer for layer in everything.per_layer if layer.name.startswith("head")]
    assert [layer.tasks for layer in heads] == [(f"t{index}",) for index in range(count)]
    alone = network_cost(select(network, ["t0"]))
    assert heads[0].kernel_parameters == head
    assert alone.kernel_parameters == row[0] - sum(h.kernel_parameters for h in heads[1:])
    assert alone.flops == row[1] - sum(h.flops for h in heads[1:])


def grouped(alignment, groups):
    """Explicit task sets; of each shared group, either network gives one half."""
    grouping = fixed_masks(alignment)
    for space, (only_a, only_b, shared) in zip(free_spaces(alignment), groups, strict=True):
        found = alignment.spaces[space]
        for k, (mask, exclusive) in enumerate(((A, only_a), (B, only_b))):
            size = found.widths[k] - exclusive
            # Scattered over the network's channels, as relevance would have it.
            masks = np.array([mask] * exclusive + [SHARED] * size)
            order = np.random.default_rng(space).permutation(len(masks))
            grouping = grouping.replace(k, found.channels[k], masks[order])
        assert sum(found.widths) == only_a + only_b + shared
    return grouping


def test_lenet_merged_by_pam():
    groups = [(1, 1, 2), (2, 2, 3), (6, 6, 10), (4, 3, 9)]
    widths = [
        [only_a + shared // 2 for only_a, _, shared in groups],
        [only_b + shared - shared // 2 for _, only_b, shared in groups],
    ]
    alignment = aligned([lenet(found) for found in widths])
    network = assemble(alignment, grouped(alignment, groups)).network
    only_a, only_b, both = costs(network)
    assert only_a == (231_234, 18_651_492)
    assert only_b == (231_213, 18_651_451)
    assert both == (346_837, 26_478_078)
