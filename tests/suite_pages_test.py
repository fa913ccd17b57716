"""The suites' pages are made of their CSVs and of new cells."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from benchmarks import results_io, suite_pages

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks" / "results"
TABLES, PAGES = ("suites.csv", "suites_files.csv"), ("suites.md", "suites_files.md")

COSTS = {
    **dict.fromkeys(suite_pages.FIELDS, ""),
    **{"suite": "speech", "importance": "reconstruction", "measure": "macs", "effort": 99},
    **{"seed": 0, "arm": "separate", "combination": "digit", "macs": 2, "original_macs": 4},
    **{"expected_macs": 2, "estimated_time": 3, "worst_loss": 0.5, "worst_loss_error": 0.25},
}
# As a cell holds them: the loss with its standard error.
FILES = {
    **{key: COSTS[key] for key in ("suite", "importance", "measure", "effort", "seed")},
    **{"arm": "late", "start": "late-digit", "quantization": "none", "combination": "digit"},
    "bytes": {"separate": 2000, "merged": 1000},
    "ms": {"separate": 0.25, "merged": 0.125},
    "below": 2.0,
    "peak_memory": {"separate": 3_000_000, "merged": float("nan")},
    "lost": {"separate": (0.5, 0.25), "merged": (1.5, 1 / 3)},
}


@pytest.fixture
def folder(tmp_path):
    """A copy of the CSVs."""
    for name in TABLES:
        shutil.copy(RESULTS / name, tmp_path / name)
    return tmp_path


def test_pages_are_those_of_the_rows(folder):
    """Whoever adds rows makes the pages anew."""
    suite_pages.write_pages(folder / "work", folder)
    for name in (*TABLES, *PAGES):
        assert (folder / name).read_bytes() == (RESULTS / name).read_bytes(), name


def test_new_cells_take_the_places_of_older_ones(folder):
    before = len(results_io.read_rows(RESULTS / "suites_files.csv"))
    for below in (2.0, 4.0):
        cell = {"rows": [COSTS], "files": [{**FILES, "below": below}]}
        results_io.write_raw(folder / "work" / "cells" / "one.json", cell)
        suite_pages.write_pages(folder / "work", folder)
    rows = results_io.read_rows(folder / "suites_files.csv")
    assert len(rows) == before + 1
    (row,) = [row for row in rows if row["effort"] == "99"]
    assert (row["lost.merged"], row["lost_error.merged"]) == ("1.5", "0.33333333")
    page = (folder / "suites_files.md").read_text(encoding="utf-8")
    assert "## speech: reconstruction, macs, 99 epochs a network" in page
    assert (
        "| 0 | late | late-digit | float32 | digit | 2.0 / 1.0 | 0.250 / 0.125 | 4.00 "
        "| 3.00 / nan | 0.50 ± 0.25 / 1.50 ± 0.33 |"
    ) in page


def test_suites_without_files_have_no_page_of_them(tmp_path):
    suite_pages.write_pages(tmp_path / "work", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["suites.csv", "suites.md"]
