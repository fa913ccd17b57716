"""The parts of docs/results.md that are made of the suites' rows: tables, and the picture.

One command, from the repository's root:

    python -m benchmarks.results_page
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import app

from benchmarks import results_io

ROOT = pathlib.Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "results" / "suites.csv"
PAGE, PICTURE = ROOT / "docs" / "results.md", ROOT / "docs" / "results.png"

# What the page calls its suites, in its order.
TITLES: Mapping[str, str] = {
    "products": "products: article, gender",
    "products4": "products: article, gender, colour, category",
    "motion": "motion: activity, subject, height",
    "speech": "speech: digit, speaker",
    "speech-resnet": "speech, ResNet-8",
    "composites": "composites: upper, lower",
    "five-tasks": "composites: five tasks",
    "backbone": "backbone: article, gender",
    "backbone4": "backbone: article, gender, colour, category",
    "unlike": "unlike networks",
}
_EFFORT = 36  # epochs a network, of runs whose titles do not tell
_WAY = ("reconstruction", "macs")  # importance and measure of the runs that the page is of
_COLOURS = {"separate": "tab:gray", "merged": "tab:blue"}


@dataclasses.dataclass(frozen=True)
class Found:
    """What one arm of one seed ended with.

    Args:
        macs: Multiply-accumulates by combination.
        times: Estimated time by combination.
        lost: Points that the worst task lost on the test split.
        error: The standard error of that.
        accepted: Whether it was within the tolerance on validation data.
    """

    macs: Mapping[tuple[str, ...], float]
    times: Mapping[tuple[str, ...], float]
    lost: float
    error: float
    accepted: bool

    @property
    def expected(self) -> float:
        """The mean over all combinations."""
        return float(np.mean(list(self.macs.values())))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One seed of a suite: separate pruning, the merged network, and the cheapest of both."""

    suite: str
    effort: int
    seed: int
    separate: Found
    merged: Found
    envelope: Found

    def factors(self) -> dict[str, float]:
        """What merging saves, as the page's columns have it."""
        separate, merged = self.separate, self.merged
        singles = [c for c in separate.macs if len(c) == 1]
        every = max(separate.macs, key=len)
        ratios = [merged.macs[c] / separate.macs[c] for c in singles]
        below = separate.expected / merged.expected
        return {
            "expected cost": below,
            "what comes back": max(1.0, below) if merged.accepted else 1.0,
            "all tasks, below the sum": separate.macs[every] / merged.macs[every],
            "of the dearest alone": merged.macs[every] / max(separate.macs[c] for c in singles),
            "single tasks: mean": float(np.mean(ratios)),
            "worst": max(ratios),
            "time, all tasks": sum(separate.times[c] for c in singles) / merged.times[every],
            "`portfolio()`": separate.expected / self.envelope.expected,
        }


def read_cells(path: pathlib.Path) -> list[Cell]:
    """The seeds of the suites that the page is of, in its order."""
    rows = [row for row in results_io.read_rows(path) if row["suite"] in TITLES]
    rows = [row for row in rows if (row["importance"], row["measure"]) == _WAY]
    cells = []
    for (suite, effort, seed), group in itertools.groupby(
        rows, lambda row: (row["suite"], int(row["effort"]), int(row["seed"]))
    ):
        arms: dict[str, list[Mapping[str, str]]] = {}
        for row in group:
            arms.setdefault(row["arm"], []).append(row)
        found = {arm: _found(own) for arm, own in arms.items()}
        cells.append(
            Cell(suite, effort, seed, found["separate"], found["late"], found["portfolio"])
        )
    return sorted(cells, key=lambda cell: [*TITLES].index(cell.suite))


def _found(rows: Sequence[Mapping[str, str]]) -> Found:
    combinations = [tuple(row["combination"].split("+")) for row in rows]
    return Found(
        {c: float(row["macs"]) for c, row in zip(combinations, rows, strict=True)},
        {c: float(row["estimated_time"]) for c, row in zip(combinations, rows, strict=True)},
        float(rows[0]["worst_loss"]),
        float(rows[0]["worst_loss_error"]),
        rows[0]["accepted"] == "True",
    )


