"""Rules of wrappers: layers that call another one, at each step, both ways, or normalised.

A wrapper's rule is the rule of the layer that it is put around, which is shown a call of that layer
alone: its class, its configuration, its shapes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfmot_pam.graph.network import Layer, Shape
from tfmot_pam.graph.rules import (
    Axes,
    Call,
    Cost,
    LayerRule,
    is_keras_class,
    without_built_shapes,
    written_by_keras,
)

RuleOf = Callable[[Call], LayerRule | None]

_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")


def wrapper_rule(call: Call, rule_of: RuleOf) -> LayerRule | None:
    """The rule of a call of one of Keras's wrappers; None where it is none, or its layer has none.

    Args:
        call: Any call.
        rule_of: Finds the rule of a call of the layer inside.
    """
    kind = call.layer.kind if is_keras_class(call.layer.cls) else None
    if kind == "TimeDistributed":
        return _each_step(call, rule_of)
    if kind == "SpectralNormalization":
        return _normalised(call, rule_of)
    return _both_ways(call, rule_of) if kind == "Bidirectional" else None


def _inner(call: Call, key: str = "layer", stepwise: bool = False) -> Call:
    """A call as the layer sees it that is written out in its configuration.

    A layer of a class that is not known is seen as the one that has no rule, a bare `Layer`.

    Args:
        call: A call of a wrapper.
        key: The entry of the configuration.
        stepwise: Whether it sees one step of each tensor, which are its first axis.
    """
    written = without_built_shapes(call.layer.config)[key]
    cls = getattr(keras.layers, written["class_name"], None) if written_by_keras(written) else None
    if cls is None:
        cls = keras.saving.get_registered_object(written.get("registered_name"))
    cls = keras.layers.Layer if cls is None else cls
    layer = Layer(call.layer.name, cls, written["config"], call.layer.weights, call.layer.tasks)
    if not stepwise:
        return dataclasses.replace(call, layer=layer)
    shapes = tuple(_step(shape) for shape in call.in_shapes)
    return dataclasses.replace(call, layer=layer, in_shapes=shapes, out_shape=_step(call.out_shape))


def _step(shape: Shape) -> Shape:
    return shape and (shape[0], *shape[2:])


def _each_step(call: Call, rule_of: RuleOf) -> LayerRule | None:
    """TimeDistributed: the rule of its layer, on shapes without the time axis."""

    def inner(call: Call) -> Call:
        return _inner(call, stepwise=True)

    rule = rule_of(inner(call)) if min(map(len, call.in_shapes)) >= 3 else None
    if rule is None or rule.role not in ("mixing", "channelwise"):
        return None
    return _around(rule, inner, lambda call: call.in_shape[1])


def _normalised(call: Call, rule_of: RuleOf) -> LayerRule | None:
    """SpectralNormalization: in inference it is the layer that it is put around."""
    rule = rule_of(_inner(call))
    if rule is None or rule.role != "mixing":
        return None
    rule = dataclasses.replace(rule, frozen=rule.frozen or "its weights are normalised together")
    return _around(rule, _inner, lambda call: 1)


def _around(
    rule: LayerRule, inner: Callable[[Call], Call], steps: Callable[[Call], int]
) -> LayerRule:
    """The rule of a wrapper, from that of its layer and what shows that layer a call."""
    counted, sources = rule.macs, rule.sources

    def resize(
        config: Mapping[str, Any], call: Call, in_width: int, out_width: int
    ) -> dict[str, Any]:
        config = without_built_shapes(call.layer.config)
        changed = rule.resized(inner(call), in_width, out_width)
        return {**config, "layer": {**config["layer"], "config": changed}}

    def each_step(cost: Cost, count: int) -> Cost:
        return Cost(count * cost.macs, count * cost.outputs)

    return dataclasses.replace(
        rule,
        check=lambda call: rule.check(inner(call)),
        sources=sources and (lambda call, width: sources(inner(call), width)),
        resize=resize,
        macs=counted and (lambda call: each_step(counted(inner(call)), steps(call))),
    )


def _both_ways(call: Call, rule_of: RuleOf) -> LayerRule | None:
    """Bidirectional: two recurrent layers that read the same channels."""
    ways = ("layer", "backward_layer")
    found = [_inner(call, way) for way in ways if call.layer.config.get(way)]
    if len(found) < 2 or any(one.layer.kind not in _RECURRENT for one in found):
        return None
    rules = [rule for rule in map(rule_of, found) if rule is not None]
    counted = [rule.macs for rule in rules if rule.macs is not None]
    if len(rules) < 2:
        return None

    def check(call: Call) -> str | None:
        reasons = (rule.check(_inner(call, w)) for rule, w in zip(rules, ways, strict=True))
        return next((reason for reason in reasons if reason is not None), None)

    def macs(call: Call) -> Cost:
        costs = [count(_inner(call, way)) for count, way in zip(counted, ways, strict=True)]
        return Cost(sum(cost.macs for cost in costs), sum(cost.outputs for cost in costs))

    weights: Mapping[str, Axes] = {name: Axes(inputs=-2) for name in ("kernel", "kernel_1")}
    both = macs if len(counted) == 2 else None
    return dataclasses.replace(rules[0], weights=weights, check=check, macs=both)
