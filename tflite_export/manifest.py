"""The `manifest.json` that says what lies in an exported folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tflite_export import verify

FILE_NAME = "manifest.json"


def file_entry(
    path: pathlib.Path, tasks: Sequence[str], signature: str, errors: Mapping[str, float]
) -> dict[str, Any]:
    """Describes one exported file.

    Args:
        path: The `.tflite` file.
        tasks: The tasks it computes, in model order.
        signature: Name of its signature.
        errors: Largest absolute difference from Keras, by task.

    Returns:
        Tasks, signature, tensors (name, shape, dtype), size, hash and errors, ready for JSON.
    """
    tensors = verify.describe_file(path, signature)
    content = path.read_bytes()
    return {
        "file": path.name,
        "tasks": list(tasks),
        "signature": signature,
        "inputs": tensors["inputs"],
        "outputs": {task: tensors["outputs"][task] for task in tasks},
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "max_abs_error": dict(errors),
    }


def write(
    folder: pathlib.Path,
    files: Sequence[Mapping[str, Any]],
    quantization: str,
    checked_on: Mapping[str, Any],
) -> None:
    """Writes the manifest of `files` into `folder`.

    Args:
        folder: The folder that holds the files.
        files: One `file_entry` per file.
        quantization: Name of the quantization of all of them.
        checked_on: The inputs the files were compared on.
    """
    content = {
        "files": list(files),
        "quantization": quantization,
        "checked_on": dict(checked_on),
        "versions": _versions(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def listed_names(folder: pathlib.Path) -> set[str]:
    """Returns the names of the files that an export wrote into `folder`, its manifest included.

    A folder without a readable manifest lists none.
    """
    try:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        return {FILE_NAME} | {entry["file"] for entry in content["files"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "ai-edge-litert": importlib.metadata.version("ai-edge-litert"),
    }
