"""Reconstruction: channels rated by how much the layers that read them could not do without.

A layer's pre-activations are explained from the features of its input channels, one channel after
the other, the most useful per operation first. What a channel adds when its turn comes, in units
of what an error there does to the network's outputs (`sensitivity`), is its importance. Removing
the least important ones and fitting what is left in closed form (`compensate`) needs no training.

Source: section 7b of the project's algorithms page; the greedy choice with Schur complements is
that of the Gaussian relevance estimator (`closed_form.blocks`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmot_pam.closed_form import linear
from tfmot_pam.closed_form.blocks import BlockSystem, rows_by_channel
from tfmot_pam.closed_form.sampled import Sampled
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.inputs import count, rows
from tfmot_pam.graph.network import Layer, Node
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.graph.runner import Stepper
from tfmot_pam.graph.selection import head_weights
from tfmot_pam.graph.usage import usage_probabilities
from tfmot_pam.pruning.channels import PrunableChannels
from tfmot_pam.pruning.costs import Usage, WidthCosts, node_weights
from tfmot_pam.pruning.sensitivity import output_sensitivity

_SAMPLES = 1024
_PLACES = 4096
_DIRECTIONS = 16  # columns that a channel has at most
_RIDGE = 1e-3
_VARIANCE = 0.999  # share of the targets' variance that is explained; directions beyond are left


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """A mixing layer on sampled places: what it reads, what it computes, and what that is worth.

    Args:
        node: The name of the layer's call.
        channels: For each feature column its prunable channel, or -1.
        features: Centred, `[places, columns]`.
        targets: Centred pre-activations `[places, outputs]`.
    """

    node: str
    channels: np.ndarray
    features: np.ndarray
    targets: np.ndarray


def rate(
    prunable: PrunableChannels,
    x: Inputs,
    usage: Usage | None,
    seed: int = 0,
    *,
    task_weights: Mapping[str, float] | None = None,
    room: float = 0.0,
) -> np.ndarray:
    """Rates every prunable channel.

    Args:
        prunable: The network and its prunable channels.
        x: Calibration inputs `[samples, ...]`, from the training split.
        usage: Probability of each combination; None takes all alike.
        seed: Seed of the choice of samples and places.
        task_weights: How much an error of each task's outputs matters; None takes all alike.
        room: What the channels of a group get together for being there, in units of what those of
            a group do in the mean: layers that are to learn more need width, which cheap layers
            would lose first, as it explains little of what they compute now.

    Returns:
        For each channel the growth of the outputs' error if it went, as a share of their spread
        and at least 0; infinite where only layers without a closed form read it.
    """
    rng = np.random.default_rng(seed)
    if count(x) > _SAMPLES:
        x = rows(x, np.sort(rng.choice(count(x), _SAMPLES, replace=False)))
    matters = head_weights(prunable.network, task_weights)
    readers = _readers(prunable, x, rng)
    nodes = [reader.node for reader in readers]
    sensitivities = output_sensitivity(prunable.network, nodes, x, rng, matters)
    readers = [_in_units_of_the_outputs(*pair) for pair in zip(readers, sensitivities, strict=True)]
    weights = node_weights(prunable, usage_probabilities(usage, prunable.tasks))
    full = np.ones(len(prunable), bool)
    price = np.maximum(WidthCosts(prunable).marginal_macs(full, weights), 1e-9)
    result = np.full(len(prunable), np.inf)
    for cluster in _clusters(prunable, readers):
        _rate_cluster(cluster, price, result)
    return result + _of_room(prunable, result, room)


def _of_room(prunable: PrunableChannels, rated: np.ndarray, room: float) -> np.ndarray:
    """For each channel its part of what the width of its group counts by itself."""
    finite = np.isfinite(rated)
    widths = np.concatenate([np.full(group.width, group.width) for group in prunable.groups])
    groups = sum(bool(finite[group.slice].any()) for group in prunable.groups)
    return room * float(rated[finite].sum()) / max(groups, 1) / widths


def _readers(prunable: PrunableChannels, x: Inputs, rng: np.random.Generator) -> list[_Reader]:
    places, network = prunable.reading_places(), prunable.network
    running, found = Stepper(network, x), []
    for node in network.nodes:
        layer = network.layer_of(node)
        gated = prunable.graph.roles[node.name] == "mixing" and node.inputs[0] in places
        form = linear.linear_form(layer) if gated else None
        if form is not None:
            found.append(_observe(running, form, node, layer, places[node.inputs[0]], rng))
    return found


def _observe(
    running: Stepper,
    form: linear.LinearForm,
    node: Node,
    layer: Layer,
    positions: np.ndarray,
    rng: np.random.Generator,
) -> _Reader:
    shape = running.shape(node.name)
    where = linear.sample_places(shape[0], form.grid(layer, shape), _PLACES, rng)
    read = Sampled(running, node.name, where).read(form, layer)
    features, targets = form.features(layer, read), linear.pre_activation(form, layer, read)
    # Columns run over kernel positions, then channels (depth multipliers innermost).
    inner = features.shape[1] // _kernel_positions(layer) // len(positions)
    channels = np.tile(np.repeat(positions, inner), _kernel_positions(layer))
    features = features - features.mean(axis=0)
    targets = targets - targets.mean(axis=0)
    return _Reader(node.name, channels, features, targets)


def _kernel_positions(layer: Layer) -> int:
    if computes_like(layer).startswith("Conv"):
        return int(np.prod(layer.config["kernel_size"]))
    return 1


def _in_units_of_the_outputs(reader: _Reader, sensitivity: np.ndarray) -> _Reader:
    """Targets turned and stretched so that their squared errors are what the outputs lose."""
    values, directions = np.linalg.eigh(sensitivity)
    targets = reader.targets @ (directions * np.sqrt(np.maximum(values, 0.0)))
    power = np.mean(np.square(targets), axis=0)
    order = np.argsort(-power)
    shares = np.cumsum(power[order]) / max(float(power.sum()), 1e-30)
    count = min(int(np.searchsorted(shares, _VARIANCE)) + 1, len(order))
    return dataclasses.replace(reader, targets=targets[:, order[:count]])


# --- the greedy choice -------------------------------------------------------------------------


def _clusters(prunable: PrunableChannels, readers: list[_Reader]) -> list[list[_Reader]]:
    """Readers that have groups of channels in common, directly or by others."""
    starts = np.array([group.start for group in prunable.groups])
    clusters: list[tuple[set[int], list[_Reader]]] = []
    for reader in readers:
        channels = np.unique(reader.channels[reader.channels >= 0])
        groups = set(np.searchsorted(starts, channels, side="right").tolist())
        joined = [cluster for cluster in clusters if cluster[0] & groups]
        clusters = [cluster for cluster in clusters if not cluster[0] & groups]
        clusters.append(
            (groups.union(*(c[0] for c in joined)), [r for c in joined for r in c[1]] + [reader])
        )
    return [found for _, found in clusters]


class _System:
    """One reader's regression, with the places of its channels."""

    def __init__(self, reader: _Reader):
        gated = reader.channels >= 0
        features, targets = reader.features, reader.targets
        if not gated.all():
            # What is always there explains its part first.
            fixed = features[:, ~gated]
            features = features[:, gated]
            for_features, _ = linear.fit(fixed, features, _RIDGE)
            for_targets, _ = linear.fit(fixed, targets, _RIDGE)
            features, targets = features - fixed @ for_features, targets - fixed @ for_targets
        self.channels, blocks = np.unique(reader.channels[gated], return_inverse=True)
        rows = _principal(rows_by_channel(np.asarray(features, np.float32), blocks))
        ridge = _RIDGE * (float(np.mean(np.square(features))) or 1.0)
        self._system = BlockSystem(rows, targets, ridge)
        self.place = {channel: place for place, channel in enumerate(self.channels.tolist())}

    def add_gains(self, total: np.ndarray) -> None:
        gains = self._system.gains().sum(axis=0)
        total[self.channels[: len(gains)]] += gains

    def condition(self, channel: int) -> None:
        if channel not in self.place:
            return
        place, last = self.place.pop(channel), self._system.live - 1
        self._system.condition(place)
        if place != last:
            moved = int(self.channels[last])
            self.channels[place], self.place[moved] = moved, place


