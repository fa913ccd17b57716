"""Merged models as originals: the groups of a layer become one layer again."""

from __future__ import annotations

from collections import defaultdict

from tfmot_pam.graph.network import Network, family_name, rename_layers, unique_name
from tfmot_pam.lowering import LOWERED, CannotLowerError, fusable_levels, fuse


def without_groups(network: Network) -> Network:
    """The network with each layer in one piece again, if it was written in groups.

    Use it where a merged network is merged once more: its layers then correspond to those of
    networks that were never merged.

    Args:
        network: Any network; groups are known by the task sets of their layers.

    Returns:
        A network that computes the same, with weights of 0 where a group does not read a channel;
        the network as it is where it has no groups, or where they are needed apart.
    """
    levels = [
        tuple(group)
        for level in fusable_levels(network)
        for group in _by_layer(network, level).values()
        if len(group) > 1
    ]
    try:
        whole = fuse(network, levels) if levels else network
    except CannotLowerError:
        return network
    return rename_layers(whole, _names(network, whole))


def _by_layer(network: Network, level: tuple[str, ...]) -> dict[str, list[str]]:
    """The groups among some nodes, by the name of the layer that they were."""
    found = defaultdict(list)
    for name in level:
        layer = network.layer_of(network.node(name))
        if layer.tasks is not None:
            found[family_name(layer.name, layer.tasks)].append(name)
    return found


def _names(network: Network, whole: Network) -> dict[str, str]:
    """Names without tasks for the layers of what was in groups."""
    names: dict[str, str] = {}
    for name in whole.layers:
        before = network.layers.get(name.removesuffix(LOWERED))
        wanted = name
        if before is not None and before.tasks is not None:
            wanted = family_name(before.name, before.tasks)
        names[name] = unique_name(wanted, names.values())
    return names
