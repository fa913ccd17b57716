"""Samples out of arrays in any of the accepted forms, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmot_pam.data.samples import HeadSamples, Samples
from tfmot_pam.graph.heads import Heads, Inputs, InputShapes, heads_of, leaves
from tfmot_pam.graph.inputs import count

FORMS = (
    "(x, {task: y}), x alone, {task: (x, y)}, {task: x}, with sample weights as a third "
    "element, or a tf.data.Dataset or "
    "keras.utils.PyDataset that yields batches of one of these"
)
_CHUNK_BYTES = 1 << 26


def parse(value: Any, tasks: Heads, input_shape: InputShapes, where: str) -> Samples:
    """Reads arrays in any of the accepted forms; `where` names them in error messages.

    Where a task has several heads, they may be given under its name, nested as its outputs are, or
    each under its own.
    """
    tasks = heads_of(tasks)
    if isinstance(value, Mapping) and not _are_inputs(value, tasks, input_shape):
        check_tasks(value, tasks, where)
        by_head: dict[str, HeadSamples] = {}
        known: dict[int, Inputs] = {}
        for task, heads in tasks.items():
            parts = {task: heads} if task in value else {head: (head,) for head in heads}
            for name, own in parts.items():
                found = _parse_pair(
                    value[name], {name: own}, input_shape, f"{where}[{name!r}]", known
                )
                by_head.update(found)
    else:
        by_head = _parse_pair(value, tasks, input_shape, where, {})
    inputs = [own.x for own in by_head.values()]
    return Samples(by_head, all(x is inputs[0] for x in inputs))


def _are_inputs(value: Mapping, tasks: Mapping, input_shape: InputShapes) -> bool:
    """Whether a dict holds the inputs by name, and not something for each task."""
    return isinstance(input_shape, Mapping) and set(value) == set(input_shape) != set(tasks)


def _parse_pair(
    value: Any,
    tasks: Mapping[str, tuple[str, ...]],
    input_shape: InputShapes,
    where: str,
    known: dict[int, Inputs],
) -> dict[str, HeadSamples]:
    """Reads `(x, labels, weights)`, `(x, labels)` or `x` that holds for all of `tasks`.

    Args:
        value: What is read.
        tasks: The heads of each task.
        input_shape: Shapes of the inputs.
        where: Names it in error messages.
        known: Keeps inputs by identity, which tells what is shared.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) not in (1, 2, 3):
        raise ValueError(
            f"`{where}` is a tuple of {len(parts)} elements; expected (x, labels, sample_weight), "
            "(x, labels) or x alone. Several inputs are a dict of arrays by name."
        )
    if id(parts[0]) not in known:
        known[id(parts[0])] = _inputs(parts[0], input_shape, where)
    x = known[id(parts[0])]
    labels = _by_head(parts[1] if len(parts) > 1 else None, tasks, where)
    weights = _weights(parts[2] if len(parts) > 2 else None, tasks, count(x), where)
    return {
        head: HeadSamples(x, _labels(y, count(x), f"{where} labels of {head!r}"), weights.get(head))
        for head, y in labels.items()
    }


def _by_head(labels: Any, tasks: Mapping[str, tuple[str, ...]], where: str) -> dict[str, Any]:
    """Labels by head, out of those by task, by head, or of the only task."""
    if labels is None:
        return dict.fromkeys(head for heads in tasks.values() for head in heads)
    if len(tasks) == 1 and not (isinstance(labels, Mapping) and _names_tasks(labels, tasks)):
        labels = dict.fromkeys(tasks, labels)
    elif not isinstance(labels, Mapping):
        raise ValueError(
            f"The labels in `{where}` are one {type(labels).__name__}, but there are "
            f"{len(tasks)} tasks. Pass (x, {{task: y}}) with the tasks {list(tasks)}."
        )
    check_tasks(labels, tasks, f"{where} labels", ", or None for a task without labels")
    found: dict[str, Any] = {}
    for task, heads in tasks.items():
        if task not in labels:
            own = {head: labels[head] for head in heads}
        elif heads == (task,):
            own = {task: labels[task]}
        else:
            own = dict.fromkeys(heads) if labels[task] is None else leaves(task, labels[task])
        if set(own) != set(heads):
            raise ValueError(
                f"The labels of {task!r} in `{where}` are for {sorted(own)}; its outputs are "
                f"{sorted(heads)}. Nest them as the outputs are, with None for those without "
                "labels."
            )
        found |= {head: own[head] for head in heads}
    return found


