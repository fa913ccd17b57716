"""What stands in the manifest of an exported folder: which entries, and of which kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tflite_export import json_files

_TEXTS = json_files.many(json_files.text)
_TASKS = json_files.many(json_files.text, 1)


def _dtype(value: Any, where: str) -> None:
    """Accepts names of types that say how many bits a number has."""
    json_files.text(value, where)
    if not re.fullmatch(r"[a-z]+[0-9]{1,3}", value):
        raise ValueError(f"{where} is {value!r}, expected a type such as 'float32'")


def _file_name(value: Any, where: str) -> None:
    """Accepts names of files of the folder, and no way out of it."""
    json_files.text(value, where)
    if value in ("", ".", "..") or re.search(r"[/\\\0]", value):
        raise ValueError(f"{where} is {value!r}, expected the name of a file of the folder")


_TENSORS = json_files.table(
    json_files.record({"shape": json_files.many(json_files.whole), "dtype": _dtype}), 1
)
_AGREEMENT = json_files.record(
    {
        "max_abs_error": json_files.number,
        "mean_abs_error": json_files.number,
        "label_agreement": json_files.maybe(json_files.number),
    }
)
_SIGNATURE = json_files.record(
    {
        "name": json_files.text,
        "tasks": _TASKS,
        "inputs": _TENSORS,
        "outputs": _TENSORS,
        "agreement": json_files.table(_AGREEMENT, 1),
        "macs": json_files.whole,
        "parameters": json_files.whole,
    },
    {"latency_ms": json_files.table(json_files.number)},
)
_MANIFEST = json_files.record(
    {
        "tasks": _TASKS,
        "quantization": json_files.text,
        "checked_on": json_files.record({"inputs": json_files.text, "number": json_files.whole}),
        "accuracy": json_files.maybe(json_files.table(json_files.number)),
        "files": json_files.many(
            json_files.record(
                {
                    "file": _file_name,
                    "bytes": json_files.whole,
                    "sha256": json_files.text,
                    "signatures": json_files.many(_SIGNATURE, 1),
                }
            ),
            1,
        ),
        "other_files": json_files.many(_file_name),
        "versions": json_files.table(json_files.text),
    },
    {"quantization_aware_training": json_files.switch, "quantizer": json_files.text},
)

# What says which files are an export's, whichever version wrote it.
LISTING = json_files.record(
    {"files": json_files.many(json_files.record({"file": json_files.text}))},
    {"other_files": _TEXTS},
)


def check(content: Mapping[str, Any]) -> None:
    """Raises ValueError with a reason unless a manifest is whole and agrees with itself."""
    _MANIFEST(content, "the manifest")
    names = [entry["file"] for entry in content["files"]]
    if len(set(names)) != len(names):
        raise ValueError(f"the files are {names}, expected each once")
    for entry in content["files"]:
        signatures = [signature["name"] for signature in entry["signatures"]]
        if len(set(signatures)) != len(signatures):
            raise ValueError(f"{entry['file']} has the signatures {signatures}, expected each once")
        for signature in entry["signatures"]:
            name = f"signature {signature['name']!r} of {entry['file']}"
            _check_signature(name, signature, content["tasks"])


def _check_signature(name: str, signature: Mapping[str, Any], known: Sequence[str]) -> None:
    tasks = signature["tasks"]
    if not {*tasks} <= {*known}:
        raise ValueError(f"{name} has the tasks {tasks}, expected some of {known}")
    outputs = outputs_of_tasks(signature)
    listed = [output for own in outputs.values() for output in own]
    if not all(outputs.values()) or set(listed) != set(signature["outputs"]):
        raise ValueError(
            f"{name} has the outputs {sorted(signature['outputs'])}, expected those of {tasks}"
        )
    if set(signature["agreement"]) != set(listed):
        raise ValueError(
            f"{name} has the agreement {sorted(signature['agreement'])}, expected that of {listed}"
        )


def outputs_of_tasks(signature: Mapping[str, Any]) -> dict[str, list[str]]:
    """The outputs of each task of a signature: one of its name, or several below it."""
    tasks, outputs = signature["tasks"], list(signature["outputs"])
    return {
        task: [task]
        if task in outputs
        else [name for name in outputs if name not in tasks and name.startswith(f"{task}/")]
        for task in tasks
    }
