"""What is written into one folder: one network for all combinations, or one for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def split(model: Any, combinations: Any) -> list[tuple[Any, Any]]:
    """Models, each with the combinations that are written from it.

    Args:
        model: What the user passed: a model, or a dict from combinations to models.
        combinations: As in `export`.

    Raises:
        TypeError: A key of the dict is not a combination.
        ValueError: The dict is empty, two of its keys are the same combination, or it lacks one
            that is asked for.
    """
    if not isinstance(model, Mapping):
        return [(model, combinations)]
    models = {}
    for key, network in model.items():
        chosen = _combination(key)
        if chosen in models:
            raise ValueError(
                f"The dict of models has the combination {sorted(chosen)} twice. Expected each "
                "once. Leave one of them out."
            )
        models[chosen] = network
    if not models:
        raise ValueError("The dict of models is empty. Expected a model for each combination.")
    wanted = list(models)
    if not (isinstance(combinations, str) and combinations == "all"):
        if isinstance(combinations, str):
            raise TypeError(
                f"`combinations` must be 'all' or a list of combinations. Received: "
                f"{combinations!r}. Pass a list."
            )
        wanted = list(dict.fromkeys(_combination(one) for one in combinations))
    missing = [sorted(chosen) for chosen in wanted if chosen not in models]
    if missing or not wanted:
        raise ValueError(
            f"There is no model for the combinations {missing}. The dict has models for "
            f"{[sorted(chosen) for chosen in models]}. Name one or more of these."
        )
    return [(models[chosen], [tuple(chosen)]) for chosen in wanted]


def _combination(key: Any) -> frozenset[str]:
    """The tasks of a key of the dict: a sequence of task names, or a string such as `"a+b"`."""
    tasks = key.split("+") if isinstance(key, str) else key
    if not isinstance(tasks, Iterable) or not all(isinstance(task, str) for task in tasks):
        raise TypeError(
            f"The keys of a dict of models must be combinations. Received: {key!r} of type "
            f"{type(key).__name__}. Pass tuples of task names."
        )
    return frozenset(tasks)


def only_mode(mode: str) -> str:
    """The mode of a folder of several networks, which share no weights.

    Raises:
        ValueError: One file was asked for.
    """
    if mode == "signatures":
        raise ValueError(
            "Networks of a dict share no weights, so one file would hold all of them and save "
            "nothing. Received: mode='signatures'. Expected 'files'."
        )
    return "files"


def check_inputs(models: Sequence[keras.Model]) -> None:
    """Raises if models of one folder do not take the same input.

    Args:
        models: Models that `exportable` returned.

    Raises:
        ValueError: Names, shapes or types of their inputs differ.
    """
    from tflite_export.converter import input_name

    inputs = [
        (input_name(model), tuple(model.inputs[0].shape), str(model.inputs[0].dtype))
        for model in models
    ]
    if len(set(inputs)) > 1:
        raise ValueError(
            f"The networks of one folder must take the same input. Received inputs of (name, "
            f"shape, type): {sorted(set(inputs))}. Build them on inputs that are alike."
        )
