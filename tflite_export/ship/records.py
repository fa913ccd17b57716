"""What `export` returns: a record per file and per signature."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class ExportedSignature:
    """One signature of an exported file: the network of one combination.

    Attributes:
        name: Its name: the tasks joined with "+".
        tasks: The tasks it computes, in model order: the names of its outputs.
        max_abs_error: Largest absolute difference of its outputs from Keras.
        mean_abs_error: Mean absolute difference, of the task where it is largest.
        label_agreement: Share of samples whose label is Keras's, of the task where it is
            smallest; None if no output has several channels.
    """

    name: str
    tasks: tuple[str, ...]
    max_abs_error: float
    mean_abs_error: float
    label_agreement: float | None


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """One exported TFLite file.

    Attributes:
        tasks: The tasks it can compute, in model order.
        path: Where it is.
        bytes: Its size.
        max_abs_error: Largest absolute difference of its outputs from Keras, over the inputs it
            was checked on.
        signature: Name of the signature that computes the most tasks.
        quantization: How its numbers are stored, as given to `export`.
        signatures: All of its signatures: one, or in the file of all combinations one for each.
    """

    tasks: tuple[str, ...]
    path: pathlib.Path
    bytes: int
    max_abs_error: float
    signature: str
    quantization: str
    signatures: tuple[ExportedSignature, ...]


def record(directory: pathlib.Path, entry: Mapping[str, Any], quantization: str) -> ExportedFile:
    """Returns the record of a manifest's file entry."""
    signatures = tuple(_signature(signature) for signature in entry["signatures"])
    largest = max(signatures, key=lambda signature: len(signature.tasks))
    tasks = dict.fromkeys(task for signature in signatures for task in signature.tasks)
    return ExportedFile(
        tasks=largest.tasks if set(largest.tasks) == set(tasks) else tuple(tasks),
        path=directory / entry["file"],
        bytes=entry["bytes"],
        max_abs_error=max(signature.max_abs_error for signature in signatures),
        signature=largest.name,
        quantization=quantization,
        signatures=signatures,
    )


def _signature(entry: Mapping[str, Any]) -> ExportedSignature:
    found = entry["agreement"].values()
    labels = [one["label_agreement"] for one in found if one["label_agreement"] is not None]
    return ExportedSignature(
        name=entry["name"],
        tasks=tuple(entry["tasks"]),
        max_abs_error=max(one["max_abs_error"] for one in found),
        mean_abs_error=max(one["mean_abs_error"] for one in found),
        label_agreement=min(labels, default=None),
    )
