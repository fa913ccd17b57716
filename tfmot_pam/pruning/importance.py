"""How much each channel matters: the table of importances and what they are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph.channels import known_rule
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.network import MaybeNone, Tensor
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.pruning import pagcp, reconstruction
from tfmot_pam.pruning.channels import PrunableChannels

_TINY = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What an importance is given.

    Args:
        prunable: The network as it is now, and its prunable channels, `[channels]` in the order of
            `prunable.groups`.
        keep: Which channels are still there, bool `[channels]`.
        squared_gradients: Mean squared gradient of each task's loss by each gate over the
            observed batches, `[tasks, channels]`; None where none were observed.
        mean_gradient: Mean gradient of the joint loss, `[channels]`; None likewise.
        starting_losses: Each task's loss when training began, `[tasks]`; None likewise.
        gate_mean: Means of stochastic gates, `[channels]`; None where gates are not random.
        gate_log_variance: Their log variances, `[channels]`; None likewise.
        inputs: Calibration inputs, `[samples, ...]`; None where none were given.
        usage: Probability of each combination; None for all alike.
        task_weights: How much an error of each task matters; None for all alike.
        room: How much the width of a group counts by itself, next to what its channels do now, for
            importances that rate networks which are trained on.
        seed: Seed of anything random.
    """

    prunable: PrunableChannels
    keep: np.ndarray
    squared_gradients: np.ndarray | MaybeNone = None
    mean_gradient: np.ndarray | MaybeNone = None
    starting_losses: np.ndarray | MaybeNone = None
    gate_mean: np.ndarray | MaybeNone = None
    gate_log_variance: np.ndarray | MaybeNone = None
    inputs: Inputs | MaybeNone = None
    usage: Mapping[tuple[str, ...], float] | None = None
    task_weights: Mapping[str, float] | None = None
    room: float = 0.0
    seed: int = 0


