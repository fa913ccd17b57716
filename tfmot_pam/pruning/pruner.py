"""Switches off the channels of a gated model that matter least."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfmot_pam.distribution.devices import Devices, strategy_of_variable
from tfmot_pam.graph.reader import read
from tfmot_pam.pruning.gated_model import GatedModel
from tfmot_pam.pruning.gates import ChannelGates, remove_gates
from tfmot_pam.pruning.importance import Evidence, find_importance, score

_MOMENTUM = 0.9


class Pruner:
    """Switches off channels of one gated model.

    Args:
        model: A model from `prune_channels`.

    Attributes:
        settings: How it is pruned.
        budget: What channels cost.
        knows_losses: Whether each task's first loss has been noted.
    """

    def __init__(self, model: GatedModel):
        self.settings = model.gates.settings
        self.knows_losses = bool(_array(model.gates.starting_losses).any())
        self.prunable = remove_gates(read(model)).prunable()
        self.budget = self.settings.budget(self.prunable)
        self._devices = Devices(strategy_of_variable(model.gates.mask.value))

    def note_losses(self, model: GatedModel, logs: dict[str, Any]) -> None:
        """Keeps each task's first loss, by which its gradients are measured."""
        tasks = model.gates.tasks
        losses = [float(logs.get(f"{task}_loss", logs.get("loss", 1.0))) for task in tasks]
        model.gates.starting_losses.assign([abs(v) or 1.0 for v in losses])
        self.knows_losses = True

    def prune(self, model: GatedModel, fraction: float) -> None:
        """Switches channels off until the fraction of the model's size is removed."""
        keep = _array(model.gates.mask) > 0
        if self.budget.share(keep) <= 1.0 - fraction:
            return
        evidence = self._evidence(model, keep)
        keep = self._devices.told(lambda: self._chosen(evidence, fraction))
        model.gates.mask.assign(keep.astype("float32"))

    def _chosen(self, evidence: Evidence, fraction: float) -> np.ndarray:
        values = score(self.settings.importance, evidence)
        return self.budget.choose(evidence.keep, values, 1.0 - fraction)

    def _evidence(self, model: GatedModel, keep: np.ndarray) -> Evidence:
        gates, importance = model.gates, find_importance(self.settings.importance)
        found: dict[str, Any] = {"keep": keep, "seed": self.settings.seed}
        if importance.stochastic:
            found["gate_mean"] = _array(gates.mean)
            found["gate_log_variance"] = _array(gates.log_variance)
        elif importance.gradients:
            average = _averaged(gates)
            found["squared_gradients"], found["mean_gradient"] = average[:-1], average[-1]
            found["starting_losses"] = _array(gates.starting_losses)
        found["task_weights"] = self.settings.task_weights
        return Evidence(remove_gates(read(model)).prunable(), **found)


def _averaged(gates: ChannelGates) -> np.ndarray:
    """Means over the batches observed since the last removal, averaged exponentially with before.

    Raises:
        ValueError: no batch has been observed.
    """
    batches = float(_array(gates.observed_batches))
    if not batches:
        raise ValueError(
            "The gates' gradients were not observed before channels are to be removed. Expected "
            "at least one training step with UpdatePruningStep(). Start the schedule later."
        )
    means = _array(gates.observed) / batches
    count = float(_array(gates.averaged)) + 1.0
    average = _MOMENTUM * _array(gates.average) + (1.0 - _MOMENTUM) * means
    gates.average.assign(average)
    gates.averaged.assign(count)
    gates.observed.assign(np.zeros_like(means))
    gates.observed_batches.assign(0.0)
    return average / (1.0 - _MOMENTUM**count)


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)
