"""What was removed from a network: as JSON, and done again to a network of the same structure."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping

import keras
import numpy as np

from tfmot_pam.graph.channels import ChannelGraph
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.following import follow_channels
from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.surgery import remove_channels

_FORMAT = "tfmot_pam pruning history 1"


@dataclasses.dataclass(frozen=True)
class PruningHistory:
    """Which channels were removed, by the layers that write them.

    `strip_pruning` attaches it to its result as `pruning_history`. Use it to document a result, or
    to remove the same channels from another model of the same structure.

    Args:
        widths: The number of channels that each layer wrote before, for layers that lost some.
        removed: For each of them the positions removed, ascending.

    Example:
    >>> history = PruningHistory({"conv": 4}, {"conv": (1, 3)})
    >>> PruningHistory.from_json(history.to_json()) == history
    True
    """

    widths: Mapping[str, int]
    removed: Mapping[str, tuple[int, ...]]

    def to_json(self) -> str:
        """Returns the history as JSON text."""
        content = {
            "format": _FORMAT,
            "widths": dict(self.widths),
            "removed": {name: list(found) for name, found in self.removed.items()},
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PruningHistory:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: the text is not a pruning history, or a damaged one.
        """
        try:
            content = json.loads(text)
            found = content["format"]
            widths = {str(name): int(width) for name, width in content["widths"].items()}
            removed = {str(n): tuple(int(p) for p in ps) for n, ps in content["removed"].items()}
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"The text is no pruning history ({type(error).__name__}: {error}). Expected the "
                "JSON that PruningHistory.to_json() writes. Write it anew."
            ) from error
        damaged = [n for n, ps in removed.items() if any(not 0 <= p < widths.get(n, 0) for p in ps)]
        if found != _FORMAT or damaged:
            raise ValueError(
                f"The pruning history is damaged or of another version: format {found!r}, "
                f"positions out of range in {damaged}. Expected {_FORMAT!r}. Write it anew."
            )
        return cls(widths, removed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the history to a JSON file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningHistory:
        """Reads a history from a JSON file."""
        with open(path, encoding="utf-8") as file:
            return cls.from_json(file.read())

    def apply(self, model: keras.Model) -> keras.Model:
        """Removes the same channels from another model of the same structure and widths.

        Args:
            model: A functional or sequential Keras model.

        Returns:
            A new, smaller model with this history.

        Raises:
            ValueError: the model has not these layers, or they have other widths.
        """
        graph = follow_channels(read(model))
        labels = written_channels(graph)
        other = [n for n, width in self.widths.items() if len(labels.get(n, ())) != width]
        if other:
            raise ValueError(
                f"The model '{model.name}' has no layers {other}, or they have other widths. "
                "Expected a model of the structure that the history was written for. Pass the "
                "model as it was before pruning."
            )
        keep = np.ones(len(graph.space_of), bool)
        for name, positions in self.removed.items():
            keep[labels[name][list(positions)]] = False
        smaller = emit(remove_channels(graph, keep).network)
        smaller.pruning_history = self
        return smaller


def record(graph: ChannelGraph, keep: np.ndarray) -> PruningHistory:
    """The history of one removal: `keep` for each channel of the graph."""
    widths, removed = {}, {}
    for name, labels in written_channels(graph).items():
        gone = np.flatnonzero(~keep[labels])
        if len(gone):
            widths[name], removed[name] = len(labels), tuple(gone.tolist())
    return PruningHistory(widths, removed)


def written_channels(graph: ChannelGraph) -> dict[str, np.ndarray]:
    """The numbers of the channels that each mixing layer writes, by the layer's name."""
    nodes = graph.network.nodes
    return {
        node.layer: graph.labels[Tensor(node.name)]
        for node in nodes
        if graph.roles[node.name] == "mixing"
    }