@keras.saving.register_keras_serializable(package="tfmot_pam")
@dataclasses.dataclass(frozen=True)
class Importance:
    """One way to rate channels; `prune_channels` and `compress` take one, or know some by name.

    A function alone does for a way that looks at gradients: it is `Importance(function,
    gradients=True)`. Models that are saved while they are pruned need a function that Keras can
    save (`keras.saving.register_keras_serializable`).

    Args:
        score: `score(evidence) -> [channels]`: the harm that removing each would do, at least 0.
        gradients: Whether gradients are observed for it while the model trains.
        stochastic: Whether it needs random gates.
        at_once: Whether it can rate a model that is not being trained.
        inputs: Whether it needs calibration inputs.
        refits: Whether the weights that stay are refitted in closed form when channels go at once;
            this needs inputs.

    Raises:
        TypeError: `score` is no function, or another argument no bool.
        ValueError: `refits` without `inputs`, or `stochastic` with `at_once`.

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> def last_first(evidence):
    ...     return np.arange(len(evidence.keep), 0, -1)
    >>> way = tfmot_pam.Importance(last_first, inputs=True, refits=True)
    >>> small = tfmot_pam.strip_pruning(tfmot_pam.prune_channels(model, 0.5, way, data=x))
    >>> small.layers[1].units
    4
    """

    score: Callable[[Evidence], np.ndarray]
    gradients: bool = False
    stochastic: bool = False
    at_once: bool = True
    inputs: bool = False
    refits: bool = False

    def __post_init__(self) -> None:
        switches = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[1:]}
        wrong = {name: value for name, value in switches.items() if not isinstance(value, bool)}
        if not callable(self.score) or wrong:
            raise TypeError(
                f"Received score={self.score!r} and {switches}. Expected a function "
                "score(evidence) -> [channels], and bools. Pass the function itself."
            )
        if self.refits and not self.inputs:
            raise ValueError(
                "Received refits=True with inputs=False. Expected inputs=True: fits are made on "
                "inputs. Pass both, or neither."
            )
        if self.stochastic and self.at_once:
            raise ValueError(
                "Received stochastic=True with at_once=True. Expected at_once=False: random gates "
                "are learnt while a model trains. Pass at_once=False."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the importance as plain data."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "score": keras.saving.serialize_keras_object(self.score)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Importance:
        """Makes an importance from what `get_config` returned."""
        score = keras.saving.deserialize_keras_object(config["score"])
        return cls(**{**config, "score": score})


def _taylor(evidence: Evidence) -> np.ndarray:
    """sqrt(sum_t w_t^2 E[(dL_t/dg)^2]) (Molchanov et al., CVPR 2019, equation 8).

    The weights are 1 / L_t(0), or the tasks' own. The root makes it a change of the loss, which a
    cost can divide; it alters no order within channels of equal cost.
    """
    if evidence.task_weights is None:
        weights = 1.0 / np.maximum(evidence.starting_losses, _TINY)
    else:
        weights = np.array([evidence.task_weights[task] for task in evidence.prunable.tasks])
    return np.sqrt((evidence.squared_gradients * np.square(weights)[:, None]).sum(axis=0))


def _taylor_abs(evidence: Evidence) -> np.ndarray:
    """|E[dL/dg]| of the joint loss, the PAM paper's second pruner: tasks may cancel."""
    return np.abs(evidence.mean_gradient)


def _vib(evidence: Evidence) -> np.ndarray:
    """mu^2 / sigma^2 of VIBNet's gates (Dai et al., ICML 2018, section 4)."""
    return np.square(evidence.gate_mean) * np.exp(-evidence.gate_log_variance)


def _magnitude_l2(evidence: Evidence) -> np.ndarray:
    return _filter_norms(evidence, lambda rows: np.sqrt(np.mean(np.square(rows), axis=1)))


def _magnitude_l1(evidence: Evidence) -> np.ndarray:
    return _filter_norms(evidence, lambda rows: np.mean(np.abs(rows), axis=1))


def _filter_norms(evidence: Evidence, norm: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean norm of the filters that write each channel, relative to their layer's mean."""
    graph = evidence.prunable.graph
    total, count = np.zeros(len(graph.space_of)), np.zeros(len(graph.space_of))
    calls = graph.network.calls()
    for node in graph.network.nodes:
        if graph.roles[node.name] != "mixing":
            continue
        call = graph.call(node, calls)
        rule = known_rule(call)
        for name, weight in call.layer.weights.items():
            axes = rule.weights.get(name)
            if weight.ndim < 2 or axes is None or axes.outputs is None:
                continue
            filters = np.moveaxis(weight, axes.outputs, 0)
            norms = norm(filters.reshape(len(filters), -1))
            labels = graph.labels[Tensor(node.name)]
            np.add.at(total, labels, norms / max(float(norms.mean()), _TINY))
            np.add.at(count, labels, 1)
    return (total / np.maximum(count, 1))[evidence.prunable.numbers]


def _batch_norm(evidence: Evidence) -> np.ndarray:
    """|gamma| of the batch norms that a channel goes through; the filters' norm without one."""
    graph = evidence.prunable.graph
    total, count = np.zeros(len(graph.space_of)), np.zeros(len(graph.space_of))
    for node in graph.network.nodes:
        layer = graph.network.layer_of(node)
        if computes_like(layer) == "BatchNormalization" and "gamma" in layer.weights:
            labels = graph.labels[Tensor(node.name)]
            np.add.at(total, labels, np.abs(layer.weights["gamma"]))
            np.add.at(count, labels, 1)
    numbers = evidence.prunable.numbers
    scales = total[numbers] / np.maximum(count[numbers], 1)
    return np.where(count[numbers] > 0, scales, _magnitude_l2(evidence))


def _pagcp(evidence: Evidence) -> np.ndarray:
    """The largest measured loss of a task (PAGCP, Ye et al., T-PAMI 2023)."""
    return pagcp.rate(evidence.prunable, _magnitude_l2(evidence), evidence.inputs)


def _reconstruction(evidence: Evidence) -> np.ndarray:
    return reconstruction.rate(
        evidence.prunable,
        evidence.inputs,
        evidence.usage,
        evidence.seed,
        task_weights=evidence.task_weights,
        room=evidence.room,
    )


def _random(evidence: Evidence) -> np.ndarray:
    return np.random.default_rng(evidence.seed).random(len(evidence.prunable))


IMPORTANCES: Mapping[str, Importance] = MappingProxyType(
    {
        "taylor": Importance(_taylor, gradients=True, at_once=False),
        "taylor-abs": Importance(_taylor_abs, gradients=True, at_once=False),
        "vib": Importance(_vib, stochastic=True, at_once=False),
        "magnitude": Importance(_magnitude_l2),
        "magnitude-l1": Importance(_magnitude_l1),
        "batch-norm": Importance(_batch_norm),
        "pagcp": Importance(_pagcp, inputs=True),
        "random": Importance(_random),
        "reconstruction": Importance(_reconstruction, inputs=True, refits=True),
    }
)


def find_importance(importance: Any) -> Importance:
    """The importance of a name, one itself, or one around a function (which sees gradients too).

    Raises:
        ValueError: there is none of that name.
        TypeError: it is something else.
    """
    if isinstance(importance, Importance):
        return importance
    if isinstance(importance, str):
        if importance not in IMPORTANCES:
            raise ValueError(
                f"Unknown `importance`: {importance!r}. Expected one of {sorted(IMPORTANCES)}, a "
                "tfmot_pam.Importance, or a callable that takes an Evidence. Choose one."
            )
        return IMPORTANCES[importance]
    if not callable(importance):
        raise TypeError(
            f"`importance` must be a name or a callable, or a tfmot_pam.Importance. Received: "
            f"{importance!r} of type {type(importance).__name__}. Choose one of "
            f"{sorted(IMPORTANCES)}."
        )
    return Importance(importance, gradients=True)


def score(importance: Any, evidence: Evidence) -> np.ndarray:
    """Rates every prunable channel and checks the result.

    Raises:
        ValueError: the importance returned another shape, or values that are no numbers.
    """
    values = np.asarray(find_importance(importance).score(evidence), np.float64)
    if values.shape != (len(evidence.prunable),) or np.isnan(values).any():
        raise ValueError(
            f"The importance {importance!r} returned values of shape {values.shape}"
            f"{' with NaN' if np.isnan(values).any() else ''}. Expected one number for each of the "
            f"{len(evidence.prunable)} prunable channels. Check the function, and the losses if "
            "it reads gradients."
        )
    return values
