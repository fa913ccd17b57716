"""The registry of layer rules: the users' own, then the built-in ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from tfmot_pam.graph.network import Layer
from tfmot_pam.graph.rule_table import BUILT_IN_RULES
from tfmot_pam.graph.rules import Axes, LayerRule, Role, is_keras_class

# The one table that users add to; everything else reads it through `find_rule`.
_USER_RULES: dict[type | str, LayerRule] = {}


def register_layer_rule(layer: type | str, rule: LayerRule, *, overwrite: bool = False) -> None:
    """Teaches the channel graph how a layer of your own treats channels.

    Without a rule, the channels that a layer reads and writes stay with their own task. Call it
    once, before `merge`.

    Args:
        layer: The layer's class, or its class name.
        rule: The rule; see `LayerRule`.
        overwrite: Whether a rule that exists may be replaced.

    Raises:
        TypeError: `layer` is no class or name, `rule` is no `LayerRule`, or its weights no `Axes`.
        ValueError: the rule's role is unknown, or the layer that it names in `like`; or there is a
            rule already and `overwrite` is False.

    Example:
    >>> import keras, tfmot_pam
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.scale = self.add_weight(shape=(shape[-1],), name="scale")
    ...     def call(self, x):
    ...         return x * self.scale
    >>> tfmot_pam.register_layer_rule(
    ...     Scale,
    ...     tfmot_pam.LayerRule("channelwise", weights={"scale": tfmot_pam.Axes(outputs=0)}),
    ... )
    """
    if not isinstance(layer, (type, str)):
        raise TypeError(
            f"`layer` must be a layer class or its name. Received: {layer!r}. "
            "Pass the class itself, not an object of it."
        )
    if not isinstance(rule, LayerRule):
        raise TypeError(
            f"`rule` must be a tfmot_pam.LayerRule. Received: {rule!r} of type "
            f"{type(rule).__name__}. Build one, such as LayerRule('channelwise')."
        )
    if rule.role not in get_args(Role):
        raise ValueError(
            f"The rule has the role {rule.role!r}. Expected one of {list(get_args(Role))}. See "
            "tfmot_pam.LayerRule for what they mean."
        )
    axes = isinstance(rule.weights, Mapping) and all(
        isinstance(found, Axes) for found in rule.weights.values()
    )
    if not axes:
        raise TypeError(
            f"The rule has weights={rule.weights!r}. Expected a dict of tfmot_pam.Axes by the "
            "weights' names. Pass such as {'kernel': tfmot_pam.Axes(inputs=0, outputs=1)}."
        )
    if rule.like is not None and rule.like not in BUILT_IN_RULES:
        raise ValueError(
            f"The rule has like={rule.like!r}. Expected the name of a Keras layer that has a rule, "
            "such as 'Dense' or 'Conv2D', or None. Pass its class's name."
        )
    if not overwrite and find_rule(layer) is not None:
        raise ValueError(
            f"There is a rule for {layer!r} already. Pass overwrite=True to replace it."
        )
    _USER_RULES[layer] = rule


def find_rule(layer: type | str) -> LayerRule | None:
    """The rule of a layer class (or class name): the user's own first, then the built-in one."""
    name = layer if isinstance(layer, str) else layer.__name__
    for key in (layer, name):
        if key in _USER_RULES:
            return _USER_RULES[key]
    # A user's class that happens to be called Dense is not Keras's Dense.
    if isinstance(layer, type) and not (is_keras_class(layer) or _is_own_class(layer)):
        return None
    return BUILT_IN_RULES.get(name)


def computes_like(layer: Layer) -> str:
    """The name of the Keras layer that a layer computes like; "" where none is known."""
    if is_keras_class(layer.cls):
        return layer.kind
    rule = find_rule(layer.cls)
    return (rule.like if rule is not None else None) or ""


def _is_own_class(cls: type) -> bool:
    """Whether a class is one of this package."""
    return cls.__module__.split(".")[0] == __name__.split(".")[0]
