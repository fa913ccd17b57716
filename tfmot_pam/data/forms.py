"""The accepted forms of `data`, told apart and checked.

A *form* is `(x, {task: y})`, `x` alone, `{task: (x, y)}` or `{task: x}`, with weights of samples
behind labels, as in Keras; a stream (a `tf.data.Dataset` or `keras.utils.PyDataset`) yields batches
that have a form themselves. Whatever came becomes one `Source` for all tasks, or one per task:
arrays in memory, or a stream.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfmot_pam.data.missing import may_have_gaps

FORMS = (
    "(x, {task: y}), x alone, {task: (x, y)}, {task: x}, with sample weights as a third "
    "element, or a tf.data.Dataset or "
    "keras.utils.PyDataset that yields batches of one of these"
)
_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True)
class TaskSamples:
    """The samples of one task.

    Attributes:
        x: Inputs, shape `[n, *input_shape]`, in the user's dtype.
        y: Labels with `n` rows in the user's encoding, or None without labels. NaN, negative
            class indices and 255 where it is no class are labels that do not count.
        weight: Weights of the samples in training, `[n]`, or None for 1.
    """

    x: np.ndarray
    y: np.ndarray | None
    weight: np.ndarray | None = None

    def rows(self, chosen: np.ndarray, x: np.ndarray | None = None) -> TaskSamples:
        """Some of the samples, with their inputs if these are there already."""
        return TaskSamples(
            self.x[chosen] if x is None else x,
            None if self.y is None else np.asarray(self.y)[chosen],
            None if self.weight is None else self.weight[chosen],
        )


@dataclass(frozen=True)
class Samples:
    """Samples in memory, by task.

    Attributes:
        by_task: The samples of every task, in task order.
        shared: True if all tasks have the same inputs (then it is the same array object).
    """

    by_task: Mapping[str, TaskSamples]
    shared: bool

    @property
    def inputs(self) -> np.ndarray:
        """The inputs of all tasks, each array once; every data set counts alike."""
        found = [samples.x for samples in self.by_task.values()]
        return found[0] if self.shared else np.concatenate(found)

    def only(self, tasks: Sequence[str]) -> Samples:
        """The samples of some of the tasks."""
        by_task = {task: self.by_task[task] for task in tasks}
        return Samples(by_task, self.shared or len(by_task) == 1)


@dataclass(frozen=True)
class Source:
    """One independent origin of samples: the arrays or the stream of one or several tasks."""

    tasks: tuple[str, ...]
    input_shape: tuple[int | None, ...]
    where: str
    arrays: Samples | None = None
    stream: Any = None

    @property
    def steps(self) -> int | None:
        """Batches of the stream in one pass; None if it does not know."""
        if isinstance(self.stream, keras.utils.PyDataset):
            return self.stream.num_batches
        count = int(self.stream.cardinality())
        return None if count < 0 else count

    @property
    def endless(self) -> bool:
        """Whether one pass over the stream never ends."""
        if isinstance(self.stream, keras.utils.PyDataset):
            return self.stream.num_batches is None
        return self.stream is not None and int(self.stream.cardinality()) == -1

    def read(self) -> Iterator[Samples]:
        """Yields the checked batches of one pass over the stream."""
        found = False
        for index, batch in enumerate(self._raw_batches()):
            found = True
            where = f"batch {index} of {self.where}"
            yield parse(batch, self.tasks, self.input_shape, where)
        if not found:
            raise ValueError(
                f"`{self.where}` yields nothing (a {type(self.stream).__name__}). It must yield "
                "at least one batch. Check its length, filters and paths."
            )

    def _raw_batches(self) -> Iterator[Any]:
        if not isinstance(self.stream, keras.utils.PyDataset):
            yield from self.stream
        elif self.stream.num_batches is None:
            index = 0
            while True:
                yield self.stream[index]
                index += 1
        else:
            for index in range(self.stream.num_batches):
                yield self.stream[index]


def open_sources(
    data: Any, tasks: Sequence[str], input_shape: Sequence[int | None]
) -> tuple[Source, ...]:
    """Reads `data` into its independent sources: one for all tasks, or one per task."""
    tasks, input_shape = tuple(tasks), tuple(input_shape)
    if is_stream(data):
        return (Source(tasks, input_shape, "data", stream=data),)
    if isinstance(data, Mapping) and any(is_stream(value) for value in data.values()):
        _check_tasks(data, tasks, "data")
        sources = []
        for task in tasks:
            where = f"data[{task!r}]"
            if is_stream(data[task]):
                sources.append(Source((task,), input_shape, where, stream=data[task]))
            else:
                arrays = parse(data[task], (task,), input_shape, where)
                sources.append(Source((task,), input_shape, where, arrays=arrays))
        return tuple(sources)
    samples = parse(data, tasks, input_shape, "data")
    if samples.shared:
        return (Source(tasks, input_shape, "data", arrays=samples),)
    return tuple(
        Source((task,), input_shape, f"data[{task!r}]", arrays=Samples({task: own}, True))
        for task, own in samples.by_task.items()
    )


def read_arrays(
    data: Any, tasks: Sequence[str], input_shape: Sequence[int | None]
) -> Samples | None:
    """Reads `data` completely if all of it is arrays; None if any of it is a stream.

    Args:
        data: The user's data in one of the forms of the module's docstring.
        tasks: Names of the tasks, in model order.
        input_shape: Shape of one input without the batch dimension; None matches any size.

    Returns:
        The whole data, not copied, or None.

    Raises:
        TypeError: `data` has none of the forms.
        ValueError: The data is empty, not finite, of another shape, or of other tasks.
    """
    sources = open_sources(data, tasks, input_shape)
    if any(source.arrays is None for source in sources):
        return None
    by_task = {task: own for source in sources for task, own in source.arrays.by_task.items()}
    return Samples(by_task, len(sources) == 1)


def tasks_with_gaps(
    data: Any, tasks: Sequence[str], input_shape: Sequence[int | None]
) -> frozenset[str]:
    """The tasks of which some labels may not count: of a stream, which is not read, all."""
    samples = None if data is None else read_arrays(data, tasks, input_shape)
    if samples is None:
        return frozenset(() if data is None else tasks)
    return frozenset(task for task, own in samples.by_task.items() if may_have_gaps(own.y))


def as_form(samples: Samples) -> Any:
    """Samples in one of the accepted forms, not copied."""
    if samples.shared:
        x = next(iter(samples.by_task.values())).x
        labels = {task: own.y for task, own in samples.by_task.items()}
        weights = {task: own.weight for task, own in samples.by_task.items()}
        weighted = any(weight is not None for weight in weights.values())
        return (x, labels, weights) if weighted else (x, labels)
    return {
        task: (own.x, own.y) if own.weight is None else (own.x, own.y, own.weight)
        for task, own in samples.by_task.items()
    }


def is_stream(value: Any) -> bool:
    """Whether `value` is a `tf.data.Dataset` or a `keras.utils.PyDataset`."""
    if isinstance(value, keras.utils.PyDataset):
        return True
    # A tf.data object exists only where TensorFlow has been imported already.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)


def parse(
    value: Any, tasks: tuple[str, ...], input_shape: tuple[int | None, ...], where: str
) -> Samples:
    """Reads arrays in any of the accepted forms; `where` names them in error messages."""
    if isinstance(value, Mapping):
        _check_tasks(value, tasks, where)
        by_task = {}
        for task in tasks:
            own = _parse_pair(value[task], (task,), input_shape, f"{where}[{task!r}]")
            by_task.update(own)
    else:
        by_task = _parse_pair(value, tasks, input_shape, where)
    inputs = [own.x for own in by_task.values()]
    return Samples(by_task, all(x is inputs[0] for x in inputs))


def _parse_pair(
    value: Any, tasks: tuple[str, ...], input_shape: tuple[int | None, ...], where: str
) -> dict[str, TaskSamples]:
    """Reads `(x, labels, weights)`, `(x, labels)` or `x` that holds for all of `tasks`."""
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) not in (1, 2, 3):
        raise ValueError(
            f"`{where}` is a tuple of {len(parts)} elements; expected (x, labels, sample_weight), "
            "(x, labels) or x alone. Several inputs are not supported: leave them out."
        )
    x = _inputs(parts[0], input_shape, where)
    labels = parts[1] if len(parts) > 1 else None
    weights = _weights(parts[2] if len(parts) > 2 else None, tasks, len(x), where)
    if labels is None:
        labels = dict.fromkeys(tasks)
    elif not isinstance(labels, Mapping):
        if len(tasks) > 1:
            raise ValueError(
                f"The labels in `{where}` are one {type(labels).__name__}, but there are "
                f"{len(tasks)} tasks. Pass (x, {{task: y}}) with the tasks {list(tasks)}."
            )
        labels = {tasks[0]: labels}
    _check_tasks(labels, tasks, f"{where} labels", ", or None for a task without labels")
    return {
        task: TaskSamples(
            x, _labels(labels[task], len(x), f"{where} labels of {task!r}"), weights.get(task)
        )
        for task in tasks
    }


def _weights(
    value: Any, tasks: tuple[str, ...], length: int, where: str
) -> dict[str, np.ndarray | None]:
    """Weights of samples by task, from one array for all tasks or a dict."""
    given = value if isinstance(value, Mapping) else dict.fromkeys(tasks, value)
    unknown = [key for key in given if key not in tasks]
    if unknown:
        raise ValueError(
            f"The sample weights in `{where}` are for unknown tasks {unknown}; the tasks are "
            f"{list(tasks)}. Pass one array for all, or a dict by some of these."
        )
    found = {}
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
        found[task] = array.reshape(length).astype("float32", copy=False)
    return found


def _check_tasks(given: Mapping, tasks: tuple[str, ...], where: str, remedy: str = "") -> None:
    unknown = [key for key in given if key not in tasks]
    if unknown:
        raise ValueError(
            f"`{where}` is for unknown tasks {unknown}; the tasks are {list(tasks)}. "
            "A dict is read as {task: ...}: rename or leave out the others."
        )
    missing = [task for task in tasks if task not in given]
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


def _inputs(value: Any, input_shape: tuple[int | None, ...], where: str) -> np.ndarray:
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
