"""The `manifest.json` that says what lies in an exported folder."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tflite_export import json_files, verify
from tflite_export.ship import manifest_schema

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1


def file_entry(
    path: pathlib.Path,
    tasks: Mapping[str, Sequence[str]],
    agreements: Mapping[str, Mapping[str, verify.Agreement]],
    costs: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """Describes one exported file.

    Args:
        path: The `.tflite` file.
        tasks: The tasks of each of its signatures, in model order.
        agreements: By signature and output, how far the file is from Keras.
        costs: By signature, `macs` and `parameters`.

    Returns:
        Name, size, hash and signatures, ready for JSON (see docs/deployment.md).
    """
    tensors = verify.describe_file(path)
    content = path.read_bytes()
    return {
        "file": path.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "signatures": [
            {
                "name": name,
                "tasks": list(of_signature),
                "inputs": tensors[name]["inputs"],
                "outputs": {head: tensors[name]["outputs"][head] for head in agreements[name]},
                "agreement": {
                    head: dataclasses.asdict(found) for head, found in agreements[name].items()
                },
                **costs[name],
            }
            for name, of_signature in tasks.items()
        ],
    }


def write(folder: pathlib.Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a manifest into `folder`, and returns it.

    Args:
        folder: The folder that holds the files.
        content: The entries besides the schema's and the packages' versions.
    """
    manifest = {"schema_version": SCHEMA_VERSION, **content, "versions": _versions(content)}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")
    return manifest


def read(folder: str | pathlib.Path) -> dict[str, Any]:
    """Reads the manifest of an exported folder.

    Raises:
        ValueError: There is none, it is of another schema, or it is damaged.
    """
    path = pathlib.Path(folder, FILE_NAME)
    try:
        content = json_files.read(path)
        json_files.record({"schema_version": json_files.anything})(content, "the manifest")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"'{folder}' holds no readable {FILE_NAME} ({error}). Pass a folder that "
            "tflite_export.export wrote."
        ) from error
    version = content["schema_version"]
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"'{path}' has the schema version {version!r}; expected {SCHEMA_VERSION}. Export the "
            "model again."
        )
    try:
        manifest_schema.check(content)
    except ValueError as error:
        raise ValueError(
            f"'{path}' is damaged: {error}. Expected what tflite_export.export wrote. Export the "
            "model again."
        ) from error
    return content


def listed_names(folder: pathlib.Path) -> set[str]:
    """Returns the names of the files that an export wrote into `folder`, its manifest included.

    A folder without a readable manifest lists none.
    """
    try:
        content = json_files.read(folder / FILE_NAME)
        manifest_schema.LISTING(content, "the manifest")
    except (OSError, ValueError):
        return set()
    others = content.get("other_files", [])
    return {FILE_NAME, *others} | {entry["file"] for entry in content["files"]}


def _versions(content: Mapping[str, Any]) -> dict[str, str]:
    import keras
    import tensorflow as tf

    packages = ["ai-edge-litert"]
    if content.get("quantizer", "converter") != "converter":
        packages.append(content["quantizer"])
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        **{package: importlib.metadata.version(package) for package in packages},
    }
