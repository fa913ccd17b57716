"""A model with gates: trained by an ordinary `fit`, it observes what its channels are worth."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmot_pam.pruning.gates import ChannelGates
from tfmot_pam.pruning.importance import find_importance


@keras.saving.register_keras_serializable(package="tfmot_pam")
class GatedModel(keras.Model):
    """A functional model whose channels can be switched off; `prune_channels` makes it.

    It is compiled and fitted like any Keras model, with `UpdatePruningStep()` among the callbacks.
    While that says so, each step is followed by a backward pass per task that observes the
    gradients of the gates, in inference mode; the weights are trained by the usual step alone.
    """

    @property
    def gates(self) -> ChannelGates:
        """The layer that holds the gates."""
        return next(layer for layer in self.layers if isinstance(layer, ChannelGates))

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`, with `UpdatePruningStep()` among the callbacks.

        Raises:
            ValueError: there is a pruning schedule and no `UpdatePruningStep` to follow it.
        """
        call = inspect.signature(super().fit).bind(*args, **kwargs)
        callbacks = call.arguments.get("callbacks") or []
        callbacks = getattr(callbacks, "callbacks", callbacks)
        callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
        if self.gates.settings.schedule is not None and not any(
            getattr(callback, "follows_pruning_schedule", False) for callback in callbacks
        ):
            raise ValueError(
                "fit() of a model from prune_channels() needs the callback that follows the "
                f"pruning schedule. Received: callbacks={list(callbacks)!r}. Pass "
                "callbacks=[tfmot_pam.UpdatePruningStep()]; TFMOT's callback of that name does "
                "not work here."
            )
        return super().fit(*args, **kwargs)

    def train_step(self, data: Any) -> Any:
        logs = super().train_step(data)
        if find_importance(self.gates.settings.importance).gradients:
            import tensorflow as tf

            gates = self.gates
            shape = (len(gates.tasks), gates.channels)
            rows = tf.cond(
                gates.observing > 0, lambda: self._gradients(data), lambda: tf.zeros(shape)
            )
            replica = tf.distribute.get_replica_context()
            if replica.num_replicas_in_sync > 1:
                # Each has seen a part of the batch. They cannot wait for each other in a branch.
                rows = replica.all_reduce(tf.distribute.ReduceOp.SUM, rows)
            total = ops.sum(rows, axis=0, keepdims=True)
            gates.observed.assign_add(ops.concatenate([ops.square(rows), total]))
            gates.observed_batches.assign_add(gates.observing)
        return logs

    def _gradients(self, data: Any) -> Any:
        """Each task's gradients of the gates for one batch, `[tasks, channels]`."""
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        gates = self.gates
        mask = gates.mask.value
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(mask)
            outputs = self(x, training=False)
            # With the other outputs held fixed, the loss has one task's gradient.
            apart = [_only(outputs, task, gates.tasks) for task in gates.tasks]
            losses = [self.compute_loss(x, y, o, sample_weight, training=False) for o in apart]
        return tf.stack([_dense(tape.gradient(loss, mask), mask) for loss in losses])


def _only(outputs: Any, task: str, tasks: Sequence[str]) -> Any:
    """Outputs by task, or by head, of which those of other tasks send no gradient."""
    if not isinstance(outputs, dict):
        return outputs

    def is_own(name: str) -> bool:
        return name == task or (name not in tasks and name.startswith(f"{task}/"))

    return {
        name: value if is_own(name) else keras.tree.map_structure(ops.stop_gradient, value)
        for name, value in outputs.items()
    }


def _dense(gradient: Any, mask: Any) -> Any:
    import tensorflow as tf

    return tf.zeros_like(mask) if gradient is None else tf.convert_to_tensor(gradient)
