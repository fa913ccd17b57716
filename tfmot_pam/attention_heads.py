"""What an attention layer computes between its projections, as a layer of its own."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfmot_pam")
class AttentionHeads(keras.layers.Layer):
    """The heads of a MultiHeadAttention or GroupQueryAttention, without its four projections.

    It reads queries `[samples, places, heads x key_dim]`, values `[samples, other places, heads x
    value_dim]` and keys, projected, the channels of a head side by side, and writes what the heads
    see, `[samples, places, heads x value_dim]`. `prune_channels` puts it between dense layers
    while heads are pruned; `strip_pruning` writes ordinary attention layers again.

    Args:
        num_heads: Heads of keys and values.
        key_dim: Channels of a query and of a key of one head.
        value_dim: Channels of a value of one head.
        queries_per_head: Heads of queries that share one head of keys and values.
        dropout: The share of scores that are dropped while training.
        seed: Seed of dropout.
        whole: The configuration of the attention layer that it is a part of.
        **kwargs: Keras layer arguments.

    Source: Attention Is All You Need (Vaswani et al., NeurIPS 2017), section 3.2; shared keys:
    GQA (Ainslie et al., EMNLP 2023), section 2.2.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        queries_per_head: int = 1,
        dropout: float = 0.0,
        seed: int | None = None,
        whole: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.queries_per_head = queries_per_head
        self.dropout = dropout
        self.seed = seed
        self.whole = whole
        self.dropped = keras.layers.Dropout(dropout, seed=seed, dtype=self.dtype_policy)
        self.supports_masking = True

    def build(self, *shapes: Any, **named_shapes: Any) -> None:
        self.built = True

    def call(
        self,
        query: Any,
        value: Any,
        key: Any,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        use_causal_mask: bool = False,
        training: bool | None = None,
    ) -> Any:
        shape = ops.shape(query)
        heads = self.num_heads * self.queries_per_head
        query = self._by_head(query, heads, self.key_dim)
        key = self._shared(self._by_head(key, self.num_heads, self.key_dim))
        value = self._shared(self._by_head(value, self.num_heads, self.value_dim))
        scores = ops.einsum("btnd,bsnd->bnts", query, key) / math.sqrt(self.key_dim)
        for mask, axis in ((query_mask, -1), (value_mask, -2), (key_mask, -2)):
            if mask is not None:
                known = ops.expand_dims(ops.cast(mask, "bool"), axis)
                scores = _masked(scores, ops.expand_dims(known, -3))
        if use_causal_mask:
            size, others = ops.shape(scores)[-2:]
            scores = _masked(scores, ops.arange(size)[:, None] >= ops.arange(others)[None])
        shares = self.dropped(ops.softmax(scores, axis=-1), training=training)
        seen = ops.einsum("bnts,bsnd->btnd", shares, value)
        return ops.reshape(seen, (*shape[:-1], heads * self.value_dim))

    def _by_head(self, x: Any, heads: int, width: int) -> Any:
        places = math.prod(x.shape[1:-1]) if None not in x.shape[1:-1] else -1
        return ops.reshape(x, (ops.shape(x)[0], places, heads, width))

    def _shared(self, x: Any) -> Any:
        return x if self.queries_per_head == 1 else ops.repeat(x, self.queries_per_head, axis=2)

    def compute_output_spec(self, query: Any, *others: Any, **options: Any) -> Any:
        heads = self.num_heads * self.queries_per_head
        return keras.KerasTensor((*query.shape[:-1], heads * self.value_dim), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "queries_per_head": self.queries_per_head,
            "dropout": self.dropout,
            "seed": self.seed,
            "whole": self.whole,
        }


def _masked(scores: Any, mask: Any) -> Any:
    """Scores that count for nothing where `mask` is not."""
    least = -3e4 if scores.dtype == "float16" else -1e9
    return ops.where(mask, scores, ops.cast(least, scores.dtype))
