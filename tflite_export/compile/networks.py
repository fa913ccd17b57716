"""What is written into one folder: one network for all combinations, or one for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tflite_export.compile import subnetworks
from tflite_export.compile.model_inputs import inputs_of

if TYPE_CHECKING:
    import keras

    from tfmot_pam.graph.sizes import InputShape


def split(
    model: Any,
    combinations: Any,
    input_shape: InputShape | None = None,
) -> list[tuple[keras.Model, list[tuple[str, ...]]]]:
    """Exportable models, each with the combinations that are written from it, in model order.

    Args:
        model: What the user passed: a model, or a dict from combinations to models.
        combinations: As in `export`.
        input_shape: As in `export`.

    Raises:
        TypeError: A model or a combination is of another type.
        ValueError: A model cannot be exported or lacks the tasks of its key; the dict is empty,
            has a combination twice or lacks one that is asked for; or its models take different
            inputs.
    """
    if not isinstance(model, Mapping):
        model = subnetworks.exportable(model, input_shape)
        return [(model, subnetworks.choose_combinations(model.output, combinations))]
    found: dict[frozenset[str], tuple[keras.Model, list[tuple[str, ...]]]] = {}
    for key, given in model.items():
        network = subnetworks.exportable(given, input_shape)
        (chosen,) = subnetworks.choose_combinations(network.output, [key])
        if frozenset(chosen) in found:
            raise ValueError(
                f"The dict of models has the combination {sorted(chosen)} twice. Expected each "
                "once. Leave one of them out."
            )
        found[frozenset(chosen)] = network, [chosen]
    if not found:
        raise ValueError("The dict of models is empty. Expected a model for each combination.")
    _check_inputs([network for network, _ in found.values()])
    if isinstance(combinations, str) and combinations == "all":
        return list(found.values())
    tasks = list(dict.fromkeys(task for _, (chosen,) in found.values() for task in chosen))
    wanted = subnetworks.choose_combinations(tasks, combinations)
    missing = [chosen for chosen in wanted if frozenset(chosen) not in found]
    if missing:
        raise ValueError(
            f"There is no model for the combinations {missing}. The dict has models for "
            f"{[chosen for _, (chosen,) in found.values()]}. Name one or more of these."
        )
    return [found[frozenset(chosen)] for chosen in wanted]


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


def _check_inputs(models: Sequence[keras.Model]) -> None:
    inputs = {
        (name, tuple(tensor.shape), str(tensor.dtype))
        for model in models
        for name, tensor in inputs_of(model).items()
    }
    single = all(len(model.inputs) == 1 for model in models)
    if len({name for name, *_ in inputs}) < len(inputs) or (single and len(inputs) > 1):
        raise ValueError(
            f"The networks of one folder must take the same input. Received inputs of (name, "
            f"shape, type): {sorted(inputs)}. Build them on inputs that are alike."
        )
