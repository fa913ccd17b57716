"""The arguments of `merge`: checked, and brought into one form."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.graph.arguments import check_number
from tfmot_pam.graph.heads import own_output
from tfmot_pam.graph.network import Network, iterate_tensors, prune_to, without_unread_inputs
from tfmot_pam.graph.reader import check_model, read
from tfmot_pam.merging.methods import MergeMethod, Threshold
from tfmot_pam.merging.relevance import ESTIMATORS
from tfmot_pam.merging.ungroup import without_groups

DEFAULT_RHO = 0.05
WIDTHS = ("own", "union")


def check_options(
    rho: float | None,
    alpha: float | Mapping[str, float] | None,
    share: float | None,
    width: str,
    min_group: int,
    samples: int,
    method: MergeMethod,
) -> Threshold:
    """The threshold, after all options were found to be in range."""
    if width not in WIDTHS:
        raise ValueError(f"Unknown `width`: {width!r}. Expected one of {WIDTHS}. Choose one.")
    options: dict[str, Any] = {"rho": rho, "alpha": alpha, "share": share}
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) > 1:
        raise ValueError(
            f"Received several thresholds: {given}. Expected at most one of `rho`, `alpha` and "
            "`share`. Drop the others."
        )
    if rho is not None:
        check_number(
            "rho",
            rho,
            "0 <= rho < 1, a share of each task's relevance",
            lambda rho: 0 <= rho < 1,
            "Choose one between 0.005 and 0.2.",
        )
    if share is not None:
        check_number(
            "share",
            share,
            "0 < share <= 1, the share of shared channels",
            lambda share: 0 < share <= 1,
            "To share nothing, use method='separate'.",
        )
    if alpha is not None:
        by_task: Mapping[Any, Any] = alpha if isinstance(alpha, Mapping) else {None: alpha}
        for task, value in by_task.items():
            check_number(
                "alpha" if task is None else f"alpha[{task!r}]",
                value,
                "a relevance in nats, below that of all channels",
                lambda value: True,  # the ceiling is known once relevance is
                "Pass one number, or a dict of one number a task.",
            )
    whole = isinstance(min_group, numbers.Integral) and isinstance(samples, numbers.Integral)
    if not whole:
        raise TypeError(
            f"Received min_group={min_group!r} and samples={samples!r}. Expected whole numbers: at "
            "least 1 channel and 2 samples. Use the defaults, 4 and 1024."
        )
    if min_group < 1 or samples < 2:
        raise ValueError(
            f"Received min_group={min_group!r} and samples={samples!r}. Expected at least 1 "
            "channel and 2 samples. Use the defaults, 4 and 1024."
        )
    if method.matches:
        refused = sorted(given.keys() - {"share"})
        if refused:
            raise ValueError(
                f"Received {refused[0]}={given[refused[0]]!r} with the method {method.name!r}. It "
                "measures no relevance: expected `share`, the share of channels that it makes one, "
                "or no threshold for all that it can. Pass `share`."
            )
        return Threshold(share=share or 1.0)
    return Threshold(**given) if given else Threshold(rho=DEFAULT_RHO)


def check_estimator(estimator: Any) -> tuple[str, dict[str, Any]]:
    """The estimator's name and its own options."""
    options = {"name": estimator} if isinstance(estimator, str) else estimator
    if not isinstance(options, Mapping) or "name" not in options:
        error = ValueError if isinstance(options, Mapping) else TypeError
        raise error(
            f"`estimator` must be a name, or a dict with the entry 'name'. Received: {estimator!r} "
            f"of type {type(estimator).__name__}. Pass such as {{'name': 'kde', ...}}."
        )
    name = options["name"]
    if not isinstance(name, str) or name not in ESTIMATORS:
        raise ValueError(
            f"Received estimator={name!r}; expected one of {sorted(ESTIMATORS)}. Choose one."
        )
    return name, {key: value for key, value in options.items() if key != "name"}


def named_models(models: Any) -> dict[str, keras.Model]:
    """The models by task name."""
    if isinstance(models, Mapping):
        result = dict(models)
    elif isinstance(models, Sequence) and not isinstance(models, str):
        result = _by_head(models)
    else:
        raise TypeError(
            f"`models` must be a dict of models by task name, or a list. Received: {models!r} of "
            f"type {type(models).__name__}. Pass such as {{'digit': digit_model, ...}}."
        )
    if len(result) < 2:
        raise ValueError(
            f"`models` must hold at least two models. Received: {len(result)}. "
            "There is nothing to merge with one; prune a single model instead."
        )
    for task, model in result.items():
        if not isinstance(task, str) or not task:
            raise TypeError(f"Task names must be non-empty strings. Received: {task!r}. Rename it.")
        check_model(model, f"The model of {task!r}")
    return result


def _by_head(models: Sequence[keras.Model]) -> dict[str, keras.Model]:
    result: dict[str, keras.Model] = {}
    for position, model in enumerate(models):
        check_model(model, f"Model {position} of `models`")
        for name in _tasks_in_a_list(model, position):
            if name in result:
                raise ValueError(
                    f"Two models have a head named {name!r}: '{result[name].name}' and "
                    f"'{model.name}'. Expected one name a task. Pass a dict of models by task "
                    "name, or name the output layers."
                )
            result[name] = model
    return result


def _tasks_in_a_list(model: keras.Model, position: int) -> list[str]:
    """The tasks of a model that was merged before, or the name of a model's one head."""
    network = read(model)
    of_layers = {task for layer in network.layers.values() for task in layer.tasks or ()}
    if isinstance(network.outputs, Mapping) and of_layers >= network.outputs.keys():
        return list(network.outputs)
    outputs = list(iterate_tensors(network.outputs))
    if len(outputs) > 1:
        raise ValueError(
            f"Model {position} of `models`, '{model.name}', has {len(outputs)} outputs, so "
            "that no one of them names its task. Pass a dict of models by task name."
        )
    return [outputs[0].node.split("@")[0]]


def read_models(models: Mapping[str, keras.Model]) -> list[Network]:
    """The models as networks, each with what it yields for its task as outputs.

    Of models that were merged before, layers are in one piece again.
    """
    networks = []
    for task, model in models.items():
        network = read(model)
        own = own_output(network.outputs, task)
        if len(list(iterate_tensors(own))) < len(list(iterate_tensors(network.outputs))):
            network = without_unread_inputs(prune_to(network, own))
        networks.append(without_groups(network.replace(outputs=own)))
    return networks
