"""The page of results says what the suites' rows say."""

from __future__ import annotations

import pytest

from benchmarks import results_io, results_page
from benchmarks.suite_pages import FIELDS


def rows(arm, macs, seed=0, effort=36, accepted=True, **more):
    common = dict.fromkeys(FIELDS, "") | {
        "suite": "products",
        "importance": "reconstruction",
        "measure": "macs",
        "effort": effort,
        "seed": seed,
        "arm": arm,
        "accepted": accepted,
        "worst_loss": 0.5,
        "worst_loss_error": 0.25,
        **more,
    }
    return [
        {**common, "combination": name, "macs": count, "estimated_time": 2 * count}
        for name, count in zip(("article", "gender", "article+gender"), macs, strict=True)
    ]


@pytest.fixture
def path(tmp_path):
    table = [
        *rows("separate", (100, 200, 300)),
        *rows("late", (80, 160, 160), worst_loss=1.5),
        *rows("portfolio", (80, 160, 160)),
        *rows("separate", (100, 100, 200), seed=1),
        *rows("late", (200, 200, 200), seed=1),
        *rows("portfolio", (100, 100, 200), seed=1),
        *rows("separate", (1, 1, 2), effort=72),
        *rows("late", (1, 1, 1), effort=72),
        *rows("portfolio", (1, 1, 1), effort=72),
        *rows("separate", (7, 7, 14), measure="latency"),  # of which the page is not
    ]
    results_io.write_rows(tmp_path / "suites.csv", FIELDS, table)
    return tmp_path / "suites.csv"


def test_factors_in_closed_form(path):
    first, second, _ = results_page.read_cells(path)
    assert first.factors() == pytest.approx(
        {
            "expected cost": 1.5,
            "what comes back": 1.5,
            "all tasks, below the sum": 300 / 160,
            "of the dearest alone": 0.8,
            "single tasks: mean": 0.8,
            "worst": 0.8,
            "time, all tasks": 600 / 320,
            "`portfolio()`": 1.5,
        }
    )
    # Where merging costs more, the separate networks come back.
    assert second.factors()["expected cost"] == pytest.approx(400 / 600)
    assert second.factors()["what comes back"] == 1.0


def test_tables_hold_every_seed_and_every_effort(path):
    cells = results_page.read_cells(path)
    suites = results_page.of_suites(cells).splitlines()[2:]
    assert len(suites) == 2
    assert suites[0].startswith("| products: article, gender | 2 | 1.08 ± 0.42 | 1.25 ± 0.25 |")
    assert suites[1].startswith("| products: article, gender (72 epochs) | 1 | 1.33 ± 0.00 |")
    seeds = results_page.of_seeds(cells).splitlines()[2:]
    assert len(seeds) == 3
    assert "| **1.50x less** |" in seeds[0]
    assert seeds[0].endswith("| 1.50 ± 0.25, 0.50 ± 0.25 |")


def test_the_picture_is_drawn(path, tmp_path):
    results_page.picture(results_page.read_cells(path), tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_the_pages_tables_are_those_of_the_rows():
    """Whoever adds rows makes the page anew."""
    cells = results_page.read_cells(results_page.ROWS)
    page = results_page.PAGE.read_text(encoding="utf-8")
    assert results_page.of_suites(cells) in page
    assert results_page.of_seeds(cells) in page
