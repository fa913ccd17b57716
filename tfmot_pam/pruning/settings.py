"""How a gated model is pruned: everything that `prune_channels` was told, in one record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras

from tfmot_pam.graph.sizes import InputShape, sized
from tfmot_pam.graph.usage import usage_probabilities
from tfmot_pam.pruning.budget import Budget, Limits, Scope, find_measures
from tfmot_pam.pruning.channels import PrunableChannels
from tfmot_pam.pruning.costs import WidthCosts
from tfmot_pam.pruning.schedules import Ramp
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

if TYPE_CHECKING:  # It imports `pagcp`, which imports this module.
    from tfmot_pam.pruning.importance import Importance

_TFMOT_SCHEDULES = ("ConstantSparsity", "PolynomialDecay")


@keras.saving.register_keras_serializable(package="tfmot_pam")
@dataclasses.dataclass(frozen=True, eq=False)
class PruningSettings:
    """How a gated model is pruned while it trains.

    Args:
        schedule: `schedule(step) -> (should_prune, fraction)`, or None where nothing is left to do.
        importance: A name in `IMPORTANCES`, an `Importance`, or a callable.
        measure: What the schedule's fraction is a fraction of.
        usage: Probability of each combination.
        scope: `"global"` or `"per-layer"`.
        min_channels: Channels that every layer keeps to read.
        width_multiple: Widths are rounded up to a multiple of it.
        observations: Batches that gradients are observed on before each removal.
        kl_weight: Weight of the divergence of stochastic gates.
        seed: Seed of random importance.
        task_weights: How much each task's loss matters; None divides it by its starting value.
        of_tf_keras: Whether the model came from tf_keras and goes back there.
        input_shape: The size of its inputs at which a model that takes any is counted.
    """

    schedule: Callable[[int], tuple[Any, Any]] | None = None
    importance: str | Importance | Callable[..., Any] = "taylor"
    measure: Any = "channels"
    usage: Mapping[tuple[str, ...], float] | None = None
    scope: Scope = "global"
    min_channels: int = 1
    width_multiple: int = 1
    observations: int = 10
    kl_weight: float = 1e-5
    seed: int = 0
    task_weights: Mapping[str, float] | None = None
    of_tf_keras: bool = False
    input_shape: InputShape | None = None

    def sized(self, prunable: PrunableChannels) -> PrunableChannels:
        """A network and its channels at the size at which it is counted.

        Raises:
            ValueError: the network is of open size, and `input_shape` does not say which.
        """
        if self.measure == "parameters":  # Parameters are the same at any size.
            return prunable
        network = sized(prunable.network, self.input_shape)
        return dataclasses.replace(prunable, graph=prunable.graph.of(network))

    def budget(self, prunable: PrunableChannels) -> Budget:
        """What these settings let go of a network."""
        prunable = self.sized(prunable)
        usage = usage_probabilities(self.usage, prunable.tasks)
        measures = find_measures(self.measure, prunable, WidthCosts(prunable), usage)
        return Budget(
            prunable, measures, Limits(self.scope, self.min_channels, self.width_multiple)
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the settings as plain data."""
        config = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("schedule", "usage", "measure")
        }
        if not isinstance(self.importance, str):
            config["importance"] = keras.saving.serialize_keras_object(self.importance)
        usage = self.usage and [[list(c), p] for c, p in self.usage.items()]
        config["task_weights"] = self.task_weights and dict(self.task_weights)
        measure = self.measure
        if callable(measure):
            measure = {"function": keras.saving.serialize_keras_object(measure)}
        elif isinstance(measure, (tuple, list)):
            measure = {"combinations": [list(c) for c in _combinations(measure)]}
        return {**config, "usage": usage, "measure": measure, "schedule": _written(self.schedule)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PruningSettings:
        """Makes settings from what `get_config` returned."""
        config = dict(config)
        if config["usage"] is not None:
            config["usage"] = {tuple(c): p for c, p in config["usage"]}
        if isinstance(config["measure"], Mapping):
            config["measure"] = _read_measure(config["measure"])
        if isinstance(config["importance"], Mapping):
            config["importance"] = keras.saving.deserialize_keras_object(config["importance"])
        config["schedule"] = _read(config["schedule"])
        return cls(**config)


def _combinations(measure: Any) -> list[tuple[str, ...]]:
    return measure if isinstance(measure, list) else [measure]


def _read_measure(written: Mapping[str, Any]) -> Any:
    if "function" in written:
        return keras.saving.deserialize_keras_object(written["function"])
    return [tuple(c) for c in written["combinations"]]


def _written(schedule: Any) -> dict[str, Any] | None:
    """A schedule's class and configuration; TFMOT's `get_config` nests the latter."""
    if schedule is None:
        return None
    config = schedule.get_config() if hasattr(schedule, "get_config") else {}
    return {"schedule_class": type(schedule).__name__, "arguments": config.get("config", config)}


def _read(written: Mapping[str, Any] | None) -> Any:
    if written is None:
        return None
    name = written["schedule_class"]
    found = Ramp if name == "Ramp" else keras.saving.get_custom_objects().get(name)
    if found is None and name in _TFMOT_SCHEDULES:
        found = getattr(import_tfmot().sparsity.keras, name)
    if found is None:
        raise ValueError(
            f"The model was pruned by a schedule of class {name!r}, which is not known here. "
            f"Expected one of {list(_TFMOT_SCHEDULES)} or a class of your own in "
            "keras.saving.custom_object_scope. Load the model within such a scope."
        )
    return found(**written["arguments"])
