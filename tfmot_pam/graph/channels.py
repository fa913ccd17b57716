"""The channel graph: which tensor axes carry which channels, and which must stay together.

Every position of every tensor's last axis is given the number of the channel that it carries.
Layers that combine tensors channel by channel (Add, a gate's Multiply) tie the channels at equal
positions into one; so do grouped convolutions within a block. Channels that one layer writes, and
those tied to them, form a *space*. The idea of removing what depends on each other together is
DepGraph's (Fang et al., CVPR 2023, section 3); tracking single positions makes concatenation,
flattening and depth multipliers the same case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import scipy.sparse

from tfmot_pam.graph.network import Network, Node, Tensor
from tfmot_pam.graph.rearranging import Placed
from tfmot_pam.graph.registry import find_rule
from tfmot_pam.graph.rule_table import GROUPED_CONV, KEEP, activation_reason
from tfmot_pam.graph.rules import Call, LayerRule, call_of, grouped_convolution
from tfmot_pam.graph.wrappers import wrapper_rule


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """Channels that keep one common order: those of a layer and of everything tied to it.

    Args:
        name: The first node that writes it.
        channels: Numbers of its channels, in the order of the first tensor that carries them.
        segments: For each channel, which part of the space it belongs to. Parts differ in the
            set of layers that write them, as where a concatenation is added to one tensor.
        writers: Nodes that write its channels.
        members: Nodes that pass its channels on.
        readers: Nodes that mix its channels into new ones.
        frozen: Why its channels cannot be regrouped, or None.
        given: Whether its channels come from the network's input without being mixed.
    """

    name: str
    channels: np.ndarray
    segments: np.ndarray
    writers: tuple[str, ...]
    members: tuple[str, ...]
    readers: tuple[str, ...]
    frozen: str | None
    given: bool

    @property
    def width(self) -> int:
        return len(self.channels)

    def __str__(self) -> str:
        state = " (input)" if self.given else f" (frozen: {self.frozen})" if self.frozen else ""
        lines = [f"{self.name}: {self.width} channels{state}"]
        for title, names in (
            ("written by", self.writers),
            ("kept by", self.members),
            ("read by", self.readers),
        ):
            if names:
                lines.append(f"  {title} {', '.join(names)}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The channels of one network.

    Args:
        network: The network.
        labels: For each tensor, the channel number at each position of its last axis; all
            channels of a tensor that has them on several axes.
        spaces: The channel spaces, in topological order of their first writer.
        space_of: For each channel number, the index of its space.
        roles: How each node treats channels; `copied` where it has no usable rule.
        reasons: Why nodes are copied, by node.
        placed: For each tensor that a layer has rearranged, where its channels are in another one.
    """

    network: Network
    labels: Mapping[Tensor, np.ndarray]
    spaces: tuple[Space, ...]
    space_of: np.ndarray
    roles: Mapping[str, str]
    reasons: Mapping[str, str]
    placed: Mapping[Tensor, Placed] = dataclasses.field(default_factory=dict)

    def rule(self, node: Node) -> LayerRule:
        return known_rule(self.call(node))

    def call(self, node: Node, calls: Mapping[str, int] | None = None) -> Call:
        """A node as its rule sees it; `calls` saves counting the layers' calls anew."""
        return call_of(self.network, node, self.network.calls() if calls is None else calls)

    def spaces_of(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.space_of[self.labels[tensor]].tolist()))

    def of(self, network: Network) -> ChannelGraph:
        """The graph of the same network with other weights."""
        return dataclasses.replace(self, network=network)

    def __str__(self) -> str:
        return "\n".join(str(space) for space in self.spaces)


def rule_of(call: Call) -> LayerRule | None:
    """The rule of a call, after the choices that its configuration makes; None where none is."""
    rule = find_rule(call.layer.cls)
    if rule is None:
        return wrapper_rule(call, rule_of)
    if grouped_convolution(call):
        return GROUPED_CONV
    if rule.role == "join" and len(call.in_shapes) == 1:
        return dataclasses.replace(KEEP, check=rule.check)
    if rule.role == "concatenate":
        axis = call.config.get("axis", -1)
        if axis % len(call.in_shape) != len(call.in_shape) - 1:
            return dataclasses.replace(rule, role="join")
    return rule


def known_rule(call: Call) -> LayerRule:
    """The rule of a call that has one, such as any whose role in a channel graph is not `copied`.

    Raises:
        ValueError: it has none.
    """
    rule = rule_of(call)
    if rule is None:
        raise ValueError(
            f"There is no rule for {_title(call)}. Expected a layer whose channels are followed. "
            "Give its class one with tfmot_pam.register_layer_rule."
        )
    return rule


