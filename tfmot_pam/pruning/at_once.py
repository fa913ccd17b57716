"""Channels removed at once, from network to network."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfmot_pam.closed_form.compensate import Known
from tfmot_pam.graph.attention import attention_together
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.inputs import count, rows
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.selection import head_weights
from tfmot_pam.graph.surgery import remove_channels
from tfmot_pam.pruning.budget import Budget
from tfmot_pam.pruning.channels import PrunableChannels, PrunableSpace, find_prunable
from tfmot_pam.pruning.importance import Evidence, find_importance, score
from tfmot_pam.pruning.outputs import answers, relative_errors
from tfmot_pam.pruning.refit import refitted
from tfmot_pam.pruning.settings import PruningSettings

# How many groups may be kept whole, one after the other, to see whether that changes answers less:
# of large networks, where all tries would take longer than an epoch, one.
_KEPT_WHOLE, _KEPT_WHOLE_LARGE = 3, 1
# Samples by which choices are compared: of large networks fewer than their fits look at.
_FEWEST_COMPARED, _COMPARED_MACS = 256, 1e10


class UnreachableFraction(ValueError):
    """More is to be removed than the floors allow."""


def check_reachable(
    prunable: PrunableChannels, settings: PruningSettings, fraction: float | None
) -> None:
    """Raises `UnreachableFraction` where the floors do not let a fraction be removed."""
    budget = settings.budget(prunable)
    least = budget.least()
    if fraction is not None and 1.0 - fraction < least - 1e-9:
        fixed = "; ".join(f"'{name}': {reason}" for name, reason in prunable.kept_whole.items())
        raise UnreachableFraction(
            f"The schedule removes {fraction:.1%} of the {budget.what} in the end, but at most "
            f"{1 - least:.1%} can go: every layer keeps {settings.min_channels} channels to read, "
            f"and some layers stay whole ({fixed or 'none'}). Lower the fraction or the floor."
        )


def choose(
    prunable: PrunableChannels,
    settings: PruningSettings,
    fraction: float,
    inputs: Inputs | None = None,
    **evidence: Any,
) -> tuple[PrunableChannels, np.ndarray]:
    """Chooses the channels that stay, and refits the weights where the importance says so.

    Ratings look at one layer at a time, with errors that have nothing to do with one another: what
    several layers lose together, or a whole map in the same way, they tell badly. So with a refit
    there are several choices, and that which changes the answers to the inputs least is taken:
    with and without channels that save more than is wanted, and, as long as it helps, one more
    group of channels stays whole, that which has saved the most. Of large networks fewer choices
    are compared, on a part of the samples.

    Args:
        prunable: The network and its prunable channels.
        settings: How it is pruned.
        fraction: The share of the settings' measure that goes, 0..1.
        inputs: Calibration inputs `[samples, ...]`, for importances that look at them.
        **evidence: Further fields of `Evidence`.

    Returns:
        The network with its weights refitted, and which of its prunable channels stay.
    """
    full, counted = np.ones(len(prunable), bool), settings.sized(prunable)
    seen = Evidence(
        counted, full, inputs=inputs, usage=settings.usage, seed=settings.seed, **evidence
    )
    rated, budget = score(settings.importance, seen), settings.budget(prunable)
    if inputs is None or not find_importance(settings.importance).refits:
        return prunable, budget.choose(full, rated, 1.0 - fraction)
    part = _compared(counted.network, inputs)
    wanted, known = answers(prunable.network, part), dict[tuple[int, str], Any]()
    weights = head_weights(prunable.network, seen.task_weights)

    def tried(keep: np.ndarray) -> tuple[float, PrunableChannels, np.ndarray]:
        fitted = _refitted(prunable, keep, part, settings.seed, known)
        errors = relative_errors(answers(_without(fitted, keep), part), wanted)
        return float(np.dot(weights, errors)), fitted, keep

    choices = [budget.choose(full, rated, 1.0 - fraction, leap) for leap in (True, False)]
    best = min((tried(keep) for keep in np.unique(choices, axis=0)), key=lambda found: found[0])
    for _ in range(_KEPT_WHOLE if count(part) == count(inputs) else _KEPT_WHOLE_LARGE):
        largest = _largest_saving(prunable, budget, best[2])
        if largest is None:
            break
        rated = rated.copy()
        rated[largest.slice] = np.inf
        other = tried(budget.choose(full, rated, 1.0 - fraction))
        if other[0] >= best[0]:
            break
        best = other
    _, fitted, keep = best
    if count(part) < count(inputs):
        fitted = _refitted(prunable, keep, inputs, settings.seed)
    return fitted, keep


def _compared(network: Network, inputs: Inputs) -> Inputs:
    """The inputs by which choices of a network's channels are compared."""
    wanted = max(_FEWEST_COMPARED, round(_COMPARED_MACS / max(network_cost(network).macs, 1)))
    return rows(inputs, slice(None, None, -(-count(inputs) // wanted)))


def _largest_saving(
    prunable: PrunableChannels, budget: Budget, keep: np.ndarray
) -> PrunableSpace | None:
    """The group of channels whose part of a choice saves the most by itself; None of no choice."""
    shares = {}
    for group in prunable.groups:
        alone = np.ones(len(keep), bool)
        alone[group.slice] = keep[group.slice]
        if not alone.all():
            shares[group] = budget.share(alone)
    return min(shares, key=shares.__getitem__, default=None)


def _refitted(
    prunable: PrunableChannels,
    keep: np.ndarray,
    inputs: Inputs,
    seed: int,
    known: Known | None = None,
) -> PrunableChannels:
    network = refitted(prunable.graph, prunable.in_graph(keep), inputs, seed, known)
    return dataclasses.replace(prunable, graph=prunable.graph.of(network))


def _without(prunable: PrunableChannels, keep: np.ndarray) -> Network:
    smaller = remove_channels(prunable.graph, prunable.in_graph(keep)).network
    return attention_together(smaller)


def cut(
    network: Network,
    settings: PruningSettings,
    fraction: float,
    inputs: Inputs | None = None,
    **evidence: Any,
) -> Network:
    """A smaller network: the least important channels removed, the rest refitted.

    Args:
        network: A network whose outputs have task names.
        settings: How it is pruned.
        fraction: The share of the settings' measure that goes, 0..1.
        inputs: Calibration inputs `[samples, ...]`.
        **evidence: Further fields of `Evidence`.

    Raises:
        UnreachableFraction: the floors do not allow it.
        ValueError: nothing of the network can be pruned.
    """
    prunable = find_prunable(network)
    check_reachable(prunable, settings, fraction)
    return _without(*choose(prunable, settings, fraction, inputs, **evidence))
