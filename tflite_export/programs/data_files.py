"""Data sets that a command line names: arrays, records, images with a table, a function.

Every kind of file becomes arrays by name, and one rule says what the names mean (`as_data`).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflite_export.programs.records import read_records
from tflite_export.programs.tables import read_table

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a data set is read for.

    Args:
        inputs: The shape of the models' one input without the samples' axis, or of several a dict
            by name.
        tasks: The heads of each task.
    """

    inputs: tuple[int | None, ...] | Mapping[str, tuple[int | None, ...]]
    tasks: Mapping[str, tuple[str, ...]]

    @property
    def named_inputs(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes by the names that the inputs have in files: `x` where there is one."""
        return dict(self.inputs) if isinstance(self.inputs, Mapping) else {"x": self.inputs}


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """How files are read.

    Args:
        spec: A JSON file that says what is in the records of a TFRecord file.
        pixel_range: What the values 0 and 255 of an image become.
    """

    spec: str | None = None
    pixel_range: tuple[float, float] = (0.0, 255.0)


def load_data(source: str, wanted: Wanted, options: DataOptions, flag: str = "data") -> Any:
    """Reads a data set, in a form that `merge` and `compress` take.

    Args:
        source: An `.npz` file; a `.csv` file, or a folder with one, of labels and images; TFRecord
            files, a pattern such as `train-*.tfrecord`; or a function `module:function` or
            `file.py:function` without arguments that returns the data.
        wanted: What the models take and yield.
        options: How files are read.
        flag: The flag that names it, for errors.

    Raises:
        ImportError: a function's module cannot be imported.
        OSError: a file cannot be read.
        TypeError: what is named as a function is none.
        ValueError: there is no such file, or it holds something else than the models need.
    """
    for holds, read in _KINDS:
        if holds(source, options):
            return read(source, wanted, options)
    raise ValueError(
        f"--{flag} is {source!r}. Expected a .npz file, a .csv file of labels and images or a "
        "folder with one, TFRecord files with --data_spec, or module:function. Check the path."
    )


def as_data(arrays: Mapping[str, np.ndarray], wanted: Wanted, where: str) -> Any:
    """Arrays by name in a form that `merge` takes.

    Inputs are `x`, or have the names of the models' inputs where there are several. A task's
    labels have its name (or `y_` before it), those of a task with several outputs the names of
    its heads, such as `detector/boxes`; weights of samples are `weight`, or `weight_` and a task.
    Where tasks have samples of their own, their inputs are `x_` and the task.

    Raises:
        ValueError: inputs are missing, or an array has none of these names.
    """
    left = dict(arrays)
    heads = [head for own in wanted.tasks.values() for head in own]
    labels = {head: _taken(left, head, f"y_{head}") for head in heads}
    weights = {name: _taken(left, f"weight_{name}") for name in {*wanted.tasks, *heads}}
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    if "weight" in left:
        weights = {**dict.fromkeys(wanted.tasks, left.pop("weight")), **weights}
    inputs = wanted.named_inputs
    own = {task: left.pop(f"x_{task}") for task in wanted.tasks if f"x_{task}" in left}
    missing = [name for name in inputs if name not in left]
    if own:
        missing = [f"x_{task}" for task in wanted.tasks if task not in own]
    x = {name: left.pop(name) for name in inputs if name in left and not own}
    if missing or left:
        raise ValueError(
            f"'{where}' has the arrays {sorted(arrays)}. Expected inputs {list(inputs)} (or "
            "x_ and a task's name for each), labels named like the tasks "
            f"{heads}, and perhaps weights, weight or weight_ and a task. Missing: {missing}; "
            f"unknown: {sorted(left)}. Rename or leave them out."
        )
    if own:
        return {task: _own(task, own[task], labels, weights, wanted) for task in wanted.tasks}
    found = x if isinstance(wanted.inputs, Mapping) else x["x"]
    labelled = any(y is not None for y in labels.values())
    nested = {task: _nested(task, labels, wanted) for task in wanted.tasks}
    return (found, nested, weights) if weights else (found, nested) if labelled else found


def _own(task: str, x: np.ndarray, labels: Mapping, weights: Mapping, wanted: Wanted) -> Any:
    """The data of one task that has samples of its own."""
    y = _nested(task, labels, wanted)
    heads = (task, *wanted.tasks[task])
    own = {name: weight for name, weight in weights.items() if name in heads}
    return (x, {task: y}, own) if own else (x, {task: y})


def _nested(task: str, labels: Mapping[str, Any], wanted: Wanted) -> Any:
    """A task's labels: one array, of several outputs a dict of one for each."""
    heads = wanted.tasks[task]
    if heads == (task,):
        return labels[task]
    found = {head.removeprefix(f"{task}/"): labels[head] for head in heads}
    return found if any(y is not None for y in found.values()) else None


def _taken(arrays: dict[str, np.ndarray], *names: str) -> np.ndarray | None:
    """The array that has one of these names, which is taken out."""
    for name in names:
        if name in arrays:
            return arrays.pop(name)
    return None


def _arrays(source: str, wanted: Wanted, options: DataOptions) -> Any:
    del options
    if not pathlib.Path(source).is_file():
        raise ValueError(f"There is no file '{source}'. Pass a saved .npz file.")
    try:
        with np.load(source) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (EOFError, ValueError, AttributeError) as error:
        raise ValueError(
            f"Cannot read '{source}' ({error}). Pass what numpy.savez wrote."
        ) from error
    return as_data(arrays, wanted, source)


def _table(source: str, wanted: Wanted, options: DataOptions) -> Any:
    path = pathlib.Path(source)
    if path.is_dir():
        tables = sorted(path.glob("*.csv"))
        if len(tables) != 1:
            raise ValueError(
                f"The folder '{path}' has the tables {[table.name for table in tables]}. Expected "
                "one .csv file with a row for each image. Name the one to read."
            )
        (path,) = tables
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'. Pass a .csv file of labels and images.")
    return as_data(read_table(path, wanted.named_inputs, options.pixel_range), wanted, str(path))


def _records(source: str, wanted: Wanted, options: DataOptions) -> Any:
    arrays = read_records(source, options.spec, wanted.named_inputs, options.pixel_range)
    return as_data(arrays, wanted, source)


def _called(source: str, wanted: Wanted, options: DataOptions) -> Any:
    del wanted, options
    return load_function(source)()


def load_function(source: str) -> Callable[..., Any]:
    """A function that is named `module:function` or `file.py:function`.

    Raises:
        ImportError: there is no such module, or it has no such function.
        TypeError: it cannot be called.
        ValueError: there is no such file, or the name has another form.
    """
    place, _, name = source.rpartition(":")
    if not (place and name):
        raise ValueError(f"{source!r} names no function. Pass module:function or file.py:function.")
    if place.endswith(".py"):
        path = pathlib.Path(place)
        specification = importlib.util.spec_from_file_location(path.stem, path)
        if not path.is_file() or specification is None or specification.loader is None:
            raise ValueError(f"There is no file '{place}'. Pass file.py:function of one that is.")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    else:
        if "" not in sys.path:
            sys.path.insert(0, "")  # A console script does not look where it is called.
        module = importlib.import_module(place)
    if not hasattr(module, name):
        raise ImportError(f"'{place}' has no {name!r}. Name a function of it.")
    found = getattr(module, name)
    if not callable(found):
        raise TypeError(f"{source!r} is of type {type(found).__name__}. Name a function.")
    return found


def _is_table(source: str, options: DataOptions) -> bool:
    return source.endswith(".csv") or (options.spec is None and pathlib.Path(source).is_dir())


_KINDS: tuple[tuple[Callable[[str, DataOptions], bool], Callable[..., Any]], ...] = (
    (lambda source, options: source.endswith(".npz"), _arrays),
    (_is_table, _table),
    (lambda source, options: options.spec is not None or ".tfrecord" in source, _records),
    (lambda source, options: ":" in source, _called),
)
