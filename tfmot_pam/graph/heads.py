"""Heads and inputs: what a network yields for each task, and what it takes, by name.

A task's output is a tensor or any nest of them: a detector's are boxes and classes. Each tensor is
a *head*, which has its own labels, loss and metric; tasks are what combinations consist of. A head
is named like its task where that has no other, `task/key` or `task/0` otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.graph.network import Network, Shape, Tensor

# What Keras calls an input that was given no name.
_GIVEN_NAME = re.compile(r"input_layer(_\d+)?|input_\d+")
# The heads of each task, or the tasks alone where each has one.
Heads = Mapping[str, Collection[str]] | Sequence[str]
# One array of samples, or one for each of several inputs by name.
Inputs = np.ndarray | Mapping[str, np.ndarray]
# The shape of one input without the samples' axis, or one for each of several by name.
InputShapes = tuple[int | None, ...] | Mapping[str, tuple[int | None, ...]]


def leaves(name: str, structure: Any) -> dict[str, Any]:
    """The entries of nested dicts, lists and tuples, by the path to each.

    Example:
    >>> leaves("det", {"boxes": 1, "marks": [2, 3]})
    {'det/boxes': 1, 'det/marks/0': 2, 'det/marks/1': 3}
    """
    if isinstance(structure, Mapping):
        entries = list(structure.items())
    elif isinstance(structure, (list, tuple)):
        entries = list(enumerate(structure))
    else:
        return {name: structure}
    found: dict[str, Any] = {}
    for key, entry in entries:
        found |= leaves(f"{name}/{key}", entry)
    return found


def own_output(outputs: Any, task: str) -> Any:
    """What a model yields for a task: its only output, its entry for the task, or all of them."""
    if isinstance(outputs, Mapping):
        return outputs.get(task, outputs if len(outputs) > 1 else next(iter(outputs.values())))
    if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
        return outputs[0]
    return outputs


def flat_outputs(outputs: Any, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each task its heads and what they are, out of a model's outputs or a network's.

    Args:
        outputs: A dict by task, or what the one task has.
        tasks: The tasks, in model order.

    Raises:
        ValueError: two heads would have one name, or a task has none.
    """
    by_task = outputs
    if not isinstance(outputs, Mapping):
        (task,) = tasks
        by_task = {task: own_output(outputs, task)}
    found = {task: leaves(task, by_task[task]) for task in tasks}
    names = [head for heads in found.values() for head in heads]
    empty = [task for task, heads in found.items() if not heads]
    if len(set(names)) < len(names) or empty:
        raise ValueError(
            f"The outputs are called {names}"
            f"{f', and the tasks {empty} have none' if empty else ''}. Expected at least one for "
            "each task, and one name each. Rename the tasks, or the keys of their outputs."
        )
    return found


def heads_of(tasks: Heads) -> dict[str, tuple[str, ...]]:
    """The heads of each task; a task that has no other is one."""
    if isinstance(tasks, Mapping):
        return {task: tuple(heads) for task, heads in tasks.items()}
    return {task: (task,) for task in tasks}


def all_heads(tasks: Heads) -> tuple[str, ...]:
    """The heads of all tasks, in model order."""
    return tuple(head for heads in heads_of(tasks).values() for head in heads)


def input_names(network: Network) -> tuple[str, ...]:
    """The names of a network's inputs, which are those of its input layers."""
    return tuple(network.node(tensor.node).layer for tensor in network.inputs)


def input_shapes(network: Network) -> InputShapes:
    """The shape of one input without the samples' axis; of several a dict by name."""
    found = {name: network.shape(tensor)[1:] for name, tensor in named_inputs(network).items()}
    return found if is_by_name(network) else next(iter(found.values()))


def named_inputs(network: Network) -> dict[str, Tensor]:
    """The inputs by name."""
    return dict(zip(input_names(network), network.inputs, strict=True))


def is_by_name(network: Network) -> bool:
    """Whether what a network takes is a dict by name, or would have to be one."""
    return network.dict_inputs or len(network.inputs) > 1


def input_types(network: Network) -> dict[str, str]:
    """The type of every input by name."""
    return {name: str(network.layers[name].config["dtype"]) for name in input_names(network)}


def common_types(networks: Iterable[Network]) -> dict[str, str]:
    """The types of the inputs of networks by name, those of the first network first."""
    found: dict[str, str] = {}
    for network in networks:
        for name, kind in input_types(network).items():
            found.setdefault(name, kind)
    return found


def common_inputs(networks: Mapping[str, Network]) -> InputShapes:
    """What networks take together: the one input that each has, or all inputs by name.

    Args:
        networks: The networks by task.

    Raises:
        ValueError: inputs of one name have different shapes, or those of several models have no
            names to match them by.
    """
    single = {input_shapes(network) for network in networks.values() if not is_by_name(network)}
    if len(single) == 1 and not any(map(is_by_name, networks.values())):
        return single.pop()
    found: dict[str, Shape] = {}
    shapes = {
        task: {name: network.shape(t)[1:] for name, t in named_inputs(network).items()}
        for task, network in networks.items()
    }
    unnamed = [name for own in shapes.values() for name in own if _GIVEN_NAME.fullmatch(name)]
    differing = [
        name
        for own in shapes.values()
        for name, shape in own.items()
        if found.setdefault(name, shape) != shape
    ]
    if differing or (unnamed and len(networks) > 1):
        told = f"{unnamed} are names that Keras gave" if unnamed else f"{differing} differ"
        raise ValueError(
            f"The models have inputs of different shapes: {shapes}; {told}. Expected inputs of one "
            "shape, or several with a name for each, which is the same in all models that have it. "
            "Train them on inputs of one size, resize within the models, or name the inputs: "
            "keras.Input(shape, name='image')."
        )
    return found


def given_to(network: Network, x: Inputs) -> dict[Tensor, np.ndarray]:
    """The arrays that a network's inputs get: by name, or the one that there is.

    Raises:
        ValueError: an input gets nothing.
    """
    if not isinstance(x, Mapping):
        if len(network.inputs) != 1:
            raise ValueError(
                f"'{network.name}' has the inputs {list(input_names(network))}. Received: one "
                "array. Expected a dict of arrays by these names. Pass one."
            )
        return {network.inputs[0]: x}
    missing = [name for name in input_names(network) if name not in x]
    if missing:
        raise ValueError(
            f"'{network.name}' has the inputs {list(input_names(network))}. Received: "
            f"{list(x)}. Expected an array for each of them. Add {missing}."
        )
    return {tensor: x[name] for name, tensor in named_inputs(network).items()}
