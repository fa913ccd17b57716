"""Flags that several programs have, and what their texts mean."""

from __future__ import annotations

import pathlib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from tflite_export.programs.data_files import DataOptions, Wanted
from tflite_export.programs.loading import load_model

Parts = tuple[str, ...]


def define_models(values: flags.FlagValues, name: str = "model", what: str = "") -> None:
    """Defines the flag that names saved models by task, once for each."""
    flags.DEFINE_multi_string(
        name,
        [],
        what
        or "A trained model: task=file.keras, or file.h5, of Keras 3 or tf_keras; once for each "
        "task. A model that was merged before needs no name: it stands for all its tasks.",
        flag_values=values,
    )


def define_data(values: flags.FlagValues) -> None:
    """Defines the flags that name a data set and say how it is read."""
    flags.DEFINE_string(
        "data",
        None,
        "Training data. A .npz file: the inputs as 'x' (or by the inputs' names), labels by the "
        "tasks' names. A .csv file, or a folder with one: images in the column 'file', labels by "
        "the tasks' names. TFRecord files, with --data_spec. Or module:function, or "
        "file.py:function, that returns what tfmot_pam.merge takes.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_spec",
        None,
        'A JSON file that says what is in records: {"x": {"feature": "image", "kind": "image"}, '
        '"digit": {"feature": "label", "kind": "int64"}}; kinds are float, int64, image, raw.',
        flag_values=values,
    )
    flags.DEFINE_list(
        "pixel_range",
        ["0", "255"],
        "What the darkest and the brightest value of an image file become.",
        flag_values=values,
    )


def define_run(values: flags.FlagValues) -> None:
    """Defines seed and verbosity."""
    flags.DEFINE_integer("seed", 0, "Seed of everything random.", flag_values=values)
    flags.DEFINE_integer("verbose", 1, "0 for silence.", flag_values=values)


def data_options(values: flags.FlagValues) -> DataOptions:
    """How the flags of `define_data` say that files are read."""
    try:
        low, high = map(float, values.pixel_range)
    except ValueError as error:
        raise ValueError(
            f"--pixel_range is {','.join(values.pixel_range)!r}. Expected two numbers. Pass such "
            "as 0,1."
        ) from error
    return DataOptions(values.data_spec, (low, high))


def load_models(entries: Sequence[str], flag: str = "model") -> Any:
    """The models that `task=file` entries name, in a form that `merge` takes.

    Raises:
        ValueError: there is none, a task is named twice, or a file cannot be loaded.
    """
    if not entries:
        raise ValueError(f"No --{flag} is given. Pass --{flag}=task=file.keras, once a task.")
    parts = [_task_and_file(entry) for entry in entries]
    named = [task for task, _ in parts if task]
    for task in named:
        if named.count(task) > 1:
            raise ValueError(f"--{flag} names the task {task!r} twice. Give each model its own.")
    models = [(task, load_model(path)) for task, path in parts]
    if not named:
        return [model for _, model in models]
    found: dict[str, Any] = {}
    for named_task, model in models:
        for task in [named_task] if named_task else _tasks_of(model, flag):
            if task in found:
                raise ValueError(f"Two models have the task {task!r}. Give each its own name.")
            found[task] = model
    return found


def _task_and_file(entry: str) -> tuple[str, str]:
    """The task, empty where none is named, and the file."""
    task, equals, path = entry.partition("=")
    return (task, path) if equals and not pathlib.Path(entry).is_file() else ("", entry)


def _tasks_of(model: Any, flag: str) -> Sequence[str]:
    if not isinstance(model.output, Mapping):
        raise ValueError(
            f"A model with one output ('{model.name}') has no name, others have. Pass "
            f"--{flag}=task=file for each."
        )
    return tuple(model.output)


def wanted_of(models: Any) -> Wanted:
    """What the models take and yield, by which their data are read."""
    from tfmot_pam.pipeline.inputs import (
        heads_of_originals,
        inputs_of_originals,
        originals_by_task,
    )

    originals = originals_by_task(models)
    return Wanted(inputs_of_originals(originals), heads_of_originals(originals))


def read_by_name(
    entries: Sequence[str], flag: str, read: Callable[[str], Any] = float
) -> dict[str, Any]:
    """Entries `name:value` as a dict.

    Raises:
        ValueError: an entry has another form, or a name is given twice.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        name, colon, text = entry.rpartition(":")
        try:
            value = read(text)
        except ValueError as error:
            raise ValueError(_expected(flag, entry)) from error
        if not (name and colon and text) or name in found:
            raise ValueError(_expected(flag, entry))
        found[name] = value
    return found


def _expected(flag: str, entry: str) -> str:
    return (
        f"--{flag} has the entry {entry!r}. Expected name:value, separated by commas, each name "
        "once. Correct it."
    )


def read_usage(entries: Sequence[str] | None) -> dict[Parts, float] | None:
    """`digit:0.7,digit+speaker:0.3` as probabilities of combinations; None where there is none."""
    if not entries:
        return None
    return {split_combination(key): p for key, p in read_by_name(entries, "usage").items()}


def split_combination(text: str) -> Parts:
    """The tasks of `digit+speaker`; what stands there as %XX is one character of a name."""
    return tuple(urllib.parse.unquote(task) for task in text.split("+"))


def read_per_task(entries: Sequence[str], flag: str, read: Callable[[str], Any] = float) -> Any:
    """One value for all, `0.01`, or one for each task or head, `digit:0.01,detector/boxes:0.02`."""
    if len(entries) == 1 and ":" not in entries[0]:
        try:
            return read(entries[0])
        except ValueError as error:
            raise ValueError(_expected(flag, entries[0])) from error
    found: dict[str, Any] = {}
    for name, value in read_by_name(entries, flag, read).items():
        task, slash, head = name.partition("/")
        if slash:
            found.setdefault(task, {})[head] = value
        else:
            found[name] = value
    return found


def read_shape(sizes: Sequence[str] | None) -> tuple[int, ...] | None:
    """The sizes of `--input_shape`."""
    if sizes is None:
        return None
    try:
        return tuple(int(size) for size in sizes)
    except ValueError as error:
        raise ValueError(
            f"--input_shape is {','.join(sizes)!r}. Expected whole numbers separated by commas. "
            "Pass such as 224,224,3."
        ) from error


def folder_to_write(path: str, *, ours: bool = False, remedy: str = "") -> pathlib.Path:
    """The folder to write, which is not made yet; one that holds files is refused unless `ours`.

    Raises:
        ValueError: it exists and is not empty, or is a file.
    """
    folder = pathlib.Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not ours:
        raise ValueError(
            f"'{folder}' exists and is not an empty folder. Expected a new one. Name another"
            f"{remedy}."
        )
    return folder
