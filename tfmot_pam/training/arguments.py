"""The arguments of training that Keras would refuse late, or in its own words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from tfmot_pam.graph.arguments import check_number
from tfmot_pam.graph.heads import InputShapes


def check_training(
    learning_rate: Any, optimizer: Any, losses: Any, callbacks: Any
) -> list[keras.callbacks.Callback]:
    """Raises unless training can begin with these; returns the callbacks.

    Args:
        learning_rate: As in `fine_tune`; with an optimizer object it does not count.
        optimizer: As in `fine_tune`.
        losses: As in `fine_tune`.
        callbacks: As in `fine_tune`.

    Raises:
        TypeError: one of them is of a wrong kind.
        ValueError: a name is unknown, or the rate is out of range.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        _check_optimizer_name(optimizer)
        if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            check_number(
                "learning_rate",
                learning_rate,
                "at least 0, or a Keras schedule",
                lambda rate: 0 <= rate < math.inf,
                "Pass such as 1e-3.",
            )
    check_losses(losses)
    given = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    wrong = [one for one in given if not isinstance(one, keras.callbacks.Callback)]
    if wrong or not isinstance(callbacks, Iterable):
        raise TypeError(
            f"`callbacks` must be a list of Keras 3 callbacks. Received: {callbacks!r} of type "
            f"{type(callbacks).__name__}. Pass such as [keras.callbacks.TerminateOnNaN()]."
        )
    return given


def _check_optimizer_name(optimizer: Any) -> None:
    if optimizer is None:
        return
    if not isinstance(optimizer, str):
        raise TypeError(
            "`optimizer` must be a Keras 3 optimizer or the name of one. Received: "
            f"{optimizer!r} of type {type(optimizer).__name__}. Pass such as 'adam'."
        )
    try:
        keras.optimizers.get(optimizer)
    except ValueError as error:
        raise ValueError(
            f"Unknown `optimizer`: {optimizer!r}. Expected the name of a Keras optimizer, such as "
            "'adam' or 'sgd', or an optimizer object. Choose one."
        ) from error


def check_losses(losses: Any) -> None:
    """Raises unless `losses` gives tasks losses that Keras knows, or is None."""
    if losses is None:
        return
    if not isinstance(losses, Mapping):
        raise TypeError(
            f"`losses` must be a dict of Keras losses by task. Received: {losses!r} of type "
            f"{type(losses).__name__}. Pass such as {{'age': 'mse'}}."
        )
    for task, loss in losses.items():
        try:
            known = loss is not None and callable(keras.losses.get(loss))
        except (ValueError, TypeError):
            known = False
        if not known:
            raise ValueError(
                f"Unknown loss of the task {task!r}: {loss!r}. Expected a Keras loss, its name, or "
                "a function of labels and outputs. Choose one, such as 'mse'."
            )


def check_teacher_input(task: str, teacher: Any, shape: InputShapes) -> None:
    """Raises ValueError if a teacher takes inputs of another shape than the student."""
    inputs = getattr(teacher, "inputs", None)
    if not inputs or len(inputs) != 1 or isinstance(shape, Mapping):
        return  # a model that cannot say what it takes, or takes it by name
    own = tuple(inputs[0].shape[1:])
    fits = len(own) == len(shape) and all(
        None in (one, other) or one == other for one, other in zip(own, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"The teacher of the task {task!r} takes inputs of shape {('n', *own)}; the merged "
            f"model takes {('n', *shape)}. Pass the model that was merged for this task."
        )
