"""Combinations of tasks, and the sub-network that yields the outputs of one."""

from __future__ import annotations

import collections
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.graph.generation import emit_like, read_model
from tfmot_pam.graph.network import Network, iterate_tensors, prune_to, scope_name


def task_names(network: Network) -> tuple[str, ...]:
    """The tasks of a network, in model order: the keys of its outputs.

    A network with one bare output tensor has one task, named like the output's layer.

    Raises:
        ValueError: the outputs are a list, or dicts within dicts.
    """
    outputs = network.outputs
    if isinstance(outputs, dict) and not any(isinstance(v, (dict, list)) for v in outputs.values()):
        return tuple(outputs)
    tensors = list(iterate_tensors(outputs))
    if len(tensors) == 1 and not isinstance(outputs, dict):
        return (network.node(tensors[0].node).layer,)
    raise ValueError(
        f"The model '{network.name}' has outputs without task names. Expected a dict of outputs by "
        "task name, or a single output. Build it as keras.Model(inputs, {'task': output, ...})."
    )


def all_combinations(tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """The 2^T - 1 non-empty combinations, small ones first, in task order."""
    sizes = range(1, len(tasks) + 1)
    return [chosen for size in sizes for chosen in itertools.combinations(tasks, size)]


def file_name(tasks: Sequence[str]) -> str:
    """The name of a combination's files: its tasks joined with "+".

    What a file system or the "+" forbids within a task's name becomes %XX.
    """
    return "+".join(
        re.sub(r'[\x00-\x1f/\\:*?"<>|%+]', lambda found: f"%{ord(found[0]):02X}", task)
        for task in tasks
    )


def combination_masks(tasks: Sequence[str]) -> dict[tuple[str, ...], int]:
    """Every combination of tasks as a bit mask, as `tasks_of_nodes` has it."""
    bits = {task: 1 << place for place, task in enumerate(tasks)}
    return {chosen: sum(bits[task] for task in chosen) for chosen in all_combinations(tasks)}


def check_tasks(tasks: Sequence[str] | str, known: Sequence[str]) -> tuple[str, ...]:
    """`tasks` as a tuple in model order; raises on unknown, repeated or no tasks."""
    if isinstance(tasks, str):
        tasks = (tasks,)
    if not isinstance(tasks, Iterable):
        raise TypeError(
            f"A combination must be a task name or a sequence of them. Received: {tasks!r} of type "
            f"{type(tasks).__name__}. Choose among {list(known)}."
        )
    tasks = tuple(tasks)
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise ValueError(
            f"Unknown tasks: {unknown}. The model's tasks are {list(known)}. "
            "Choose among these names."
        )
    if not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(
            f"A combination names at least one task, each of them once. Received: {tasks!r}. "
            f"Choose among {list(known)}."
        )
    return tuple(task for task in known if task in tasks)


def select(network: Network, tasks: Sequence[str]) -> Network:
    """The smallest sub-network that yields the outputs of `tasks`; outputs are a dict."""
    names = task_names(network)
    chosen = check_tasks(tasks, names)
    outputs = network.outputs
    if not isinstance(outputs, dict):
        outputs = {names[0]: next(iterate_tensors(outputs))}
    return prune_to(network, {task: outputs[task] for task in chosen})


def tasks_of_nodes(network: Network) -> dict[str, int]:
    """For each node, the tasks whose outputs depend on it, as a bit mask in task order."""
    found = dict.fromkeys((node.name for node in network.nodes), 0)
    outputs = network.outputs
    by_task = outputs.values() if isinstance(outputs, dict) else [outputs]
    for t, structure in enumerate(by_task):
        for tensor in iterate_tensors(structure):
            found[tensor.node] |= 1 << t
    for node in reversed(network.nodes):
        for tensor in node.inputs:
            found[tensor.node] |= found[node.name]
    return found


def tasks_of_layers(network: Network) -> dict[str, int]:
    """For each layer, the tasks that need any of its calls, as `tasks_of_nodes` has it."""
    found = dict.fromkeys(network.layers, 0)
    for node, mask in tasks_of_nodes(network).items():
        found[network.node(node).layer] |= mask
    return found


def sums_by_combination(
    tasks: Sequence[str], needed: Mapping[Any, int], values: Mapping[Any, float]
) -> dict[tuple[str, ...], float]:
    """What each combination of tasks needs, in sum.

    Combinations are many, sets of tasks that need the same things few: those are summed first.

    Args:
        tasks: The tasks.
        needed: For each thing, the tasks that need it, as `tasks_of_nodes` has it.
        values: What a thing counts.
    """
    totals: dict[int, list[float]] = collections.defaultdict(list)
    for name, value in values.items():
        totals[needed[name]].append(value)
    by_mask = {mask: math.fsum(found) for mask, found in totals.items()}
    return {
        chosen: math.fsum(value for mask, value in by_mask.items() if mask & own)
        for chosen, own in combination_masks(tasks).items()
    }


def combinations(model: keras.Model) -> list[tuple[str, ...]]:
    """Lists every combination of a model's tasks that may run together.

    Args:
        model: A merged model, or any functional model whose outputs are a dict by task.

    Returns:
        The 2^T - 1 tuples of task names in model order, small ones first.

    Raises:
        TypeError: `model` is no functional or sequential Keras model.
        ValueError: its outputs have no task names.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, {name: keras.layers.Dense(2)(x) for name in ("age", "smile")})
    >>> tfmot_pam.combinations(model)
    [('age',), ('smile',), ('age', 'smile')]
    """
    return all_combinations(task_names(read_model(model)))


def select_tasks(model: keras.Model, tasks: Sequence[str] | str) -> keras.Model:
    """Builds the functional sub-network that runs one combination of tasks.

    Use it to run, measure or export just what some tasks need. Source: PAM (He et al., KDD 2021,
    section 3): what a combination needs is exactly the groups of its tasks.

    Args:
        model: A merged model, or any functional model whose outputs are a dict by task.
        tasks: Task names of the combination, in any order; a single name works too.

    Returns:
        A new functional model with a copy of the same weights and a dict of outputs, of the
        generation of Keras that `model` is of.

    Raises:
        TypeError: `model` is no functional or sequential Keras model.
        ValueError: a task is unknown or named twice, or none is named.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, {name: keras.layers.Dense(2)(x) for name in ("age", "smile")})
    >>> list(tfmot_pam.select_tasks(model, ["smile"]).output)
    ['smile']
    """
    network = select(read_model(model), tasks)
    return emit_like(model, network.replace(name=scope_name(network.name, *network.outputs)))