def build_channel_graph(network: Network, given: Collection[str] = ()) -> ChannelGraph:
    """Traces the channels of a network from its inputs to its outputs.

    Layers that are called several times stay whole, and those that pick or move channels by their
    places: merging writes channels in other orders. Where they are only removed, see
    `following.follow_channels`.

    Args:
        network: Any network; layers without a rule freeze the spaces they touch.
        given: Nodes whose channels count as the network's input does: they are there as they are,
            and whatever reads them reads all. Their role is `copied`.

    Returns:
        The channel graph; `print(graph)` lists spaces, members, widths and who reads whom.
    """
    tracing = Tracing(network, frozenset(given))
    for node in network.nodes:
        tracing.visit(node)
    return tracing.finish()


_Labels = list[np.ndarray]


class Tracing:
    """Numbers positions, collects ties, and closes them at the end."""

    def __init__(self, network: Network, given: frozenset[str] = frozenset()):
        self.network = network
        self.taken_as_given = given
        self.calls = network.calls()
        self.labels: dict[Tensor, np.ndarray] = {}
        self.roles: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.count = 0
        self.writers: list[str] = []  # of each block of channels that were written together
        self.starts: list[int] = []  # the first channel of each block
        self.ties: list[np.ndarray] = []
        self.frozen: list[tuple[np.ndarray, str]] = []
        self.given: set[int] = set()
        self.placed: dict[Tensor, Placed] = {}

    def visit(self, node: Node) -> None:
        self.trace(node, call_of(self.network, node, self.calls))

    def trace(self, node: Node, call: Call) -> None:
        """Numbers what a node writes, by the rule of its layer."""
        ins = [self.labels[tensor] for tensor in node.inputs]
        if not ins:
            self._write(node, given=True)
            self.roles[node.name] = "input"
            return
        if node.name in self.taken_as_given:
            self._write(node, given=True)
            self.roles[node.name] = "copied"
            return
        rule = rule_of(call)
        if rule is None:
            self.copy(node, ins, "there is no rule for this kind of layer")
            return
        reason = copied_because(call, rule, ins)
        if reason is not None:
            self.copy(node, ins, reason)
            return
        self.roles[node.name] = rule.role
        visits = {
            "mixing": self._visit_mixing,
            "channelwise": self._visit_channelwise,
            "join": self._visit_join,
            "concatenate": self._visit_concatenate,
        }
        visits[rule.role](node, call, rule, ins)

    def _visit_mixing(self, node: Node, call: Call, rule: LayerRule, ins: _Labels) -> None:
        self._write(node)
        reason = rule.frozen or activation_reason(call.config)
        if reason is not None:
            self.frozen.append((self.labels[Tensor(node.name)], f"{_title(call)}: {reason}"))

    def _visit_channelwise(self, node: Node, call: Call, rule: LayerRule, ins: _Labels) -> None:
        labels = ins[0]
        sources = rule.source_positions(call, len(labels))
        first, *others = labels[sources].T
        self.ties.extend(np.stack([first, other]) for other in others)
        self.labels[Tensor(node.name)] = first

    def _visit_join(self, node: Node, call: Call, rule: LayerRule, ins: _Labels) -> None:
        if rule.blocks is not None:
            self._join_blocks(node, rule.blocks(call), ins)
            return
        self.ties.extend(np.stack([ins[0], other]) for other in ins[1:])
        self.labels[Tensor(node.name)] = ins[0]

    def _join_blocks(self, node: Node, count: int, ins: _Labels) -> None:
        """Ties the channels of each block, in all inputs."""
        firsts = ins[0].reshape(count, -1)[:, 0]
        for labels in ins:
            blocks = labels.reshape(count, -1)
            self.ties.append(np.stack([np.repeat(firsts, blocks.shape[1]), blocks.ravel()]))
        (width,) = (shape[-1] for shape in node.shapes)
        self.labels[Tensor(node.name)] = np.repeat(firsts, width // count)

    def _visit_concatenate(self, node: Node, call: Call, rule: LayerRule, ins: _Labels) -> None:
        self.labels[Tensor(node.name)] = np.concatenate(ins)

    def copy(self, node: Node, ins: _Labels, reason: str) -> None:
        """Freezes what a node reads and writes."""
        layer = self.network.layer_of(node)
        text = f"{layer.kind} '{layer.name}': {reason}"
        self.roles[node.name] = "copied"
        self.reasons[node.name] = text
        given = all(self._is_given(labels) for labels in ins)
        for labels in ins:
            if not self._is_given(labels):
                self.frozen.append((labels, text))
        self._write(node, given=given)
        if not given:
            self.frozen.extend((self.labels[tensor], text) for tensor in node.outputs)

    def _is_given(self, labels: np.ndarray) -> bool:
        return all(block in self.given for block in {self._block(x) for x in labels.tolist()})

    def _block(self, channel: int) -> int:
        return int(np.searchsorted(self.starts, channel, side="right") - 1)

    def _write(self, node: Node, given: bool = False) -> None:
        """Gives every output of `node` channels of its own."""
        for tensor, shape in zip(node.outputs, node.shapes, strict=True):
            width = 1 if not shape or len(shape) < 2 or shape[-1] is None else shape[-1]
            self.labels[tensor] = np.arange(self.count, self.count + width)
            if given:
                self.given.add(len(self.starts))
            self.starts.append(self.count)
            self.writers.append(node.name)
            self.count += width

    def finish(self) -> ChannelGraph:
        channel = _components(self.count, self.ties)
        widths = np.diff([*self.starts, self.count])
        blocks = np.repeat(np.arange(len(widths)), widths)
        labels = {tensor: channel[values] for tensor, values in self.labels.items()}
        total = int(channel.max(initial=-1)) + 1
        space_of, raw_space = _group_spaces(channel, blocks, total, len(self.writers))
        frozen: dict[int, str] = {}
        for values, reason in self.frozen:
            for space in np.unique(space_of[channel[values]]).tolist():
                frozen.setdefault(space, reason)
        given = {int(raw_space[block]) for block in self.given}
        spaces = self._spaces(channel, blocks, space_of, frozen, given, labels)
        return ChannelGraph(
            self.network, labels, spaces, space_of, self.roles, self.reasons, self.placed
        )

    def _spaces(
        self,
        channel: np.ndarray,
        blocks: np.ndarray,
        space_of: np.ndarray,
        frozen: Mapping[int, str],
        given: Collection[int],
        labels: Mapping[Tensor, np.ndarray],
    ) -> tuple[Space, ...]:
        roles = self._members(space_of, labels)
        spaces = []
        for index in range(int(space_of.max(initial=-1)) + 1):
            channels = np.flatnonzero(space_of == index)
            inside = space_of[channel] == index
            own = np.unique(blocks[inside])
            reason = frozen.get(index)
            if index in given and len(own) > 1 and reason is None:
                reason = "it is combined with what is given, such as the network's input"
            writers = tuple(dict.fromkeys(self.writers[block] for block in own))
            spaces.append(
                Space(
                    name=writers[0],
                    channels=channels,
                    segments=_segments(channel[inside], blocks[inside], channels),
                    writers=writers,
                    members=tuple(roles.get((index, "members"), ())),
                    readers=tuple(roles.get((index, "readers"), ())),
                    frozen=reason,
                    given=index in given and len(own) == 1,
                )
            )
        return tuple(spaces)

    def _members(
        self, space_of: np.ndarray, labels: Mapping[Tensor, np.ndarray]
    ) -> dict[tuple[int, str], list[str]]:
        found: dict[tuple[int, str], list[str]] = {}
        for node in self.network.nodes:
            role = self.roles[node.name]
            title = "readers" if role in ("mixing", "copied") else "members"
            for tensor in node.inputs:
                for space in np.unique(space_of[labels[tensor]]).tolist():
                    names = found.setdefault((space, title), [])
                    if node.name not in names:
                        names.append(node.name)
        return found


def _title(call: Call) -> str:
    return f"{call.layer.kind} '{call.layer.name}'"


def copied_because(call: Call, rule: LayerRule, ins: _Labels) -> str | None:
    """Why a call that has a rule is copied as it is instead of being taken apart."""
    if any(shape is None or len(shape) < 2 or shape[-1] is None for shape in call.in_shapes):
        return "the number of its input channels is not known"
    if call.out_shape is None or len(call.node.shapes) != 1:
        return "it has several outputs"
    if rule.role in ("mixing", "channelwise") and len(call.in_shapes) > 1:
        return "it has several inputs"
    widths = {len(labels) for labels in ins}
    if rule.role == "join" and rule.blocks is None and len(widths) > 1:
        return f"it combines tensors of {sorted(widths)} channels"
    return rule.check(call)


def _components(count: int, ties: list[np.ndarray]) -> np.ndarray:
    """Connected components of `count` numbers, numbered by first appearance."""
    pairs = np.concatenate(ties, axis=1) if ties else np.zeros((2, 0), int)
    graph = scipy.sparse.coo_matrix(
        (np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(count, count)
    )
    _, found = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    rank = np.empty(len(first), int)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _group_spaces(
    channel: np.ndarray, blocks: np.ndarray, total: int, block_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The space of each channel and of each block: blocks that share a channel are one space."""
    first_block = np.full(total, -1)
    first_block[channel[::-1]] = blocks[::-1]
    pairs = np.stack([first_block[channel], blocks]) if len(channel) else np.zeros((2, 0), int)
    space_of_block = _components(block_count, [pairs])
    return space_of_block[first_block], space_of_block


def _segments(channel: np.ndarray, blocks: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Numbers the parts of a space by the set of blocks that write each channel."""
    written: dict[int, set[int]] = {}
    for number, block in zip(channel.tolist(), blocks.tolist(), strict=True):
        written.setdefault(number, set()).add(block)
    numbers: dict[frozenset[int], int] = {}
    return np.array(
        [numbers.setdefault(frozenset(written[c]), len(numbers)) for c in channels.tolist()]
    )
