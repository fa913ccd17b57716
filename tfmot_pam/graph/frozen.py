"""Layers that were frozen while a model was trained."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from tfmot_pam.graph.network import Network

TRAINABLE = ("as-trained", "all")


def with_trainable(network: Network, trainable: str) -> Network:
    """The network with the layers trainable that are to be; itself where nothing changes.

    Warns of layers that stay frozen.

    Args:
        network: Any network.
        trainable: `"as-trained"` or `"all"`.

    Raises:
        ValueError: `trainable` is another word.
    """
    if trainable not in TRAINABLE:
        raise ValueError(
            f"Unknown `trainable`: {trainable!r}. Expected one of {TRAINABLE}: layers that were "
            "frozen stay so, or all train. Choose one."
        )
    found = frozen_layers(network)
    if not found:
        return network
    if trainable == "all":
        return thawed(network)
    weighty = sum(bool(layer.weights) for layer in network.layers.values())
    warnings.warn(
        f"{len(found)} of {weighty} layers with weights stay as they are, because they were frozen "
        f"(trainable=False) in the originals: {found[:5]}. Pass trainable='all' to train them.",
        stacklevel=3,
    )
    return network


def frozen_layers(network: Network) -> list[str]:
    """The layers with weights that training leaves as they are."""
    changed = thawed(network).layers
    return [
        name
        for name, layer in network.layers.items()
        if layer.weights and layer.config != changed[name].config
    ]


def thawed(network: Network) -> Network:
    """The network with all layers trainable, those within wrappers included."""
    layers = {
        name: dataclasses.replace(layer, config=_thawed(layer.config))
        for name, layer in network.layers.items()
    }
    return network.replace(layers=layers)


def _thawed(value: Any) -> Any:
    """A configuration, or a part of it, with all layers in it trainable."""
    if isinstance(value, Mapping):
        changed = {key: _thawed(entry) for key, entry in value.items()}
        return {**changed, "trainable": True} if "trainable" in changed else changed
    return [_thawed(entry) for entry in value] if isinstance(value, list) else value
