"""The tables of deployment say what their rows say."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

import tflite_export
from benchmarks import deployment_rows, results_io
from tflite_export.bench.benchmarking import Comparison, Measurement
from tflite_export.bench.latency_tool import Latency
from tflite_export.ship.records import ExportedSignature

ROOT = pathlib.Path(__file__).parents[1]
PARTS = {
    "trained": deployment_rows.shown_trained,
    "combinations": deployment_rows.shown_combination,
    "quantizers": deployment_rows.shown_quantizer,
    "converter": deployment_rows.shown_converter,
    "large": deployment_rows.shown_combination,
}


def read(part: str) -> list[dict[str, Any]]:
    """The rows of a part as they were before they became a CSV."""
    rows = []
    for line in results_io.read_rows(ROOT / "benchmarks" / "results" / f"deployment_{part}.csv"):
        row: dict[str, Any] = {}
        for column, text in line.items():
            *outer, name = column.split(".")
            place = row
            for key in outer:
                place = place.setdefault(key, {})
            if text:
                place[name] = number(text)
        rows.append(row)
    return rows


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@pytest.mark.parametrize("part", PARTS)
def test_the_pages_tables_are_those_of_the_rows(part):
    table = results_io.markdown_table([PARTS[part](row) for row in read(part)])
    for page in (f"benchmarks/results/deployment_{part}.md", "docs/deployment.md"):
        assert table in (ROOT / page).read_text(encoding="utf-8"), page


def test_the_table_of_loading_is_that_of_the_float_rows():
    rows = [row for row in read("trained") if row["quantization"] == "none"]
    table = results_io.markdown_table([deployment_rows.shown_loading(row) for row in rows])
    assert table in (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


def file(size: int, *labels: float) -> tflite_export.ExportedFile:
    signatures = tuple(
        ExportedSignature("s", ("a",), 1e-3 * label, 1e-4 * label, label) for label in labels
    )
    return tflite_export.ExportedFile(
        ("a",), pathlib.Path("x"), size, 1e-3, "s", "none", signatures
    )


def measurement(name: str, ms: float) -> Measurement:
    latency = tuple(Latency(n, n * ms, ms / 2, 3 * ms, 4 * ms, 1.0) for n in (1, 2))
    return Measurement(name, "s", ("a",), 100, 2_000_000, latency, int(1e6 * ms))


MEASURED = tflite_export.Benchmark(
    rows=(measurement("a", 1.0), measurement("a+b", 2.0), measurement("all", 4.0)),
    alone=(),
    comparisons=tuple(
        Comparison(name, "s", threads, 2.0 / threads, 4.0, 0.5)
        for name in ("a", "a+b", "all")
        for threads in (1, 2)
    ),
    bytes_to_load={"files": {"first": 10.0, "mean": 5.0, "largest": 20}},
)


def test_a_trained_row_compares_the_file_of_all_tasks_with_the_one_file():
    files = [file(1000, 1.0), file(2000, 0.5), file(3000, 1.0, 0.75)]
    row = deployment_rows.trained_row("m", "none", files, MEASURED, {"a": 0.875})
    assert row == {
        "model": "m",
        "quantization": "none",
        "bytes": {"all files": 3000, "own": 2000, "one": 3000},
        "largest error": 1e-3,
        "mean error": 1e-4,
        "same label": 0.5,
        "accuracy": {"a": 0.875},
        "ms, 1 thread": {"own": 2.0, "one": 4.0},
        "ms, 2 threads": {"own": 4.0, "one": 8.0},
        "peak memory": {"own": 2_000_000, "one": 4_000_000},
        "bytes to load": {"files": {"first": 10.0, "mean": 5.0, "largest": 20}},
    }


def test_combinations_are_compared_on_one_thread():
    rows = deployment_rows.combination_rows("m", "own", MEASURED)
    assert [row["lowest ms"] for row in rows] == [0.5, 1.0, 2.0]
    assert deployment_rows.shown_combination(rows[0]) == {
        "model": "m",
        "file": "own",
        "combination": "s",
        "MACs": "2.00 M",
        "ms": "0.50",
        "median, highest": "1.00, 3.00",
        "alone, ms": "1.00",
        "MACs alone / MACs": "4.00",
        "ms alone / ms": "2.00",
        "realised": "0.50",
    }
