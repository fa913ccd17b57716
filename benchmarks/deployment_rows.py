"""What benchmarks.deployment_benchmark measures: rows of numbers, and as its tables show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tflite_export

Row = dict[str, Any]


def trained_row(
    name: str,
    quantization: str,
    files: Sequence[tflite_export.ExportedFile],
    measured: tflite_export.Benchmark,
    accuracy: Mapping[str, float],
) -> Row:
    """One model in one quantisation.

    `own` is the file of all tasks, `one` the same signature in the one file.
    """
    *own, together = files
    largest, in_common = measured.rows[len(own) - 1], measured.rows[-1]

    def pair(value) -> Row:
        return {"own": value(largest), "one": value(in_common)}

    return {
        "model": name,
        "quantization": quantization,
        "bytes": {
            "all files": sum(file.bytes for file in own),
            "own": own[-1].bytes,
            "one": together.bytes,
        },
        **agreement(files, accuracy),
        "ms, 1 thread": pair(lambda row: row.latency[0].median_ms),
        "ms, 2 threads": pair(lambda row: row.latency[1].median_ms),
        "peak memory": pair(lambda row: row.peak_memory_bytes),
        "bytes to load": measured.bytes_to_load,
    }


def agreement(files: Sequence[tflite_export.ExportedFile], accuracy: Mapping[str, float]) -> Row:
    """How well files compute what the model does: the worst of all signatures."""
    signatures = [one for file in files for one in file.signatures]
    return {
        "largest error": max(one.max_abs_error for one in signatures),
        "mean error": max(one.mean_abs_error for one in signatures),
        "same label": min(one.label_agreement for one in signatures),
        "accuracy": accuracy,
    }


def combination_rows(name: str, file: str, measured: tflite_export.Benchmark) -> list[Row]:
    """Every combination against the networks alone."""
    comparisons = {(c.file, c.signature): c for c in measured.comparisons if c.threads == 1}
    rows = []
    for row in measured.rows:
        compared = comparisons[row.file, row.signature]
        latency = row.latency[0]
        rows.append(
            {
                "model": name,
                "file": file,
                "combination": row.signature,
                "MACs": row.macs,
                "lowest ms": latency.lowest_ms,
                "median ms": latency.median_ms,
                "highest ms": latency.highest_ms,
                "alone ms": latency.lowest_ms * compared.speedup,
                "MACs alone / MACs": compared.macs_ratio,
                "ms alone / ms": compared.speedup,
                "realised": compared.realised,
            }
        )
    return rows


def shown_trained(row: Row) -> dict[str, str]:
    """A line of the table of trained models."""

    def per_file(values: Mapping[str, float], form: str, scale: float = 1.0) -> str:
        return f"{values['own'] / scale:{form}} / {values['one'] / scale:{form}}"

    sizes = row["bytes"]
    return {
        "model": row["model"],
        "quantization": row["quantization"],
        "all files, kB": f"{sizes['all files'] / 1e3:.0f}",
        **_shown_sizes(sizes, ".0f"),
        **_shown_agreement(row),
        "ms, 1 thread": per_file(row["ms, 1 thread"], ".2f"),
        "ms, 2 threads": per_file(row["ms, 2 threads"], ".2f"),
        "memory, MB": per_file(row["peak memory"], ".1f", 1e6),
    }


def shown_loading(row: Row) -> dict[str, str]:
    """What an app loads at its start and at a change of tasks, by way of shipping."""
    line = {"model": row["model"]}
    for way, loaded in row["bytes to load"].items():
        line[f"{way}: start / change"] = f"{loaded['first'] / 1e3:.0f} / {loaded['mean'] / 1e3:.0f}"
    return line


def shown_combination(row: Row) -> dict[str, str]:
    """A line of the tables of combinations and of larger networks."""
    return {
        **{key: row[key] for key in ("model", "file", "combination")},
        "MACs": f"{row['MACs'] / 1e6:.2f} M",
        "ms": f"{row['lowest ms']:.2f}",
        "median, highest": f"{row['median ms']:.2f}, {row['highest ms']:.2f}",
        "alone, ms": f"{row['alone ms']:.2f}",
        **{key: f"{row[key]:.2f}" for key in ("MACs alone / MACs", "ms alone / ms", "realised")},
    }


def shown_quantizer(row: Row) -> dict[str, str]:
    """A line of the table of what quantises."""
    return {
        **{key: row[key] for key in ("model", "quantization", "quantised by")},
        **_shown_sizes(row["bytes"], ".1f"),
        **_shown_agreement(row),
        "ms": f"{row['ms']:.3f}",
    }


def shown_converter(row: Row) -> dict[str, str]:
    """A line of the table of one conversion against files that were joined."""
    sizes = row["bytes"]
    line = {
        "quantization": row["quantization"],
        "all tasks' file, kB": f"{sizes['own'] / 1e3:.0f}",
    }
    for kind, error in row["rms error"].items():
        line[f"{kind}, kB"] = f"{sizes[kind] / 1e3:.0f}"
        line[f"{kind}, ratio"] = f"{sizes[kind] / sizes['own']:.2f}"
        line[f"{kind}, rms error"] = f"{error:.1e}"
    return line


def _shown_sizes(sizes: Mapping[str, float], form: str) -> dict[str, str]:
    return {
        "all tasks' file, kB": f"{sizes['own'] / 1e3:{form}}",
        "one file, kB": f"{sizes['one'] / 1e3:{form}}",
        "ratio": f"{sizes['one'] / sizes['own']:.3f}",
    }


def _shown_agreement(row: Row) -> dict[str, str]:
    return {
        "largest error": f"{row['largest error']:.1e}",
        "mean error": f"{row['mean error']:.1e}",
        "same label": f"{row['same label']:.1%}",
        "accuracy": " / ".join(f"{100 * value:.1f}" for value in row["accuracy"].values()),
    }
