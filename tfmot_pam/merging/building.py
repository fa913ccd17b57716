"""A merged network while it is written: what every network's tensors have become so far."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmot_pam.graph.heads import common_inputs
from tfmot_pam.graph.network import Network, Tensor
from tfmot_pam.graph.rules import Call
from tfmot_pam.graph.slicing import Layout
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.grouping import Grouping, everything, group_order, numbers_of_one
from tfmot_pam.merging.pieces import Piece, seen_by_others, with_fused
from tfmot_pam.merging.writer import MergeWriter

Calls = Mapping[int, Call]  # corresponding calls by network


class IrregularLayout(Exception):
    """Tied tensors whose channels cannot be put in one order.

    Args:
        index: The network.
        node: Its node that would combine them.
    """

    def __init__(self, index: int, node: str):
        super().__init__(index, node)
        self.index, self.node = index, node


class Building:
    """The merged nodes so far, and the pieces of every network's tensors in them.

    Args:
        alignment: The aligned networks.
        grouping: The task set of every channel.
        own_width: See `assemble`.
    """

    def __init__(self, alignment: Alignment, grouping: Grouping, own_width: bool):
        self.alignment = alignment
        self.own_width = own_width
        self.grouping = grouping
        self.numbers = numbers_of_one(alignment, grouping) if grouping.fused else None
        self.everyone = everything(len(alignment.tasks))
        self.writer = MergeWriter(alignment)
        self.inputs: dict[str, Tensor] = {}
        self.by_name = isinstance(
            common_inputs({str(k): network for k, network in enumerate(alignment.networks)}),
            Mapping,
        )
        # The pieces of each tensor, by network: the trunk's are listed under every network.
        self.values: list[dict[Tensor, list[Piece]]] = [{} for _ in alignment.networks]
        self.copies: dict[tuple[int, str, int], str] = {}

    def network(self, name: str, outputs: Any) -> Network:
        """What is written, with these outputs."""
        return Network(
            name=name,
            layers=self.writer.layers,
            nodes=tuple(self.writer.nodes.values()),
            inputs=tuple(self.inputs.values()),
            outputs=outputs,
            dict_inputs=self.by_name,
        )

    def is_frozen(self, calls: Calls) -> bool:
        """Whether a network's channels there stay as they are."""
        for k, call in calls.items():
            graph = self.alignment.graphs[k]
            for space in graph.spaces_of(Tensor(call.node.name)):
                if graph.spaces[space].frozen or self.is_frozen_space(k, space):
                    return True
        return False

    def is_frozen_space(self, k: int, space: int) -> bool:
        """Whether the trunk space that holds a network's space is frozen."""
        first = self.alignment.graphs[k].spaces[space].channels[0]
        return any(
            found.frozen is not None and first in found.channels[k]
            for found in self.alignment.spaces
        )

    def input_pieces(self, calls: Calls) -> list[Piece]:
        """All that the calls read."""
        return [
            piece
            for k, call in calls.items()
            for tensor in call.node.inputs
            for piece in self.pieces(k, tensor)
        ]

    def pieces(self, k: int, tensor: Tensor) -> list[Piece]:
        return self.values[k][tensor]

    def store(self, calls: Calls, pieces: list[Piece], output: int = 0) -> None:
        """Notes what an output of the calls has become."""
        pieces = sorted(pieces, key=lambda piece: group_order(piece.mask))
        for k, call in calls.items():
            self.values[k][Tensor(call.node.name, output)] = pieces

    def labels(self, k: int, tensor: Tensor) -> np.ndarray:
        return self.alignment.graphs[k].labels[tensor]

    def whole(self, k: int, tensor: Tensor) -> Tensor:
        """One network's tensor with all of its channels in their original order."""
        own = [piece for piece in self.pieces(k, tensor) if piece.layout.of(k).all()]
        if not own:
            return self._stand_in(k, tensor).tensor
        own.sort(key=lambda piece: int(piece.layout.at(k)[0]))
        result, layout = self.side_by_side(own)
        if not np.array_equal(layout.at(k), np.arange(len(self.labels(k, tensor)))):
            raise IrregularLayout(k, tensor.node)
        return result

    def _stand_in(self, k: int, tensor: Tensor) -> Piece:
        """Another network's channels, where they serve this one's task in place of its own."""
        places = np.arange(len(self.labels(k, tensor)))
        for piece in self.pieces(k, tensor):
            if np.array_equal(piece.layout.positions, places):
                return piece
        raise IrregularLayout(k, tensor.node)

    def side_by_side(self, pieces: list[Piece]) -> tuple[Tensor, Layout]:
        """The pieces' channels in one tensor."""
        layout = Layout.concatenate([piece.layout for piece in pieces])
        mask = functools.reduce(operator.and_, (piece.mask for piece in pieces))
        tensors = [piece.tensor for piece in pieces]
        return self.writer.side_by_side(tensors, self.writer.task_names(mask)), layout

    def seen_by_others(self, calls: Calls, layout: Layout, output: int = 0) -> Layout:
        """The layout of a layer's output with what other channels its own ones stand for."""
        labels = {k: self.labels(k, Tensor(call.node.name, output)) for k, call in calls.items()}
        if self.alignment.identical is not None and len(calls) > 1:
            identical = self.alignment.identical
            layout = seen_by_others(layout, {k: identical[k][own] for k, own in labels.items()})
        if self.numbers is None:
            return layout
        return with_fused(layout, {k: self.numbers[k][own] for k, own in labels.items()}, labels)

    def origin(self, calls: Calls) -> tuple[str | None, ...]:
        """The node of each network that takes part."""
        return tuple(
            calls[k].node.name if k in calls else None for k in range(len(self.alignment.networks))
        )
