"""A model with gates: trained by an ordinary `fit`, it observes what its channels are worth."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmot_pam import backends
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

    def train_step(self, *arguments: Any) -> Any:
        # The data; with JAX the state of the model and the data.
        result = super().train_step(*arguments)
        if find_importance(self.gates.settings.importance).gradients:
            return backends.current().after_step(self, result, *arguments)
        return result

    def losses_apart(self, data: Any) -> list[Any]:
        """For each task a loss of a batch that has the gradient of this task alone."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self(x, training=False)
        apart = [_only(outputs, task, self.gates.tasks) for task in self.gates.tasks]
        return [self.compute_loss(x, y, o, sample_weight, training=False) for o in apart]


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
