"""Rules of layers that are taken whole: why their channels stay together, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tfmot_pam.graph.network import Shape, Size
from tfmot_pam.graph.rules import Call, Cost, LayerRule


def _whole(reason: str, macs: Callable[[Call], Cost] | None = None) -> LayerRule:
    return LayerRule("channelwise", check=lambda call: reason, macs=macs)


def _attended(call: Call, shape: Shape) -> int:
    """The places that each place attends to."""
    axes = call.config.get("attention_axes") or range(1, len(shape) - 1)
    places = math.prod(shape[axis] for axis in ([axes] if isinstance(axes, int) else axes))
    return min(places, call.config.get("sliding_window") or places)


def _places(shape: Shape) -> int:
    return math.prod(shape[1:-1])


def _heads_cost(call: Call, queries: int, keys: int, query_dim: int, value_dim: int) -> Cost:
    """Attention by heads: four projections, the scores, and the means that they weigh.

    Source: Attention Is All You Need (Vaswani et al., NeurIPS 2017), section 3.2.
    """
    query, value = call.in_shapes[:2]
    key = call.in_shapes[2] if len(call.in_shapes) > 2 else value
    asked = _places(query)
    projections: tuple[tuple[Size, ...], ...] = (
        (asked, query[-1], queries * query_dim),
        (_places(key), key[-1], keys * query_dim),
        (_places(value), value[-1], keys * value_dim),
        (asked, queries * value_dim, call.out_shape[-1]),
    )
    if call.config.get("use_gate"):
        projections += ((asked, query[-1], queries * value_dim),)
    outputs = [places * width for places, _, width in projections]
    macs = sum(places * width * read for places, read, width in projections)
    seen = _seen_cost(asked, _attended(call, value), queries, query_dim, value_dim)
    return Cost(macs + seen.macs, sum(outputs) + seen.outputs)


def _seen_cost(asked: int, attended: int, heads: int, query_dim: int, value_dim: int) -> Cost:
    """What heads do between the projections: the scores, and the means that they weigh."""
    scored = asked * attended * heads
    return Cost(scored * (query_dim + value_dim), scored + asked * heads * value_dim)


def multi_head_cost(call: Call) -> Cost:
    """MultiHeadAttention."""
    heads, width = call.config["num_heads"], call.config["key_dim"]
    return _heads_cost(call, heads, heads, width, call.config["value_dim"] or width)


def grouped_query_cost(call: Call) -> Cost:
    """GroupedQueryAttention: several query heads for one head of keys and values."""
    config = call.config
    width = config["head_dim"]
    return _heads_cost(call, config["num_query_heads"], config["num_key_value_heads"], width, width)


def seen_cost(call: Call) -> Cost:
    """AttentionHeads: attention by heads without its projections."""
    config, (query, value) = call.config, call.in_shapes[:2]
    heads = config["num_heads"] * config["queries_per_head"]
    places = _places(query), _places(value)
    return _seen_cost(*places, heads, config["key_dim"], config["value_dim"])


def _heads_resize(
    config: Mapping[str, Any], call: Call, in_width: int, out_width: int
) -> dict[str, Any]:
    width = config["queries_per_head"] * config["value_dim"]
    return {**config, "num_heads": out_width // width}


ATTENTION_HEADS = LayerRule(
    "join",
    blocks=lambda call: call.config["num_heads"],
    resize=_heads_resize,
    macs=seen_cost,
)


def dot_cost(call: Call) -> Cost:
    """Attention without projections."""
    query, value = call.in_shapes[:2]
    key = call.in_shapes[2] if len(call.in_shapes) > 2 else value
    scored = _places(query) * _places(value)
    return Cost(scored * (key[-1] + value[-1]), scored + _places(query) * value[-1])


def einsum_cost(call: Call) -> Cost:
    """EinsumDense: each output sums over the axes that the input and the kernel have alone."""
    read, written = call.config["equation"].replace(" ", "").split("->")
    _, kernel = read.split(",")
    sizes = dict(zip(kernel, call.layer.weights["kernel"].shape, strict=True))
    outputs = math.prod(call.out_shape[1:])
    summed = math.prod(size for letter, size in sizes.items() if letter not in written)
    return Cost(outputs * summed, outputs)


_NORMALISED = _whole("its statistics are of all channels")

WHOLE_RULES: Mapping[str, LayerRule] = MappingProxyType(
    {
        "LayerNormalization": _NORMALISED,
        "RMSNormalization": _NORMALISED,
        "GroupNormalization": _NORMALISED,
        "UnitNormalization": _NORMALISED,
        "Embedding": _whole("it looks channels up by words"),
        "MultiHeadAttention": _whole("its heads read all channels", multi_head_cost),
        "GroupedQueryAttention": _whole("its heads read all channels", grouped_query_cost),
        "AttentionHeads": ATTENTION_HEADS,
        "Attention": _whole("its scores are of all channels", dot_cost),
        "EinsumDense": _whole("its equation may mix any axes", einsum_cost),
    }
)
