"""The picture of a report: the groups of each layer, and the MACs of each combination."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tfmot_pam.reporting.styles import (
    ORIGINAL_COLOUR,
    SHARED_COLOUR,
    group_label,
    group_styles,
    text_colour,
)
from tfmot_pam.reporting.table import human

if TYPE_CHECKING:
    from tfmot_pam.reporting.result import Report

_ROW = 0.3  # Height of a row, in inches.
_SHORT_LEGEND = 75  # Letters that fit below the panel of the groups.


def draw(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes the picture of `report` to `path`.

    Raises:
        ValueError: the suffix of `path` names no picture format.
    """
    figure = build_figure(report)
    check_suffix(figure, path)
    figure.savefig(path)


def check_suffix(figure: Any, path: str | os.PathLike[str]) -> None:
    """Raises ValueError unless Matplotlib writes pictures of this name."""
    suffixes = sorted(figure.canvas.get_supported_filetypes())
    if os.path.splitext(path)[1].lower().removeprefix(".") not in suffixes:
        raise ValueError(
            f"Received the path '{os.fspath(path)}'. Expected a suffix among {suffixes}. "
            "Choose a name such as 'report.png'."
        )


def new_figure() -> Any:
    """An empty Matplotlib figure."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1), dpi=150)


def build_figure(report: Report) -> Any:
    """The picture as a Matplotlib figure: groups left where there are any, costs right."""
    figure = new_figure()
    # Both panels have the same height of a row; the shorter one leaves the rest empty.
    rows = max(len(report.groups), _cost_rows(report), 2)
    if not report.groups:
        figure.set_size_inches(7, rows * _ROW + 0.8)
        _draw_costs(figure.add_subplot(), report, rows)
        return figure
    styles = group_styles(report)
    figure.set_size_inches(12, rows * _ROW + 1.3 + 0.2 * _legend_rows(styles))
    areas = figure.add_gridspec(1, 2, width_ratios=(3, 2))
    groups = figure.add_subplot(areas[0])
    _draw_groups(groups, report, styles, rows)
    _draw_costs(figure.add_subplot(areas[1]), report, rows)
    _draw_legend(groups, report, styles)
    return figure


def groups_figure(report: Report) -> Any:
    """The groups of each layer alone."""
    figure, rows = new_figure(), max(len(report.groups), 2)
    styles = group_styles(report)
    figure.set_size_inches(9, rows * _ROW + 1.3 + 0.2 * _legend_rows(styles))
    groups = figure.add_subplot()
    _draw_groups(groups, report, styles, rows)
    _draw_legend(groups, report, styles)
    return figure


# --- groups -----------------------------------------------------------------------------------


def _draw_groups(
    axes: Any, report: Report, styles: dict[str, tuple[str, str]], rows: float
) -> None:
    for row, found in enumerate(report.groups.values()):
        by_label: Counter[str] = Counter()
        for tasks, channels in found.items():
            by_label[group_label(report, tasks)] += channels
        total, start = by_label.total(), 0.0
        for label, channels in by_label.items():
            _draw_share(axes, row, start, channels / total, str(channels), styles[label])
            start += channels / total
        axes.text(1.01, row, str(total), va="center", fontsize=8, color=SHARED_COLOUR)
    axes.set_xlim(0, 1)
    _finish(axes, "Channels of each layer by the tasks that need them", list(report.groups), rows)


def _draw_share(
    axes: Any, row: int, start: float, share: float, text: str, style: tuple[str, str]
) -> None:
    colour, hatch = style
    box = {"height": 0.78, "color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.6}
    axes.barh(row, share, left=start, **box)
    if share < 0.05:
        return
    # A hatch would make the number hard to read.
    plate = {"boxstyle": "round,pad=0.15", "facecolor": colour, "linewidth": 0} if hatch else None
    place = {"ha": "center", "va": "center", "fontsize": 8, "bbox": plate}
    axes.text(start + share / 2, row, text, color=text_colour(colour), **place)


def _legend_rows(styles: dict[str, tuple[str, str]]) -> int:
    return -(-len(styles) // _legend_columns(styles))


def _legend_columns(styles: dict[str, tuple[str, str]]) -> int:
    longest = max(len(label) for label in styles)
    return max(1, min(len(styles), 130 // (longest + 8)))


def _draw_legend(axes: Any, report: Report, styles: dict[str, tuple[str, str]]) -> None:
    """Right below the last row where it is short enough, otherwise below the whole picture."""
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=label)
        for label, (colour, hatch) in styles.items()
    ]
    columns = _legend_columns(styles)
    look = {"handles": handles, "ncols": columns, "frameon": False, "fontsize": 9}
    if sum(len(label) + 8 for label in styles) > _SHORT_LEGEND:
        axes.figure.legend(loc="outside lower left", **look)
        return
    below_last = (0, len(report.groups) - 0.5)
    transform = axes.get_yaxis_transform()
    axes.legend(loc="upper left", bbox_to_anchor=below_last, bbox_transform=transform, **look)


# --- costs ------------------------------------------------------------------------------------


def _cost_rows(report: Report) -> float:
    rows = len(report.rows) * _cost_pitch(report)
    # The legend that tells the bars apart needs a row of its own.
    return rows if report.expected_original_macs is None else rows + 1


def _cost_pitch(report: Report) -> float:
    return 1.0 if report.expected_original_macs is None else 1.7


def _draw_costs(axes: Any, report: Report, rows: float) -> None:
    pitch = _cost_pitch(report)
    compared = report.expected_original_macs is not None
    places = [index * pitch + (0.35 if compared else 0.0) for index in range(len(report.rows))]
    offset = 0.37 if compared else 0.0
    macs = [row.macs for row in report.rows]
    _cost_bars(axes, [p - offset for p in places], macs, SHARED_COLOUR, "model")
    if compared:
        originals = [row.original_macs or 0 for row in report.rows]
        below = [p + offset for p in places]
        _cost_bars(axes, below, originals, ORIGINAL_COLOUR, "originals, run separately")
        below_last = {"bbox_to_anchor": (0, below[-1] + 0.5)}
        below_last["bbox_transform"] = axes.get_yaxis_transform()
        axes.legend(loc="upper left", ncols=2, frameon=False, fontsize=9, **below_last)
        macs = macs + originals
    axes.set_xlim(0, max(macs) * 1.18 or 1)
    names = [" + ".join(row.tasks) for row in report.rows]
    _finish(axes, "MACs per run of each combination", names, rows, places)


def _cost_bars(
    axes: Any, places: Iterable[float], values: list[int], colour: str, label: str
) -> None:
    bars = axes.barh(places, values, height=0.7, color=colour, label=label)
    axes.bar_label(bars, [human(value) for value in values], padding=3, fontsize=8)


def _finish(
    axes: Any, title: str, names: list[str], rows: float, places: list[float] | None = None
) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_yticks(range(len(names)) if places is None else places, names, fontsize=9)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