def _names_tasks(labels: Mapping, tasks: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a dict is by task or head; of one task with several it may be the task's own."""
    ((task, heads),) = tasks.items()
    return len(heads) == 1 or task in labels or set(labels) <= set(heads)


def _weights(
    value: Any, tasks: Mapping[str, tuple[str, ...]], length: int, where: str
) -> dict[str, np.ndarray | None]:
    """Weights of samples by head, from one array for all tasks or a dict."""
    given = value if isinstance(value, Mapping) else dict.fromkeys(tasks, value)
    heads = {head for own in tasks.values() for head in own}
    unknown = [key for key in given if key not in tasks and key not in heads]
    if unknown:
        raise ValueError(
            f"The sample weights in `{where}` are for unknown tasks {unknown}; the tasks are "
            f"{list(tasks)}. Pass one array for all, or a dict by some of these."
        )
    found: dict[str, np.ndarray | None] = {}
    for task, weights in given.items():
        if weights is None:
            continue
        what = f"{where} sample weights of {task!r}"
        array = _array(weights, what)
        if array.shape not in ((length,), (length, 1)):
            raise ValueError(
                f"`{what}` has shape {array.shape}; expected ({length},), one weight per sample. "
                "Entries of a label that shall not count are NaN, -1 or 255 in the labels."
            )
        if not np.isfinite(array).all() or array.min() < 0:
            raise ValueError(
                f"`{what}` has values that are negative or not finite. Expected weights of at "
                "least 0: 0 leaves a sample out."
            )
        array = array.reshape(length).astype("float32", copy=False)
        found |= dict.fromkeys(tasks.get(task, (task,)), array)
    return found


def check_tasks(
    given: Mapping, tasks: Mapping[str, tuple[str, ...]], where: str, remedy: str = ""
) -> None:
    """Raises unless there is something for every task, or for each of its heads."""
    heads = {head for own in tasks.values() for head in own}
    unknown = [key for key in given if key not in tasks and key not in heads]
    if unknown:
        raise ValueError(
            f"`{where}` is for unknown tasks {unknown}; the tasks are {list(tasks)}. "
            "A dict is read as {task: ...}: rename or leave out the others."
        )
    missing = [
        task
        for task, own in tasks.items()
        if task not in given and not all(head in given for head in own)
    ]
    if missing:
        raise ValueError(
            f"`{where}` has nothing for the tasks {missing}; it has {list(given)}. "
            f"Add them{remedy}."
        )


def _array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, str | bytes | list | tuple | Mapping) or not hasattr(value, "__array__"):
        raise TypeError(
            f"`{where}` is of type {type(value).__name__}, which is none of the accepted forms: "
            f"{FORMS}. Convert lists with numpy.asarray."
        )
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{where}` must hold numbers. Received an array of dtype {array.dtype}.")
    return array


def _inputs(value: Any, input_shape: InputShapes, where: str) -> Inputs:
    if not isinstance(input_shape, Mapping):
        if isinstance(value, Mapping):
            raise TypeError(
                f"x in `{where}` is a dict of {list(value)}, but the models take one input of the "
                f"shape {tuple(input_shape)}. Pass one array."
            )
        return _input(value, input_shape, where)
    if not isinstance(value, Mapping):
        raise TypeError(
            f"x in `{where}` is of type {type(value).__name__}, but the models have the inputs "
            f"{list(input_shape)}. Pass a dict of arrays by these names."
        )
    missing = [name for name in input_shape if name not in value]
    unknown = [name for name in value if name not in input_shape]
    if missing or unknown:
        raise ValueError(
            f"x in `{where}` has the inputs {list(value)}; the models have {list(input_shape)}. "
            f"Missing: {missing}; unknown: {unknown}. Pass an array for each of them; of those "
            "that a task does not read it may be zeros."
        )
    found = {
        name: _input(value[name], shape, f"{where}[{name!r}]")
        for name, shape in input_shape.items()
    }
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"The inputs in `{where}` have different numbers of samples: {lengths}. Pass one row "
            "a sample in each."
        )
    return found


def _input(value: Any, input_shape: tuple[int | None, ...], where: str) -> np.ndarray:
    x = _array(value, where)
    shape = x.shape[1:]
    if len(shape) != len(input_shape) or any(
        want not in (None, have) for have, want in zip(shape, input_shape, strict=True)
    ):
        hint = "Reshape or resize it to what the models take."
        if len(x.shape) == len(input_shape):
            hint = "If these are single samples, put them into batches first."
        raise ValueError(
            f"x in `{where}` has shape {x.shape}; expected (n, "
            f"{', '.join(str(size) for size in input_shape)}). {hint}"
        )
    if len(x) == 0:
        raise ValueError(f"x in `{where}` is empty. Pass at least one sample.")
    _check_finite(x, f"x in `{where}`")
    return x


def _labels(value: Any, length: int, where: str) -> np.ndarray | None:
    if value is None:
        return None
    y = _array(value, where)
    rows = len(y) if y.ndim else 0
    if rows != length:
        raise ValueError(
            f"`{where}` has {rows} rows, but x has {length}. Pass one label per sample."
        )
    _check_finite(y, f"`{where}`", gaps=True)
    return y


def _check_finite(array: np.ndarray, what: str, gaps: bool = False) -> None:
    """Raises ValueError where values are infinite, or NaN, which `gaps` allows."""
    if array.dtype.kind != "f":
        return
    # In pieces: a mask of a memory-mapped array could be larger than the memory.
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        finite = ~np.isinf(part) if gaps else np.isfinite(part)
        if not finite.all():
            row = start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
            raise ValueError(
                f"{what} has {'' if gaps else 'NaN or '}infinite values, first in row {row}. "
                "Remove or repair them" + (", or put NaN where there is no label." if gaps else ".")
            )
