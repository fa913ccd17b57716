"""What a channel that several channels became is fitted to: all of them, as they come out.

Of channels z_1, z_2 .. that have become one, w x is nearest to all of them where it is nearest to
their mean: sum_i |w x - z_i|^2 and n |w x - mean_i z_i|^2 differ by a constant. Where each has data
of its own, this is the sum over its own samples, and w = (sum_i H_i)^-1 sum_i H_i w_i with the
second moments H_i of x on them: the fit of Multi-Task Zipping (He, Zhou, Thiele, NeurIPS 2018) for
any number of networks. Before a batch normalisation channels are alike only up to what that does to
each: they are compared behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfmot_pam.graph.network import Layer, Network, Tensor
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.graph.slicing import Layout

Affine = tuple[np.ndarray, np.ndarray]  # a scale and an offset of each channel
_LEAST = 1e-6  # of a variance that is divided by


def joint_targets(
    columns: Layout,
    lead: np.ndarray,
    computed: Callable[[int], np.ndarray],
    affine: Mapping[int, Affine],
    counts: np.ndarray | None,
) -> np.ndarray:
    """What channels of a layer are fitted to, where some stand for several.

    Args:
        columns: The channels.
        lead: What the first channel of each computes, `[places, columns]`.
        computed: What the channels of one network compute at these places.
        affine: What follows the layer in each network: its normalisation, as scale and offset.
        counts: Whether the place belongs to each network's data, `[places, networks]`; None where
            all do to all.

    Returns:
        The targets, `[places, columns]`.
    """
    chosen = np.flatnonzero(np.any([found >= 0 for found in columns.fused.values()], axis=0))
    scale, offset = np.ones(len(columns)), np.zeros(len(columns))
    for net, (s, b) in affine.items():
        own = columns.nets == net
        scale[own], offset[own] = s[columns.positions[own]], b[columns.positions[own]]
    found = [(columns.nets, lead, scale, offset)]
    for (net, _), positions in columns.fused.items():
        here = positions >= 0
        value = np.zeros_like(lead)
        value[:, here] = computed(net)[:, positions[here]]
        scale, offset = np.ones(len(columns)), np.zeros(len(columns))
        if net in affine:
            scale[here], offset[here] = (part[positions[here]] for part in affine[net])
        found.append((np.where(here, net, -1), value, scale, offset))
    return _mean(lead, chosen, found, counts)


def _mean(
    lead: np.ndarray,
    chosen: np.ndarray,
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    counts: np.ndarray | None,
) -> np.ndarray:
    """The mean behind the normalisations, before that of the channel of the largest scale."""
    total = np.zeros((len(lead), len(chosen)))
    every, number, all_of = np.zeros_like(total), np.zeros_like(total), np.zeros(len(chosen))
    best, shift = np.zeros(len(chosen)), np.zeros(len(chosen))
    for nets, value, scale, offset in found:
        nets, scale, offset = nets[chosen], scale[chosen], offset[chosen]
        there = nets >= 0
        result = np.where(there, value[:, chosen] * scale + offset, 0.0)
        every += result
        all_of += there
        weight = there if counts is None else there & counts[:, np.maximum(nets, 0)]
        total += result * weight
        number += weight
        larger = there & (np.abs(scale) > np.abs(best))
        best, shift = np.where(larger, scale, best), np.where(larger, offset, shift)
    # Places that are in nobody's data are fitted to the mean of all.
    mean = np.where(number > 0, total / np.maximum(number, 1), every / all_of)
    best = np.where(best == 0, 1.0, best)
    result = lead.copy()
    result[:, chosen] = (mean - shift) / best
    return result


def norm_behind(
    network: Network, readers: Mapping[Tensor, Sequence[str]], name: str
) -> Layer | None:
    """The batch norm that alone reads what a node's layer makes, if there is one.

    Args:
        network: A network.
        readers: The nodes that read each of its tensors.
        name: The node, which applies no activation of its own.
    """
    node = network.node(name)
    found = readers.get(node.outputs[0], ())
    if len(found) != 1 or network.layer_of(node).config.get("activation") not in (None, "linear"):
        return None
    layer = network.layer_of(network.node(found[0]))
    return layer if computes_like(layer) == "BatchNormalization" else None


def affine_of(norm: Layer) -> Affine:
    """A batch normalisation as a scale and an offset of each channel."""
    weights = norm.weights
    scale = 1.0 / np.sqrt(weights["moving_variance"].astype(np.float64) + norm.config["epsilon"])
    scale = scale * weights.get("gamma", 1.0)
    return scale, weights.get("beta", 0.0) - weights["moving_mean"] * scale


def fitted_norm(norm: Layer, columns: Layout, x: np.ndarray, wanted: np.ndarray) -> dict:
    """The weights of a batch normalisation whose fused channels are fitted to what is wanted.

    Its statistics become those of what it reads, so that they may be estimated again later on; its
    scale and its offset are the least-squares line.

    Args:
        norm: The layer.
        columns: Its channels.
        x: What it reads, `[places, channels]`.
        wanted: What it should write.
    """
    chosen = np.any([found >= 0 for found in columns.fused.values()], axis=0)
    mean, goal = x.mean(axis=0, dtype=float), wanted.mean(axis=0, dtype=float)
    variance = x.var(axis=0, dtype=float)
    slope = ((x - mean) * (wanted - goal)).mean(axis=0, dtype=float)
    slope = slope / np.maximum(variance, _LEAST)
    chosen &= variance > _LEAST
    found = {"moving_mean": mean, "moving_variance": variance, "beta": goal}
    scale = np.sqrt(variance + norm.config["epsilon"])
    if "gamma" in norm.weights:
        found["gamma"] = slope * scale
    else:
        # Without a scale of its own the slope is what the variance makes it.
        chosen &= slope > _LEAST
        slope = np.maximum(slope, _LEAST)
        found["moving_variance"] = np.maximum(slope**-2.0 - norm.config["epsilon"], 0.0)
    if "beta" not in norm.weights:
        slope = np.where(np.abs(slope) > _LEAST, slope, np.inf)
        found["moving_mean"] = mean - goal / slope
    return {
        name: np.where(chosen, found[name], weight).astype(weight.dtype)
        if name in found
        else weight
        for name, weight in norm.weights.items()
    }
