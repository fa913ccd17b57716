"""Chooses how the layers of a network are lowered: by measurement, or by a rule of thumb."""

from __future__ import annotations

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.bench.latency import measure_latency

if TYPE_CHECKING:
    from tfmot_pam.graph.network import Network

_CUTS = 4
_WORTH = 0.98  # of the cost without any lowering; less is noise
_ROUNDS = 5
_TILE = 16  # channels that a kernel computes at once
_GROWTH = 1.5  # of a layer's channels

Convert = Callable[["Network"], bytes]
# The costs of networks that compute the same, given their conversion to TFLite files.
Costs = Callable[["Sequence[Network]", Convert], "Sequence[float]"]


def estimated(networks: Sequence[Network], convert: Convert | None = None) -> list[float]:
    """What networks cost by a rule of thumb, in time and in size.

    1 % of the time (see `tfmot_pam.graph.time_model`) is worth 2 % of the parameters.

    Args:
        networks: Networks.
        convert: Not used.
    """
    # Here and not above: running and measuring files shall not load Keras.
    from tfmot_pam.graph.time_model import estimated_time, rating

    del convert
    return [rating(estimated_time(network), _parameters(network)) for network in networks]


def measured(networks: Sequence[Network], convert: Convert) -> list[float]:
    """The milliseconds that networks take on this machine, one thread, timed in turn.

    Args:
        networks: Networks.
        convert: Returns the TFLite file of a network.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, f"{index}.tflite") for index in range(len(networks))]
        for path, network in zip(paths, networks, strict=True):
            path.write_bytes(convert(network))
        rounds = [[measure_latency(path) for path in paths] for _ in range(_ROUNDS)]
    return np.min(rounds, axis=0).tolist()


TUNINGS: dict[str, Costs | None] = {"none": None, "estimate": estimated, "measure": measured}


def tune_alone(network: Network, costs: Costs, convert: Convert, sums: bool = True) -> Network:
    """Lowers the network of one combination for a file of its own.

    Args:
        network: The network.
        costs: An entry of `TUNINGS`.
        convert: Returns the TFLite file of a network.
        sums: Whether layers may be written as sums of layers, whose terms are quantised apart.

    Returns:
        The cheapest network found that computes the same outputs; `network` itself if no other is
        cheaper, as the converter folds normalisations by itself.
    """
    from tfmot_pam.lowering import fold_batch_norm

    best = folded = fold_batch_norm(network)
    for found in (with_fused_levels, functools.partial(variants, sums=sums)):
        best = _cheapest(found(best), costs, convert)
    return network if best is folded else best


def tune_together(
    network: Network,
    combinations: Iterable[Sequence[str]],
    costs: Costs,
    convert: Convert,
    sums: bool = True,
) -> Network:
    """Lowers a network of all tasks, such that its combinations share their weights.

    Args:
        network: The network.
        combinations: The combinations whose costs count.
        costs: An entry of `TUNINGS`.
        convert: Returns the TFLite file of the network of a combination.
        sums: Whether layers may be written as sums of layers, whose terms are quantised apart.

    Returns:
        The cheapest network found that computes the same outputs, or `network` itself. What it
        computes for one task is the same in all combinations.
    """
    from tfmot_pam.graph.selection import select
    from tfmot_pam.lowering import fold_batch_norm

    folded, chosen = fold_batch_norm(network), list(combinations)

    def in_total(networks: Sequence[Network], convert: Convert) -> list[float]:
        selected = [select(one, tasks) for one in networks for tasks in chosen]
        table = np.reshape(costs(selected, convert), (len(networks), len(chosen)))
        return table.sum(axis=1).tolist()

    best = _cheapest(variants(folded, sums), in_total, convert)
    return network if best is folded else best


def _cheapest(networks: Sequence[Network], costs: Costs, convert: Convert) -> Network:
    """The cheapest network; the first one, unless another is clearly cheaper.

    Networks of more than one and a half times as many parameters are out of the question.
    """
    most = _most_parameters(networks[0])
    allowed = [networks[0], *(one for one in networks[1:] if _parameters(one) <= most)]
    if len(allowed) == 1:
        return networks[0]
    found = costs(allowed, convert)
    best = int(np.argmin(found))
    return allowed[best if found[best] < _WORTH * found[0] else 0]


def _parameters(network: Network) -> int:
    from tfmot_pam.graph.cost import network_cost

    return network_cost(network).parameters


def _most_parameters(network: Network) -> float:
    from tfmot_pam.graph.time_model import MOST_GROWTH

    return MOST_GROWTH * _parameters(network)


def with_fused_levels(network: Network) -> list[Network]:
    """Returns a network as it is, and with some of its grouped layers fused.

    Args:
        network: The network of a combination.

    Returns:
        At most eleven networks that compute the same outputs: with several of the first or of the
        last layers fused, and with what the rule of thumb chooses for every layer.
    """
    # Here and not above: running and measuring files shall not load Keras.
    from tfmot_pam.lowering import fusable_levels

    levels = fusable_levels(network)
    cuts = sorted(set(np.linspace(0, len(levels), _CUTS + 1).round().astype(int).tolist()))
    choices = [levels[:cut] for cut in cuts] + [levels[cut:] for cut in cuts]
    choices.append(_fused_by_estimate(network, levels))
    distinct = {tuple(chosen): chosen for chosen in choices if chosen}
    fused = [_try_to_fuse(network, chosen) for chosen in distinct.values()]
    return [network, *(one for one in fused if one is not None)]


def _fused_by_estimate(
    network: Network, levels: Sequence[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Decides level by level how many of the narrowest groups are computed in one piece."""
    chosen: list[tuple[str, ...]] = []
    most = _most_parameters(network)
    (lowest,) = estimated([network])
    for level in levels:
        by_width = sorted(level, key=lambda name: network.node(name).shapes[0][-1])
        best = None
        for count in range(2, len(level) + 1):
            narrowest = tuple(name for name in level if name in by_width[:count])
            tried = _try_to_fuse(network, [*chosen, narrowest], hollow=True)
            if tried is None or _parameters(tried) > most:
                continue
            (price,) = estimated([tried])
            if price < lowest:
                lowest, best = price, narrowest
        if best is not None:
            chosen.append(best)
    return chosen


