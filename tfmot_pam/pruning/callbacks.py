"""The callbacks that prune a gated model while it is fitted, and that log how far it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import all_combinations
from tfmot_pam.pruning.channels import PrunableChannels
from tfmot_pam.pruning.costs import WidthCosts, combination_weights
from tfmot_pam.pruning.gated_model import GatedModel
from tfmot_pam.pruning.gates import remove_gates
from tfmot_pam.pruning.importance import find_importance
from tfmot_pam.pruning.pruner import Pruner
from tfmot_pam.pruning.schedules import ask


class UpdatePruningStep(keras.callbacks.Callback):
    """Follows the pruning schedule of a model from `prune_channels` while it is fitted.

    Use it as TFMOT's callback of that name: `gated.fit(..., callbacks=[UpdatePruningStep()])`.
    Training steps are counted on over several calls of `fit` with one callback object. After the
    steps for which the schedule says so, the least important channels are switched off until the
    schedule's fraction is removed; what is off stays off.

    Args:
        step: The step to count from, where training goes on from a saved model.

    Raises:
        ValueError: the model is not from `prune_channels`.

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> import tensorflow_model_optimization as tfmot
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"),
    ...                           keras.layers.Dense(2)])
    >>> half = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=2, frequency=1)
    >>> gated = tfmot_pam.prune_channels(model, half)
    >>> gated.compile("sgd", "mse")
    >>> x = np.ones((32, 4), "float32")
    >>> history = gated.fit(x, np.ones((32, 2)), batch_size=8, verbose=0,
    ...                     callbacks=[tfmot_pam.UpdatePruningStep()])
    >>> tfmot_pam.strip_pruning(gated).layers[1].units
    4
    """

    follows_pruning_schedule = True

    def __init__(self, step: int = 0):
        super().__init__()
        self.step = step
        self._observe_until = -1
        self._observing: bool | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        if not isinstance(self.model, GatedModel):
            raise ValueError(
                "UpdatePruningStep() follows the schedule of a model from prune_channels(). "
                f"Received: the model '{self.model.name}' of type {type(self.model).__name__}. "
                "Fit what prune_channels() returned; for TFMOT's own wrappers use TFMOT's callback."
            )
        self._pruner, self._observing = Pruner(self.model), None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        settings = self._pruner.settings
        if settings.schedule is None or not find_importance(settings.importance).gradients:
            return
        # Observe the batches up to and including the next step that prunes.
        ahead = settings.observations - 1
        first = self._observe_until < 0
        for step in range(self.step, self.step + ahead + 1) if first else [self.step + ahead]:
            if ask(settings.schedule, step)[0]:
                self._observe_until = step
        self._observe_until = max(self._observe_until, 0)
        observing = self.step <= self._observe_until
        if observing != self._observing:
            self._observing = observing
            self.model.gates.observing.assign(float(observing))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # With JAX asking for the model copies the state of the training into it.
        if not self._pruner.knows_losses:
            self._pruner.note_losses(self.model, logs or {})
        if self._pruner.settings.schedule is not None:
            due, fraction = ask(self._pruner.settings.schedule, self.step)
            if due:
                self._pruner.prune(self.model, fraction)
        self.step += 1


class PruningSummaries(keras.callbacks.Callback):
    """Writes how far pruning is as TensorBoard scalars, after every epoch.

    `pruning/channels/<group>` is the number of channels left in a group, `pruning/macs/<tasks>`
    the multiply-accumulates of a combination, per sample.

    Args:
        log_dir: The folder of the event files.

    Raises:
        ValueError: the model is not from `prune_channels`.

    Example:
    >>> import tfmot_pam
    >>> callbacks = [tfmot_pam.UpdatePruningStep(), tfmot_pam.PruningSummaries("logs")]
    """

    def __init__(self, log_dir: str | os.PathLike[str]):
        super().__init__()
        self._log_dir = os.fspath(log_dir)

    def on_train_begin(self, logs: Any = None) -> None:
        import tensorflow as tf

        if not isinstance(self.model, GatedModel):
            raise ValueError(
                "PruningSummaries() logs a model from prune_channels(). Received: the model "
                f"'{self.model.name}' of type {type(self.model).__name__}. Use the TensorBoard "
                "callback for other models."
            )
        self._prunable = remove_gates(read(self.model)).prunable()
        self._costs = WidthCosts(self.model.gates.settings.sized(self._prunable))
        self._writer = tf.summary.create_file_writer(self._log_dir)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        keep = keras.ops.convert_to_numpy(self.model.gates.mask) > 0
        found = scalars(self._prunable, self._costs, keep)
        write_scalars(
            self._writer, {f"pruning/{name}": value for name, value in found.items()}, epoch
        )

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()


def scalars(prunable: PrunableChannels, costs: WidthCosts, keep: np.ndarray) -> dict[str, float]:
    """Channels left by group and multiply-accumulates by combination."""
    found: dict[str, float] = {
        f"channels/{group.name}": int(keep[group.slice].sum()) for group in prunable.groups
    }
    for combination in all_combinations(prunable.tasks):
        weights = combination_weights(prunable, combination)
        found[f"macs/{'+'.join(combination)}"] = costs.macs(keep, weights)
    return found


def write_scalars(writer: Any, values: Mapping[str, float], step: int) -> None:
    """Writes TensorBoard scalars; `tf.summary.scalar` would need TensorBoard to be installed.

    Args:
        writer: A file writer of `tf.summary`.
        values: Values by name.
        step: The step that they are of.
    """
    import tensorflow as tf

    metadata = tf.compat.v1.SummaryMetadata(data_class=1)  # DATA_CLASS_SCALAR
    metadata.plugin_data.plugin_name = "scalars"
    with writer.as_default():
        for name, value in values.items():
            tf.summary.write(name, np.float32(value), step, metadata)