def _principal(rows: np.ndarray) -> np.ndarray:
    """Wide channels (a flattened map's positions) by their strongest directions, `[width, ...]`."""
    width, channels, samples = rows.shape
    if width <= _DIRECTIONS:
        return rows
    result = np.empty((_DIRECTIONS, channels, samples), rows.dtype)
    for channel in range(channels):
        own = rows[:, channel]
        _, directions = np.linalg.eigh(own @ own.T)
        result[:, channel] = directions[:, -_DIRECTIONS:].T @ own
    return result


def _rate_cluster(readers: list[_Reader], price: np.ndarray, result: np.ndarray) -> None:
    """Writes the importance of the channels that some readers have in common."""
    systems = [_System(reader) for reader in readers]
    left = np.unique(np.concatenate([system.channels for system in systems]))
    picked, values = [], []
    while len(left):
        gains = np.zeros(len(price))
        for system in systems:
            if system.place:
                system.add_gains(gains)
        pick = int(left[np.argmax(gains[left] / price[left])])
        for system in systems:
            system.condition(pick)
        left = left[left != pick]
        picked.append(pick)
        values.append(max(float(gains[pick]), 0.0))
    # A later channel never matters more than an earlier one: without that it would add less.
    result[picked] = np.maximum.accumulate(np.array(values)[::-1])[::-1]
