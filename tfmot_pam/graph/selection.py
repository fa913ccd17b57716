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
from tfmot_pam.graph.heads import flat_outputs, own_output
from tfmot_pam.graph.network import (
    Network,
    Tensor,
    iterate_tensors,
    prune_to,
    scope_name,
    without_unread_inputs,
)


def task_names(network: Network) -> tuple[str, ...]:
    """The tasks of a network, in model order: the keys of its outputs.

    What a task yields may be a nest of tensors itself. A network with one bare output tensor has
    one task, named like the output's layer; one with a list of several, named like the network.
    """
    outputs = network.outputs
    if isinstance(outputs, dict):
        return tuple(outputs)
    tensors = list(iterate_tensors(outputs))
    return (network.node(tensors[0].node).layer if len(tensors) == 1 else network.name,)


def network_heads(network: Network) -> dict[str, dict[str, Tensor]]:
    """For each task of a network its heads: the tensors that it yields, by their names."""
    return flat_outputs(network.outputs, task_names(network))


def head_weights(network: Network, weights: Mapping[str, float] | None) -> list[float]:
    """How much each output tensor counts, in order: as its head does, or its task, or 1."""
    given = weights or {}
    return [
        given.get(head, given.get(task, 1.0))
        for task, heads in network_heads(network).items()
        for head in heads
    ]


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
    """The smallest sub-network that yields the outputs of `tasks`; outputs are a dict.

    Of several inputs it takes those that these tasks need.
    """
    names = task_names(network)
    chosen = check_tasks(tasks, names)
    outputs = network.outputs
    if not isinstance(outputs, dict):
        outputs = {names[0]: own_output(outputs, names[0])}
    chosen_outputs = {task: outputs[task] for task in chosen}
    return without_unread_inputs(prune_to(network, chosen_outputs))


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
        generation of Keras that `model` is of. Of several inputs it takes those that the
        combination needs.

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
