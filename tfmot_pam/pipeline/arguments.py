"""The arguments of `compress`, checked."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tfmot_pam.graph.heads import Heads
from tfmot_pam.merging.merge import merge
from tfmot_pam.metrics.metric import Metric, by_mark, marks_of
from tfmot_pam.training.arguments import check_losses

# What `fine_tune_options` may hold.
LOSS_OPTIONS = ("class_weight", "label_weight", "losses", "temperature")
TRAINING_OPTIONS = ("batch_size", "dropout", "learning_rate", *LOSS_OPTIONS)


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a compression shall reach, and what it may take.

    Args:
        tolerances: The accuracy that each task may lose, or each head of a task with several.
        target: The share of the originals' computation to stop at, or None.
        effort: Epochs of training per network.
    """

    tolerances: Mapping[str, float]
    target: float | None
    effort: int


def check_goal(
    tasks: Heads,
    max_accuracy_drop: float | Mapping[str, Any],
    target: float | None,
    effort: int,
    metrics: Mapping[str, Metric | str] = MappingProxyType({}),
) -> Goal:
    """The goal, after all numbers were found to be in range.

    Args:
        tasks: The tasks, or the heads of each.
        max_accuracy_drop: What each may lose.
        target: The share of the computation to stop at, or None.
        effort: Epochs of training per network.
        metrics: Metrics of tasks or heads, from `find_metrics`: their tolerances are in its unit.
    """
    marks = marks_of(tasks, metrics)
    known = [mark for own in marks.values() for mark in own]
    if isinstance(max_accuracy_drop, Mapping):
        drops = by_mark(max_accuracy_drop, tasks)
        for task, own in marks.items():
            if task in drops and task not in own:
                drops |= dict.fromkeys(own, drops.pop(task))
    else:
        drops = dict.fromkeys(known, max_accuracy_drop)
    unknown = [mark for mark in drops if mark not in known]
    missing = [mark for mark in known if mark not in drops]
    if unknown or missing:
        raise ValueError(
            f"`max_accuracy_drop` is for the unknown tasks {unknown} and lacks {missing}. The "
            f"tasks are {known}. Give one number for all, or one for each of these."
        )
    for mark in known:
        name = f"max_accuracy_drop of {mark!r}"
        if isinstance(metrics.get(mark), Metric):
            _check_amount(name, drops[mark])
        else:
            _check_share(name, drops[mark], least_allowed=True)
    if target is not None:
        _check_share("target", target)
    check_count("effort", effort)
    tolerances = {mark: float(drops[mark]) for mark in known}
    return Goal(tolerances, target, int(effort))


def check_count(name: str, value: Any) -> None:
    """Raises ValueError unless a value is a whole number of at least 1."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1. Received: {value!r}.")


def check_name(name: str, value: Any) -> None:
    """Raises TypeError unless a value is a text that is not empty, or None."""
    if value is not None and not (isinstance(value, str) and value):
        raise TypeError(f"`{name}` must be a text, or None. Received: {value!r}.")


def check_training_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of training, after they were found to be known and in range."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(
            f"`fine_tune_options` must be a dict. Received: {options!r} of type "
            f"{type(options).__name__}. Pass such as {{'learning_rate': 1e-3}}."
        )
    unknown = [name for name in options or {} if name not in TRAINING_OPTIONS]
    if unknown:
        raise ValueError(
            f"`fine_tune_options` has the unknown entries {unknown}. Expected some of "
            f"{list(TRAINING_OPTIONS)}; compress() sets the rest itself. Leave them out."
        )
    found = dict(options or {})
    if "batch_size" in found:
        check_count("batch_size", found["batch_size"])
    dropout = found.get("dropout", 0.0)
    if not isinstance(dropout, numbers.Real) or not 0 <= float(dropout) <= 1:
        raise ValueError(
            f"`dropout` must be a factor, 0 <= x <= 1. Received: {dropout!r}. It multiplies the "
            "rates of dropout layers: pass 1 to train with them as they are."
        )
    rate = found.get("learning_rate", 1.0)
    if not isinstance(rate, numbers.Real) or not float(rate) > 0:
        raise ValueError(
            f"`learning_rate` must be a number above 0. Received: {rate!r}. compress() lets it "
            "fall itself: pass the rate to start from, such as 1e-3."
        )
    weight = found.get("label_weight", 0.5)
    if not isinstance(weight, numbers.Real) or not 0 <= float(weight) <= 1:
        raise ValueError(
            f"`label_weight` must be a share, 0 <= x <= 1. Received: {weight!r}. It is that of the "
            "labels in the loss of a task that has a teacher too: leave it out for 0.3."
        )
    check_losses(found.get("losses"))
    return found


def _check_amount(name: str, value: Any) -> None:
    if not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number. Received: {value!r}. Expected x >= 0.")
    if not 0 <= float(value) < math.inf:
        raise ValueError(
            f"`{name}` is in the unit of the task's metric: expected a number of at least 0, also "
            f"where lower is better. Received: {value!r}. Pass by how much it may get worse."
        )


def check_merge_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of merging, after they were found to be known."""
    known = inspect.signature(merge).parameters
    allowed = sorted(set(known) - {"models", "data", "method"})
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(
            f"`merge_options` must be a dict of arguments of merge(). Received: {options!r} of "
            f"type {type(options).__name__}. Pass such as {{'rho': 0.1}}."
        )
    if unknown := [name for name in options or {} if name not in allowed]:
        raise ValueError(
            f"`merge_options` has the unknown entries {unknown}. Expected some of {allowed}; "
            "compress() sets the rest itself. Leave them out."
        )
    return dict(options or {})


def check_directory(directory: Any, name: str = "directory") -> None:
    """Raises unless a directory to write into is one, or is to be made."""
    if directory is None:
        return
    if not isinstance(directory, (str, os.PathLike)):
        raise TypeError(
            f"`{name}` must be a path. Received: {directory!r} of type "
            f"{type(directory).__name__}. Pass such as 'rounds', or leave it out."
        )
    if pathlib.Path(directory).is_file():
        raise ValueError(
            f"`{name}` is the file '{directory}'. Expected a directory. Choose another name."
        )


def _check_share(name: str, value: Any, least_allowed: bool = False) -> None:
    wanted = "0 <= x < 1" if least_allowed else "0 < x < 1"
    if not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number. Received: {value!r}. Expected {wanted}.")
    if not 0 <= float(value) < 1 or (value == 0 and not least_allowed):
        raise ValueError(
            f"`{name}` is a share: expected {wanted}. Received: {value!r}. Divide percentages by "
            "100."
        )
