"""What was removed from a network: as JSON, and done again to a network of the same structure."""

from __future__ import annotations

import dataclasses
import json
import numbers
import os
import pathlib
import reprlib
from collections.abc import Iterable, Mapping

import keras
import numpy as np

from tflite_export import json_files
from tfmot_pam.graph.attention import attention_apart, attention_together
from tfmot_pam.graph.channels import ChannelGraph
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.following import follow_channels
from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.surgery import remove_channels

_FORMAT = "tfmot_pam pruning history 1"

_HISTORY = json_files.record(
    {
        "format": json_files.one_of(_FORMAT),
        "widths": json_files.table(json_files.whole),
        "removed": json_files.table(json_files.many(json_files.integer)),
    }
)


@dataclasses.dataclass(frozen=True)
class PruningHistory:
    """Which channels were removed, by the layers that write them.

    `strip_pruning` attaches it to its result as `pruning_history`. Use it to document a result, or
    to remove the same channels from another model of the same structure.

    Args:
        widths: The number of channels that each layer wrote before, for layers that lost some.
        removed: For each of them the positions removed, ascending.

    Raises:
        TypeError: the arguments are no dicts of whole numbers.
        ValueError: a position is outside of its layer's width, or stands there twice.

    Example:
    >>> history = PruningHistory({"conv": 4}, {"conv": (1, 3)})
    >>> PruningHistory.from_json(history.to_json()) == history
    True
    """

    widths: Mapping[str, int]
    removed: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        fits = isinstance(self.widths, Mapping) and isinstance(self.removed, Mapping)
        whole = fits and all(
            isinstance(count, numbers.Integral)
            for counts in (self.widths.values(), *self.removed.values())
            for count in (counts if isinstance(counts, Iterable) else [None])
        )
        if not whole:
            raise TypeError(
                f"Received widths={self.widths!r} and removed={self.removed!r}. Expected dicts by "
                "layer, of a width and of the positions removed, whole numbers. Pass such as "
                "({'conv': 4}, {'conv': (1, 3)})."
            )
        if unknown := sorted(set(self.removed) - set(self.widths), key=str):
            raise ValueError(
                f"Received removed positions of {unknown}, which have no widths. Expected the "
                f"layers {sorted(self.widths, key=str)}. Add the others to `widths`."
            )
        for name, found in self.removed.items():
            width = self.widths[name]
            if len(set(found)) != len(found) or any(not 0 <= place < width for place in found):
                raise ValueError(
                    f"Received the removed positions {reprlib.repr(list(found))} of '{name}', "
                    f"which has {width} channels. Expected positions from 0 to {width - 1}, each "
                    "once. Take the others out."
                )

    def to_json(self) -> str:
        """Returns the history as JSON text."""
        content = {
            "format": _FORMAT,
            "widths": {name: int(width) for name, width in self.widths.items()},
            "removed": {name: [int(p) for p in found] for name, found in self.removed.items()},
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> PruningHistory:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: the text is not a pruning history, or a damaged one.
        """
        try:
            content = json_files.parse(text)
            _HISTORY(content, "the history")
            removed = {name: tuple(found) for name, found in content["removed"].items()}
            return cls(content["widths"], removed)
        except ValueError as error:
            raise ValueError(
                f"The text is no pruning history, or a damaged one: {error}. Expected the JSON "
                "that PruningHistory.to_json() writes. Write it anew."
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the history to a JSON file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningHistory:
        """Reads a history from a JSON file."""
        return cls.from_json(pathlib.Path(path).read_bytes())

    def apply(self, model: keras.Model) -> keras.Model:
        """Removes the same channels from another model of the same structure and widths.

        Args:
            model: A functional or sequential Keras model.

        Returns:
            A new, smaller model with this history.

        Raises:
            ValueError: the model has not these layers, or they have other widths.
        """
        graph = follow_channels(attention_apart(read(model)))
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
        smaller = emit(attention_together(remove_channels(graph, keep).network))
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
