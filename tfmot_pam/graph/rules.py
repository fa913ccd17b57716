"""How one kind of layer treats channels: the form of a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfmot_pam.graph.network import Layer, MaybeNone, Network, Node, Shape

Role = Literal["mixing", "channelwise", "join", "concatenate"]

# Wrappers that call one layer and nothing else, and all layers that write others out.
TRANSPARENT = frozenset({"TimeDistributed", "SpectralNormalization"})
_WRITE_OUT = TRANSPARENT | {"Bidirectional", "RNN"}


@dataclasses.dataclass(frozen=True)
class Axes:
    """Which axes of a weight run over the layer's input channels and over its output channels.

    Args:
        inputs: Axis over input channels, or None.
        outputs: Axis over output channels, or None.
        fanout: Entries of the `inputs` axis per input channel, the channel outermost.
        fill: The value that leaves a channel without trained weights as it is.
        later: Whether it is applied to what another weight of the layer has made of the input.
    """

    inputs: int | None = None
    outputs: int | None = None
    fanout: Callable[[Mapping[str, Any]], int] = lambda config: 1
    fill: float = 0.0
    later: bool = False

    def resized(
        self, shape: Sequence[int], config: Mapping[str, Any], inputs: int, outputs: int
    ) -> list[int]:
        """The shape of a weight with other numbers of channels."""
        result = list(shape)
        if self.inputs is not None:
            result[self.inputs] = inputs * self.fanout(config)
        if self.outputs is not None:
            result[self.outputs] = outputs
        return result

    def index(
        self,
        shape: Sequence[int],
        config: Mapping[str, Any],
        inputs: np.ndarray | None = None,
        outputs: np.ndarray | None = None,
    ) -> tuple[np.ndarray, ...]:
        """Where a weight's entries of some channels are, in their order; None stands for all."""
        places: list[np.ndarray] = [np.arange(size) for size in shape]
        if self.inputs is not None and inputs is not None:
            fanout = self.fanout(config)
            places[self.inputs] = (inputs[:, None] * fanout + np.arange(fanout)).ravel()
        if self.outputs is not None and outputs is not None:
            places[self.outputs] = outputs
        return np.ix_(*places)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer as its rule sees it: configuration, weights and shapes."""

    node: Node
    layer: Layer
    in_shapes: tuple[Shape, ...]
    out_shape: Shape | MaybeNone  # None where nobody reads it
    calls: int

    @property
    def config(self) -> Mapping[str, Any]:
        return seen_config(self.layer)

    @property
    def in_shape(self) -> Shape:
        return self.in_shapes[0]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Multiply-accumulates per sample, and the additions that the paper's FLOPs leave out.

    A convolution of `macs` = K x outputs costs 2 macs - outputs FLOPs in the paper's convention.
    """

    macs: int
    outputs: int


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """How one kind of layer treats the channels of its inputs (their last axis).

    Args:
        role: `mixing` reads all channels and writes new ones (convolutions, dense layers);
            `channelwise` computes every output channel from one input channel; `join` combines
            several inputs channel by channel (Add); `concatenate` puts channels side by side.
        weights: The channel axes of each weight, by the weight's name. Weights that are not
            listed do not depend on channels.
        width: The configuration entry that holds the number of output channels.
        frozen: For mixing layers: why the channels they write cannot be regrouped, or None.
        check: Says why this call's channels cannot be taken apart, or returns None.
        sources: For channelwise layers: the input position that each output position comes from,
            or a row of positions where it comes from several (those then stay together), given
            the call and the number of input channels. None: the same position.
        blocks: For joins of layers whose inputs have several channels for one another: how many
            blocks of channels there are, each of which stays together. The inputs and the output
            have them in the same order, and in widths of their own.
        resize: Returns the configuration for other numbers of input and output channels.
        free: Configuration entries in which the merged layers may differ.
        macs: Multiply-accumulate operations per sample, given the call. None: none are counted.
        like: For classes of your own: the name of the Keras layer that they compute like, with
            weights and entries of the configuration of the same names, such as `"Dense"` for a
            subclass. They are then fitted in closed form, rated and folded as that layer is.
    """

    role: Role
    weights: Mapping[str, Axes] = dataclasses.field(default_factory=dict)
    width: str | None = None
    frozen: str | None = None
    check: Callable[[Call], str | None] = lambda call: None
    sources: Callable[[Call, int], np.ndarray] | None = None
    blocks: Callable[[Call], int] | None = None
    resize: Callable[[Mapping[str, Any], Call, int, int], dict[str, Any]] | None = None
    free: tuple[str, ...] = ()
    macs: Callable[[Call], Cost] | None = None
    like: str | None = None

    def resized(self, call: Call, in_width: int, out_width: int) -> dict[str, Any]:
        """The layer's configuration for `in_width` input and `out_width` output channels."""
        config = dict(call.config)
        if self.width is not None:
            config[self.width] = out_width
        if self.resize is not None:
            config = self.resize(config, call, in_width, out_width)
        return config

    def source_positions(self, call: Call, in_width: int) -> np.ndarray:
        """The input positions that each of the layer's output positions comes from, as rows."""
        sources = np.arange(in_width) if self.sources is None else self.sources(call, in_width)
        return sources.reshape(len(sources), -1)


def seen_config(layer: Layer) -> Mapping[str, Any]:
    """A layer's configuration as rules see it: that of what a wrapper is around lies open in it.

    What layers were built for is left out: that follows from what feeds them.
    """
    if layer.kind not in _WRITE_OUT or not is_keras_class(layer.cls):
        return layer.config
    return _opened(layer.kind, without_built_shapes(layer.config))


def _opened(kind: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    if kind not in TRANSPARENT:
        return config
    inner = config["layer"]
    shown = _opened(inner["class_name"], inner["config"])
    return {**config, **shown, "layer": [inner["class_name"], shown.get("layer")]}


def without_built_shapes(value: Any) -> Any:
    """A configuration without the shapes that layers written out in it were built for."""
    if isinstance(value, Mapping):
        return {k: without_built_shapes(v) for k, v in value.items() if k != "build_config"}
    return [without_built_shapes(v) for v in value] if isinstance(value, list) else value


def written_by_keras(layer: Mapping[str, Any]) -> bool:
    """Whether a layer that is written out in a configuration is one of Keras itself."""
    return str(layer.get("module")).split(".")[0] in ("keras", "tf_keras")


def is_keras_class(cls: type) -> bool:
    """Whether a class is one of Keras itself."""
    return cls.__module__.split(".")[0] in ("keras", "tf_keras")


def grouped_convolution(call: Call) -> bool:
    """Whether a call is a convolution whose blocks of channels do not mix."""
    return call.config.get("groups", 1) > 1 and "filters" in call.config


def call_of(network: Network, node: Node, calls: Mapping[str, int]) -> Call:
    """The view of one node that rules are given."""
    return Call(
        node=node,
        layer=network.layer_of(node),
        in_shapes=tuple(network.shape(tensor) for tensor in node.inputs),
        out_shape=node.shapes[0],
        calls=calls[node.layer],
    )
