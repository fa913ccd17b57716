"""The `README.md` of an exported folder: what is in it and how an app runs it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tflite_export.ship import snippets

FILE_NAME = "README.md"


def write(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the model card of a folder's manifest."""
    (folder / FILE_NAME).write_text(text(manifest), encoding="utf-8")


def text(manifest: Mapping[str, Any]) -> str:
    """Returns the model card of a manifest, in Markdown."""
    paragraphs = [
        f"# Tasks: {', '.join(manifest['tasks'])}",
        _opening(manifest),
        _files_table(manifest),
        "## Inputs and outputs",
        "One sample at a time. The names are those of the signatures' inputs and outputs.",
        _tensor_table(manifest),
        *_accuracy(manifest),
        "## Running a combination",
        "Give the tasks that run at the moment: the table in each snippet says which file to open "
        "and which of its signatures computes them, and nothing else. Several signatures of one "
        "opened file may be run in turn, but not at the same time.",
    ]
    for language, (markup, write_snippet) in snippets.SNIPPETS.items():
        paragraphs += [f"### {language}", f"```{markup}\n{write_snippet(manifest)}\n```"]
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    paragraphs += ["## Made with", f"{versions}. `manifest.json` holds all of this for programs."]
    return "\n\n".join(paragraphs) + "\n"


# What is said of quantizations by name; a user's own has its name alone.
_STORED = {
    "none": "float32",
    "float16": "16-bit floating-point weights",
    "dynamic": "8-bit weights, activations quantised while running",
    "int8": "8-bit integers",
    "int16x8": "16-bit activations and 8-bit weights",
}


def _opening(manifest: Mapping[str, Any]) -> str:
    checked = manifest["checked_on"]
    given = _STORED.get(manifest["quantization"], manifest["quantization"])
    if manifest.get("quantization_aware_training"):
        given += " (quantisation aware training)"
    if manifest.get("quantizer", "converter") != "converter":
        given += f" (made by {manifest['quantizer']})"
    source = "real" if checked["inputs"] == "given" else "random"
    return (
        f"TFLite files with a signature per combination of tasks, stored as {given}. Each was run "
        f"in LiteRT and compared with the Keras model on {checked['number']} {source} inputs."
    )


def _files_table(manifest: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{entry['file']}`" if first else "",
            f"{entry['bytes']:,}" if first else "",
            f"`{signature['name']}`",
            f"{signature['macs'] / 1e6:.2f} M",
            f"{_worst(signature, 'max_abs_error', max):.1e}",
            f"{_worst(signature, 'mean_abs_error', max):.1e}",
            _percent(_worst(signature, "label_agreement", min)),
            *_latencies(signature),
        ]
        for entry in manifest["files"]
        for first, signature in _marked(entry["signatures"])
    ]
    threads = _thread_counts(manifest)
    headings = ["file", "bytes", "signature", "MACs", "largest error", "mean error", "same label"]
    return _table([*headings, *(f"ms, {_threads(count)}" for count in threads)], rows)


def _tensor_table(manifest: Mapping[str, Any]) -> str:
    largest = max(
        (signature for entry in manifest["files"] for signature in entry["signatures"]),
        key=lambda signature: len(signature["tasks"]),
    )
    rows = [
        [side[:-1], f"`{name}`", str(tensor["shape"]), tensor["dtype"]]
        for side in ("inputs", "outputs")
        for name, tensor in largest[side].items()
    ]
    return _table(["", "name", "shape", "type"], rows)


def _accuracy(manifest: Mapping[str, Any]) -> list[str]:
    if not manifest["accuracy"]:
        return []
    rows = [[task, _percent(value)] for task, value in manifest["accuracy"].items()]
    return ["## Accuracy of the Keras model", _table(["task", "accuracy"], rows)]


def _latencies(signature: Mapping[str, Any]) -> list[str]:
    return [f"{median:.2f}" for median in signature.get("latency_ms", {}).values()]


def _thread_counts(manifest: Mapping[str, Any]) -> list[str]:
    return list(manifest["files"][0]["signatures"][0].get("latency_ms", {}))


def _threads(count: str) -> str:
    return f"{count} thread" if count == "1" else f"{count} threads"


def _marked(signatures: Sequence[Any]) -> list[tuple[bool, Any]]:
    return [(position == 0, signature) for position, signature in enumerate(signatures)]


def _worst(signature: Mapping[str, Any], measure: str, worst: Any) -> float | None:
    values = [found[measure] for found in signature["agreement"].values()]
    return worst((value for value in values if value is not None), default=None)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
