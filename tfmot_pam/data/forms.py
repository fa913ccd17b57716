"""The accepted forms of `data`, told apart and checked.

A *form* is `(x, {task: y})`, `x` alone, `{task: (x, y)}` or `{task: x}`, with weights of samples
behind labels, as in Keras; a stream (a `tf.data.Dataset` or `keras.utils.PyDataset`) yields batches
that have a form themselves. Whatever came becomes one `Source` for all tasks, or one per task:
arrays in memory, or a stream.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from tfmot_pam.data.missing import may_have_gaps
from tfmot_pam.data.parsing import check_tasks, parse
from tfmot_pam.data.samples import Samples
from tfmot_pam.graph.heads import Heads, InputShapes, all_heads, heads_of


@dataclass(frozen=True)
class Source:
    """One independent origin of samples: the arrays or the stream of one or several tasks.

    Attributes:
        tasks: The heads of each task.
        input_shape: Shape of one input without the batch dimension; of several a dict by name.
        where: What it is called in errors.
        arrays: The samples, or None.
        stream: What yields them, or None.
    """

    tasks: Mapping[str, tuple[str, ...]]
    input_shape: InputShapes
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


def open_sources(data: Any, tasks: Heads, input_shape: InputShapes) -> tuple[Source, ...]:
    """Reads `data` into its independent sources: one for all tasks, or one per task."""
    tasks = heads_of(tasks)
    if is_stream(data):
        return (Source(tasks, input_shape, "data", stream=data),)
    if isinstance(data, Mapping) and any(is_stream(value) for value in data.values()):
        check_tasks(data, tasks, "data")
        sources = []
        for task, heads in tasks.items():
            where, own = f"data[{task!r}]", {task: heads}
            if is_stream(data[task]):
                sources.append(Source(own, input_shape, where, stream=data[task]))
            else:
                arrays = parse(data[task], own, input_shape, where)
                sources.append(Source(own, input_shape, where, arrays=arrays))
        return tuple(sources)
    samples = parse(data, tasks, input_shape, "data")
    if samples.shared:
        return (Source(tasks, input_shape, "data", arrays=samples),)
    return tuple(
        Source(_tasks_of(part, tasks), input_shape, _where(part), arrays=part)
        for part in samples.apart
    )


def _tasks_of(samples: Samples, tasks: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The tasks of which samples have heads, with these."""
    found = {task: tuple(h for h in heads if h in samples.by_head) for task, heads in tasks.items()}
    return {task: heads for task, heads in found.items() if heads}


def _where(samples: Samples) -> str:
    return "data" + "".join(f"[{head!r}]" for head in samples.by_head)


def read_arrays(data: Any, tasks: Heads, input_shape: InputShapes) -> Samples | None:
    """Reads `data` completely if all of it is arrays; None if any of it is a stream.

    Args:
        data: The user's data in one of the forms of the module's docstring.
        tasks: Names of the tasks, in model order, or the heads of each.
        input_shape: Shape of one input without the batch dimension; None matches any size. Of
            several inputs a dict by name.

    Returns:
        The whole data, not copied, or None.

    Raises:
        TypeError: `data` has none of the forms.
        ValueError: The data is empty, not finite, of another shape, or of other tasks.
    """
    sources = open_sources(data, tasks, input_shape)
    known = [source.arrays for source in sources if source.arrays is not None]
    if len(known) < len(sources):
        return None
    by_head = {head: own for samples in known for head, own in samples.by_head.items()}
    return Samples({head: by_head[head] for head in all_heads(tasks)}, len(sources) == 1)


def heads_with_gaps(data: Any, tasks: Heads, input_shape: InputShapes) -> frozenset[str]:
    """The heads of which some labels may not count: of a stream, which is not read, all."""
    samples = None if data is None else read_arrays(data, tasks, input_shape)
    if samples is None:
        return frozenset(() if data is None else all_heads(tasks))
    return frozenset(head for head, own in samples.by_head.items() if may_have_gaps(own.y))


def as_form(samples: Samples) -> Any:
    """Samples in one of the accepted forms, not copied."""
    if samples.shared:
        x = next(iter(samples.by_head.values())).x
        labels = {head: own.y for head, own in samples.by_head.items()}
        weights = {head: own.weight for head, own in samples.by_head.items()}
        weighted = any(weight is not None for weight in weights.values())
        return (x, labels, weights) if weighted else (x, labels)
    return {
        head: (own.x, own.y) if own.weight is None else (own.x, own.y, own.weight)
        for head, own in samples.by_head.items()
    }


def is_stream(value: Any) -> bool:
    """Whether `value` is a `tf.data.Dataset` or a `keras.utils.PyDataset`."""
    if isinstance(value, keras.utils.PyDataset):
        return True
    # A tf.data object exists only where TensorFlow has been imported already.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)