def _try_to_fuse(
    network: Network, levels: Sequence[tuple[str, ...]], hollow: bool = False
) -> Network | None:
    from tfmot_pam.lowering import CannotLowerError, fuse

    try:
        return fuse(network, levels, hollow=hollow)
    except CannotLowerError:
        return None


def variants(network: Network, sums: bool = True) -> list[Network]:
    """Returns a network as it is, with sums for concatenations, with padded layers, and with both.

    Args:
        network: Any network.
        sums: Whether layers may be written as sums of layers.

    Returns:
        At most six networks that compute the same outputs.
    """
    from tfmot_pam.lowering import pad_channels, split_sums, splittable_nodes

    found = [network, *(pad_channels(network, widths) for widths in _paddings(network))]
    if sums and splittable_nodes(network):
        found += [split_sums(one, splittable_nodes(one)) for one in found]
    return found


def _paddings(network: Network) -> list[dict[tuple[str, ...], int]]:
    """Widths for `pad_channels`: of what depthwise layers read, and of other layers besides.

    Only of layers for which the rule of thumb says that it pays.
    """
    from tfmot_pam.lowering import pad_channels, paddable_layers

    of_depthwise: dict[tuple[str, ...], int] = {}
    others: dict[tuple[str, ...], int] = {}
    (before,) = estimated([network])
    for layer in paddable_layers(network):
        tiled = -(-layer.width // _TILE) * _TILE
        if tiled == layer.width or tiled > _GROWTH * layer.width:
            continue
        (after,) = estimated([pad_channels(network, {layer.writers: tiled})])
        if after >= before:
            continue
        kinds = [network.layer_of(network.node(name)).kind for name in layer.members]
        chosen = of_depthwise if any("Depthwise" in kind for kind in kinds) else others
        chosen[layer.writers] = tiled
    found = [of_depthwise, of_depthwise | others]
    return [widths for widths in (found if others else found[:1]) if widths]
