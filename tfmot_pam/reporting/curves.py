"""The pictures of a compression: what every round cost and lost, and what combinations cost."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfmot_pam.reporting.plot import check_suffix, new_figure
from tfmot_pam.reporting.styles import ORIGINAL_COLOUR, SHARED_COLOUR, TASK_COLOURS
from tfmot_pam.reporting.table import human

if TYPE_CHECKING:
    from tfmot_pam.pipeline.result import CompressionResult

_SEPARATE = "separate"
_PANEL = (4.6, 3.4)  # inches


def draw(result: CompressionResult, path: str | os.PathLike[str]) -> None:
    """Writes both pictures of a compression into one file.

    Raises:
        ValueError: the suffix of `path` names no picture format.
    """
    figure = new_figure()
    tasks = result.report.tasks
    columns = len(tasks) + 1
    figure.set_size_inches(columns * _PANEL[0], max(_PANEL[1], 0.55 * len(result.report.rows)))
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=False):
        _draw_trade_off(axes, result, task)
    _draw_costs(panels[-1], result)
    check_suffix(figure, path)
    figure.savefig(path)


def trade_off_figure(result: CompressionResult) -> Any:
    """Every round of every arm: computation against what a task lost, a panel each."""
    figure = new_figure()
    tasks = result.report.tasks
    figure.set_size_inches(len(tasks) * _PANEL[0], _PANEL[1])
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        _draw_trade_off(axes, result, task)
    return figure


def cost_figure(result: CompressionResult) -> Any:
    """What every combination costs, in the result and by separate pruning."""
    figure = new_figure()
    figure.set_size_inches(2 * _PANEL[0], 0.8 + 0.5 * len(result.report.rows))
    _draw_costs(figure.add_subplot(), result)
    return figure


def _draw_trade_off(axes: Any, result: CompressionResult, task: str) -> None:
    from matplotlib import ticker

    colours = dict(
        zip((arm.name for arm in result.arms), itertools.cycle(_colours()), strict=False)
    )
    for arm in result.arms:
        rounds = [row for tasks, rows in arm.rounds.items() if task in tasks for row in rows]
        for accepted in (True, False):
            points = [
                (100 * row.share, _lost(row.lost, task, result.metrics))
                for row in rounds
                if row.accepted is accepted
            ]
            if points:
                axes.scatter(
                    *zip(*points, strict=True),
                    s=26,
                    label=arm.name if accepted else f"{arm.name}, undone",
                    facecolors=colours[arm.name] if accepted else "none",
                    edgecolors=colours[arm.name],
                )
    axes.axhline(0.0, color=ORIGINAL_COLOUR, linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda share, _: f"{share:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.invert_xaxis()
    axes.set_xlabel("computation, % of the originals'", fontsize=9)
    unit = result.metrics.get(task, "points of accuracy")
    axes.set_ylabel(f"lost, {unit}", fontsize=9)
    axes.set_title(task, loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _lost(lost: Mapping[str, float], task: str, metrics: Mapping[str, str]) -> float:
    """What a task lost, in points or its metric's unit; of several outputs the worst of them."""
    own = [mark for mark in lost if mark == task or mark.startswith(f"{task}/")]
    return max(lost[mark] * (1.0 if mark in metrics else 100.0) for mark in own)


def _colours() -> Sequence[str]:
    return (SHARED_COLOUR, TASK_COLOURS[5], *TASK_COLOURS[:5])


def _draw_costs(axes: Any, result: CompressionResult) -> None:
    rows = result.report.rows
    bars: list[tuple[str, str, list[float]]]
    bars = [("result", SHARED_COLOUR, [row.macs for row in rows])]
    for arm in result.arms:
        if arm.name == _SEPARATE and arm is not result.best:
            macs = [arm.macs[row.tasks] for row in rows]
            bars.append(("separate pruning", ORIGINAL_COLOUR, macs))
    height = 0.8 / len(bars)
    for place, (label, colour, values) in enumerate(bars):
        places = [row + (place - (len(bars) - 1) / 2) * height for row in range(len(rows))]
        drawn = axes.barh(places, values, height=0.9 * height, color=colour, label=label)
        axes.bar_label(drawn, [human(value) for value in values], padding=3, fontsize=8)
    names = [
        f"{' + '.join(row.tasks)}\n(originals: {human(row.original_macs)})"
        if row.original_macs
        else " + ".join(row.tasks)
        for row in rows
    ]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(max(values) for _, _, values in bars) or 1)
    axes.set_xticks([])
    axes.set_xlabel("MACs per run", fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(bars) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper right")
