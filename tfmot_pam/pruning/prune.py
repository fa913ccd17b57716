"""`prune_channels` and `strip_pruning`: TFMOT's calling pattern for whole channels."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfmot_pam.closed_form.batch_norm import reestimated
from tfmot_pam.data import take_samples
from tfmot_pam.graph.arguments import check_seed
from tfmot_pam.graph.attention import attention_together
from tfmot_pam.graph.cost import warn_of_uncounted
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.generation import as_keras, is_tf_keras
from tfmot_pam.graph.heads import Inputs, heads_of, input_shapes, input_types
from tfmot_pam.graph.inputs import as_types
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.reader import check_model, read
from tfmot_pam.graph.selection import network_heads
from tfmot_pam.graph.sizes import InputShape
from tfmot_pam.graph.surgery import remove_channels
from tfmot_pam.graph.tf_keras.convert import to_tf_keras
from tfmot_pam.graph.usage import check_usage
from tfmot_pam.pruning.at_once import check_reachable, choose
from tfmot_pam.pruning.budget import Scope
from tfmot_pam.pruning.channels import PrunableChannels, find_prunable
from tfmot_pam.pruning.gated_model import GatedModel
from tfmot_pam.pruning.gates import gates_of, insert_gates, remove_gates
from tfmot_pam.pruning.history import record
from tfmot_pam.pruning.importance import IMPORTANCES, Importance, find_importance
from tfmot_pam.pruning.schedules import ask, final_fraction
from tfmot_pam.pruning.settings import PruningSettings

_SCOPES = ("global", "per-layer")
# Calibration inputs per task: wide dense layers have thousands of weights a unit to fit.
_SAMPLES = 2048


def prune_channels(
    model: keras.Model,
    pruning_schedule: Callable[[int], tuple[Any, Any]] | float,
    importance: str | Importance | Callable[..., Any] = "taylor",
    *,
    data: Any = None,
    measure: Any = "channels",
    usage: Mapping[Any, float] | None = None,
    scope: Scope = "global",
    min_channels: int = 1,
    width_multiple: int = 1,
    pruning_policy: Any = None,
    observations: int = 10,
    kl_weight: float = 1e-5,
    seed: int = 0,
    input_shape: InputShape | None = None,
) -> keras.Model:
    """Prepares a model for structural pruning: whole channels go while it trains.

    Use it as TFMOT's `prune_low_magnitude`: compile and fit the result with `UpdatePruningStep()`
    among the callbacks, then `strip_pruning` it. Works on merged models, whose groups are pruned
    under their task sets, and on any functional or sequential model.

    Every channel gets a gate where layers read it; a gate of 0 computes exactly what the model
    without the channel computes. Residual, depthwise, squeeze-and-excitation and concatenated
    channels share one gate. The channel with the least importance per saved operation goes first.

    Args:
        model: A functional or sequential model; outputs as a dict by task, or one output. A
            tf_keras model is trained as its Keras 3 twin; `strip_pruning` gives a tf_keras model.
        pruning_schedule: A TFMOT `PruningSchedule` (or anything called like one), read as the
            fraction removed by each step. Or a number: that fraction is removed at once, for
            importances that need no training.
        importance: `"taylor"` (squared gradients of the gates per task), `"taylor-abs"` (the
            paper's: the joint gradient's size), `"vib"` (the paper's: random gates that learn how
            much noise they can take), `"magnitude"`, `"magnitude-l1"`, `"batch-norm"`,
            `"reconstruction"` (closed form, at once: what other channels cannot make up for; the
            weights that stay are refitted), `"pagcp"` (at once: the loss of the tasks, measured
            layer by layer), `"random"`, an `Importance`, or a function from `Evidence` to one
            number a channel, which sees gradients.
        data: Calibration inputs for `"reconstruction"` and `"pagcp"`, from the training split: any
            form of data that `merge` takes.
        measure: What the fraction is of: `"channels"`, `"macs"` (expected MACs), `"parameters"`,
            `"latency"` (estimated time of one thread, channels in whole tiles), the MACs of a
            combination such as `("digit",)`, or a list of combinations, each of
            which is brought down by the fraction. Or a function `cost(kind, inputs, shape, macs)`
            of one call of a layer: its class's name, how many tensors it reads, the shape that it
            writes, and its multiply-accumulates.
        usage: Probability of each combination; default: all alike. Channels of rare combinations
            save less, and go later.
        scope: `"global"` ranks all channels together, `"per-layer"` within each group.
        min_channels: Channels that every layer keeps to read.
        width_multiple: Widths of groups are rounded up to a multiple of it.
        pruning_policy: A TFMOT `PruningPolicy`, or any object with `allow_pruning(layer)`: only
            channels whose writers it allows are pruned.
        observations: Batches on which gradients are observed before each removal.
        kl_weight: Weight of the divergence of `"vib"` gates in the loss, per channel and position.
        seed: Seed of random importance and random gates.
        input_shape: The shape of the input, without the samples' axis, at which a model is counted
            that takes images or sequences of any size; None takes that of `data`. The model goes
            on taking any size.

    Returns:
        A functional Keras 3 model with the same inputs, outputs and weights, to be compiled and
        fitted.

    Raises:
        TypeError: `model`, the schedule or the importance is none.
        ValueError: an option is out of range, nothing can be pruned, the limits do not allow the
            schedule's final fraction, or the model takes any size and no `input_shape` that fits
            is given (but for `measure="parameters"`).

    Source: gates and ranking: Molchanov et al., CVPR 2019; random gates: Dai et al., ICML 2018;
    both as pruners of merged networks: PAM (He et al., KDD 2021, section 5).

    Example:
    >>> import keras, tfmot_pam
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"),
    ...                           keras.layers.Dense(2)])
    >>> gated = tfmot_pam.prune_channels(model, 0.75, "magnitude")
    >>> tfmot_pam.strip_pruning(gated).layers[1].units
    2
    """
    of_tf_keras = is_tf_keras(model)
    model = as_keras(model, "`model`")
    check_model(model, "`model`")
    network = read(model)
    _check_not_gated(network)
    _check_options(scope, min_channels, width_multiple, observations, kl_weight)
    check_seed(seed)
    _check_policy(pruning_policy)
    kind = find_importance(importance)
    if hasattr(pruning_policy, "ensure_model_supports_pruning"):
        pruning_policy.ensure_model_supports_pruning(model)
    prunable = find_prunable(network, pruning_policy)
    if usage is not None:
        usage = check_usage(usage, prunable.tasks)
    wanted = _wanted(pruning_schedule, importance, kind)
    schedule = pruning_schedule if callable(pruning_schedule) else None
    inputs = _inputs(network, data, importance, kind, seed)
    settings = PruningSettings(
        schedule=schedule,
        importance=importance,
        measure=measure,
        usage=usage,
        scope=scope,
        min_channels=min_channels,
        width_multiple=width_multiple,
        observations=observations,
        kl_weight=kl_weight,
        seed=seed,
        of_tf_keras=of_tf_keras,
        input_shape=_input_shape(input_shape, inputs),
    )
    if measure not in ("channels", "parameters"):
        warn_of_uncounted(settings.sized(prunable).network)
    check_reachable(prunable, settings, wanted)
    if wanted is None or schedule is not None:
        return gated_model(prunable, settings)
    prunable, keep = choose(prunable, settings, wanted, inputs)
    gated = emit(insert_gates(prunable, settings), cls=GatedModel)
    gated.gates.mask.assign(keep.astype("float32"))
    return gated


def gated_model(prunable: PrunableChannels, settings: PruningSettings) -> GatedModel:
    """The model of a network that is pruned while it trains, all gates open."""
    stochastic = find_importance(settings.importance).stochastic
    return emit(insert_gates(prunable, settings, stochastic), cls=GatedModel)


def strip_pruning(model: keras.Model, data: Any = None) -> keras.Model:
    """Removes the channels that pruning switched off: the result is an ordinary smaller model.

    Use it after the gated model of `prune_channels` was fitted. It computes what the gated model
    computes, and can be saved, fine-tuned, merged, pruned again or exported.

    Args:
        model: A model from `prune_channels`; it is not changed.
        data: Inputs of the training split, in any form that `merge` takes, on which batch-norm
            statistics are estimated anew. Use it where channels were removed and the model was not
            trained since; None keeps the statistics.

    Returns:
        A functional model of ordinary layers, of the generation of Keras that `prune_channels` was
        given. Its attribute `pruning_history` holds the `PruningHistory`.

    Raises:
        TypeError: `model` is no functional Keras model.
        ValueError: it has no gates.

    Example:
    >>> import keras, tfmot_pam
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="hidden"),
    ...                           keras.layers.Dense(2)])
    >>> small = tfmot_pam.strip_pruning(tfmot_pam.prune_channels(model, 0.5, "random"))
    >>> small.pruning_history.widths
    {'hidden': 8}
    """
    check_model(model, "`model`")
    ungated = remove_gates(read(model))
    network = attention_together(remove_channels(ungated.graph, ungated.keep).network)
    if data is not None:
        network = reestimated(network, calibration_inputs(network, data))
    smaller = emit(network)
    if ungated.gates.config["settings"].of_tf_keras:
        smaller = to_tf_keras(smaller)
    smaller.pruning_history = record(ungated.graph, ungated.keep)
    return smaller


def _check_not_gated(network: Network) -> None:
    if gates_of(network) is not None:
        raise ValueError(
            f"The model '{network.name}' has gates already. Expected a model without. Call "
            "strip_pruning() first, or go on fitting this one."
        )


def _check_options(
    scope: Any, min_channels: Any, width_multiple: Any, observations: Any, kl_weight: Any
) -> None:
    if scope not in _SCOPES:
        raise ValueError(f"Unknown `scope`: {scope!r}. Expected one of {_SCOPES}. Choose one.")
    counts = {
        "min_channels": min_channels,
        "width_multiple": width_multiple,
        "observations": observations,
    }
    for name, value in counts.items():
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(
                f"`{name}` must be a whole number of at least 1. Received: {value!r}. Use 1."
            )
    if not isinstance(kl_weight, numbers.Real) or not float(kl_weight) >= 0:
        raise ValueError(f"`kl_weight` must be 0 or more. Received: {kl_weight!r}. Use 1e-5.")


def _check_policy(policy: Any) -> None:
    if policy is not None and not callable(getattr(policy, "allow_pruning", None)):
        raise TypeError(
            "`pruning_policy` must be a TFMOT PruningPolicy, with a method allow_pruning(layer). "
            f"Received: {policy!r} of type {type(policy).__name__}. Leave it out to prune all "
            "layers."
        )


def _wanted(pruning_schedule: Any, importance: Any, kind: Importance) -> float | None:
    """The fraction to be removed in the end, None where only the schedule knows."""
    if not isinstance(pruning_schedule, numbers.Real):
        if not callable(pruning_schedule):
            raise TypeError(
                "`pruning_schedule` must be a TFMOT PruningSchedule, or the fraction to remove at "
                f"once. Received: {pruning_schedule!r} of type {type(pruning_schedule).__name__}. "
                "Pass such as tfmot.sparsity.keras.PolynomialDecay(0.0, 0.6, 0, 600)."
            )
        if kind.inputs:
            raise ValueError(
                f"importance={importance!r} removes channels at once, before any training. "
                f"Received a schedule: {pruning_schedule!r}. Pass the fraction to remove, such as "
                "0.5, and data=x."
            )
        ask(pruning_schedule, 0)
        return final_fraction(pruning_schedule)
    if not 0 < float(pruning_schedule) < 1:
        raise ValueError(
            f"Received pruning_schedule={pruning_schedule!r}. Expected a fraction above 0 and "
            "below 1 to remove at once, or a TFMOT PruningSchedule. Choose one."
        )
    if not kind.at_once:
        able = [name for name, found in IMPORTANCES.items() if found.at_once]
        raise ValueError(
            f"importance={importance!r} is learnt while the model trains, so channels cannot be "
            f"removed at once. Pass a schedule and fit the model, or choose one of {able}."
        )
    return float(pruning_schedule)


def _inputs(
    network: Network, data: Any, importance: Any, kind: Importance, seed: int
) -> Inputs | None:
    if not kind.inputs:
        return None
    if data is None:
        raise ValueError(
            f"importance={importance!r} looks at what the layers compute. Received no data. Pass "
            "inputs of the training split as data=x; labels are not needed."
        )
    return calibration_inputs(network, data, seed)


def _input_shape(wanted: InputShape | None, inputs: Inputs | None) -> InputShape | None:
    """The size at which a model is counted: what is told, or that of the data."""
    if inputs is None or isinstance(wanted, Mapping):
        return wanted
    if isinstance(inputs, Mapping):
        own = {name: array.shape[1:] for name, array in inputs.items()}
        return own if wanted is None else wanted
    if wanted is None or tuple(wanted) == inputs.shape[1:]:
        return inputs.shape[1:]
    raise ValueError(
        f"`input_shape` is {wanted!r}, and `data` holds inputs of the shape {inputs.shape[1:]}. "
        "Expected the same. Leave `input_shape` out, or resize the data."
    )


def calibration_inputs(network: Network, data: Any, seed: int = 0) -> Inputs:
    """Inputs of a network out of the user's data, in the types that the network takes."""
    heads = heads_of(network_heads(network))
    found = take_samples(data, heads, input_shapes(network), samples=_SAMPLES, seed=seed)
    return as_types(found.inputs, input_types(network))