def of_suites(cells: Sequence[Cell]) -> str:
    """A row a suite: means over its seeds, and their spread."""
    rows = []
    for (suite, effort), group in _by_suite(cells):
        own = [cell.factors() for cell in group]
        told = {name: [factors[name] for factors in own] for name in own[0]}
        lost = [[found.lost for found in (c.merged, c.separate)] for c in group]
        rows.append(
            {
                "suite": _title(suite, effort),
                "seeds": len(group),
                **{
                    name: f"{np.mean(told[name]):.2f} ± {np.std(told[name]):.2f}"
                    for name in ("expected cost", "what comes back", "all tasks, below the sum")
                },
                "of the dearest alone": f"{np.mean(told['of the dearest alone']):.2f}",
                "single tasks: mean, worst": f"{np.mean(told['single tasks: mean']):.2f}, "
                f"{max(told['worst']):.2f}",
                "time, all tasks": f"{np.mean(told['time, all tasks']):.2f}",
                "`portfolio()`": f"{np.mean(told['`portfolio()`']):.2f}",
                "lost: merged, separate": ", ".join(f"{x:.1f}" for x in np.mean(lost, axis=0)),
            }
        )
    return results_io.markdown_table(rows)


def of_seeds(cells: Sequence[Cell]) -> str:
    """A row a seed: what each way costs, in millions of multiply-accumulates."""
    rows = []
    for cell in cells:
        factors = cell.factors()
        rows.append(
            {
                "suite, seed": f"{_title(cell.suite, cell.effort)}, {cell.seed}",
                "separate: each task, all": _millions(cell.separate),
                "merged": _millions(cell.merged),
                "expected cost": f"**{factors['expected cost']:.2f}x less**",
                "all tasks, below the sum": f"{factors['all tasks, below the sum']:.2f}x",
                "of the dearest alone": f"{factors['of the dearest alone']:.2f}",
                "single tasks: mean, worst": f"{factors['single tasks: mean']:.2f}, "
                f"{factors['worst']:.2f}",
                "time, all tasks": f"{factors['time, all tasks']:.2f}x less",
                "lost: merged, separate": f"{_lost(cell.merged)}, {_lost(cell.separate)}",
            }
        )
    return results_io.markdown_table(rows)


def _by_suite(cells: Sequence[Cell]) -> list[tuple[tuple[str, int], list[Cell]]]:
    groups = itertools.groupby(cells, lambda cell: (cell.suite, cell.effort))
    return [(run, list(group)) for run, group in groups]


def _title(suite: str, effort: int) -> str:
    return TITLES[suite] + ("" if effort == _EFFORT else f" ({effort} epochs)")


def _millions(found: Found) -> str:
    every = max(found.macs, key=len)
    return ", ".join(f"{n / 1e6:.2f}" for c, n in found.macs.items() if len(c) == 1 or c == every)


def _lost(found: Found) -> str:
    return f"{found.lost:.2f} ± {found.error:.2f}"


def picture(cells: Sequence[Cell], path: pathlib.Path) -> None:
    """Draws, a panel a suite, what each seed's networks cost and lose."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = _by_suite(cells)
    columns = 3
    rows = math.ceil(len(groups) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(11, 2.7 * rows), squeeze=False)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, ((suite, effort), group) in zip(axes.flat, groups, strict=False):
        for cell in group:
            ways = {"separate": cell.separate, "merged": cell.merged}
            xs, ys = zip(*((f.expected / 1e6, f.lost) for f in ways.values()), strict=True)
            axis.plot(xs, ys, color="lightgray", zorder=0)
            for (way, found), marker in zip(ways.items(), "os", strict=True):
                axis.errorbar(
                    found.expected / 1e6,
                    found.lost,
                    2 * found.error,
                    fmt=marker,
                    color=_COLOURS[way],
                    elinewidth=0.6,
                    label=way if cell is group[0] else None,
                )
        axis.axhline(1.0, color="tab:red", linewidth=0.8, linestyle="--")
        axis.set_xlim(0, 1.08 * axis.dataLim.xmax)
        axis.set_title(_title(suite, effort), fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("expected M MACs of a run", fontsize=9)
    figure.supylabel("points lost on the test split (2 standard errors)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    del argv
    cells = read_cells(ROWS)
    results_io.write_parts(PAGE, {"suites": of_suites(cells), "seeds": of_seeds(cells)})
    picture(cells, PICTURE)


if __name__ == "__main__":
    app.run(main)
