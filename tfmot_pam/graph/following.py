"""The channel graph of a network whose channels are only removed, not put in another order."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfmot_pam.graph.channels import ChannelGraph, Tracing, copied_because, rule_of
from tfmot_pam.graph.network import Network, Node, Tensor, iterate_tensors
from tfmot_pam.graph.rearranging import (
    Placed,
    along_one_axis,
    columns_of,
    may_rearrange,
    moved_entries,
    picked_positions,
    placed,
)
from tfmot_pam.graph.rules import Call, call_of


def follow_channels(network: Network) -> ChannelGraph:
    """Traces channels as `build_channel_graph` does, and through more layers.

    Use it to remove channels. They are followed through splits, slices and channel shuffles, and
    all calls of a layer that is called several times read and write the same channels.

    Args:
        network: Any network; layers without a rule freeze the spaces they touch.

    Returns:
        The channel graph.
    """
    tracing = _Following(network)
    for node in network.nodes:
        tracing.visit(node)
    return tracing.finish()


class _Following(Tracing):
    """Follows channels through layers that rearrange them, and through several calls of one."""

    def __init__(self, network: Network):
        super().__init__(network)
        # Of tensors that have channels on several axes, the entries of their sources.
        self.entries: dict[Tensor, np.ndarray] = {}
        self.first_calls: dict[str, tuple[Tensor, Tensor]] = {}

    def visit(self, node: Node) -> None:
        # Several calls are no reason to freeze what one layer reads and writes.
        call = dataclasses.replace(call_of(self.network, node, self.calls), calls=1)
        if may_rearrange(call) and (self._pick(node, call) or self._move(node, call)):
            self.roles[node.name] = "rearranged"
            return
        for tensor in node.inputs:
            self._bring_to_last_axis(tensor)
        self.trace(node, call)
        if self.calls[node.layer] > 1 and call.layer.weights:
            self._tie_calls(node)

    def finish(self) -> ChannelGraph:
        for tensor in iterate_tensors(self.network.outputs):
            self._bring_to_last_axis(tensor)
        return super().finish()

    def _has_rule(self, node: Node, call: Call) -> bool:
        rule = rule_of(call) if node.inputs else None
        ins = [self.labels[tensor] for tensor in node.inputs]
        return rule is not None and copied_because(call, rule, ins) is None

    def _pick(self, node: Node, call: Call) -> bool:
        """Follows a layer that picks channels, if this is one."""
        if self.entries.keys() & set(node.inputs) or self._has_rule(node, call):
            return False
        found = picked_positions(call)
        for tensor, positions in zip(node.outputs, found or (), strict=False):
            self.placed[tensor] = Placed(node.inputs[0], positions, True)
            self.labels[tensor] = self.labels[node.inputs[0]][positions]
        return found is not None

    def _move(self, node: Node, call: Call) -> bool:
        """Follows a layer that moves channels to other axes, if this is one."""
        follows = node.inputs and node.inputs[0] in self.entries
        if not follows and self._has_rule(node, call):
            return False
        entries = moved_entries(call, self.entries[node.inputs[0]] if follows else None)
        if entries is None:
            return False
        (tensor,), (before,) = node.outputs, node.inputs
        source = self.placed[before].source if follows else before
        self.placed[tensor] = found = placed(entries, source, self.network.shape(source))
        labels = self.labels[source]
        self.labels[tensor] = labels[found.positions.ravel()] if found.picked else labels
        if not found.picked:
            self.entries[tensor] = entries
        return True

    def _bring_to_last_axis(self, tensor: Tensor) -> None:
        """Ties the channels of a tensor that are at one place of its last axis."""
        if tensor not in self.entries or self.roles[tensor.node] == "copied":
            return
        source, before = self.placed[tensor].source, tensor
        labels = self.labels[source]
        columns = columns_of(self.entries[tensor], len(labels))
        # What is left of a tensor with channels on several axes must have no gaps.
        while columns is not None and before != source:
            if not along_one_axis(columns[self.placed[before].positions]):
                columns = None
            (before,) = self.network.node(before.node).inputs
        if columns is None:
            node = self.network.node(tensor.node)
            self.copy(node, [labels], "it spreads channels over several axes")
            return
        first = labels[np.unique(columns, return_index=True)[1]]
        self.ties.append(np.stack([first[columns], labels]))
        self.labels[tensor] = first

    def _tie_calls(self, node: Node) -> None:
        """One layer reads the same channels in all of its calls, and writes the same ones."""
        if self.roles[node.name] == "copied":
            return
        tensors = node.inputs[0], Tensor(node.name)
        firsts = self.first_calls.setdefault(node.layer, tensors)
        for mine, first in zip(tensors, firsts, strict=True):
            self.ties.append(np.stack([self.labels[first], self.labels[mine]]))
