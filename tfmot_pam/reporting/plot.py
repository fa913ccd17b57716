"""The picture of a report: the groups of each layer, and the MACs of each combination."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tfmot_pam.reporting.table import human

if TYPE_CHECKING:
    from tfmot_pam.reporting.result import Report, TaskSet

# Okabe and Ito's colours, which colour-blind readers can tell apart; dark grey is for sharing.
_TASK_COLOURS = "#E69F00 #56B4E9 #009E73 #CC79A7 #F0E442 #D55E00 #0072B2".split()
_SHARED_COLOUR = "#404040"
_ORIGINAL_COLOUR = "#BDBDBD"
# For sets between one and all tasks: few enough to be told apart in a legend.
_BETWEEN_STYLES = (
    ("#8C8C8C", ""),
    ("#D9D9D9", "////"),
    ("#8C8C8C", "...."),
    ("#D9D9D9", "xxxx"),
    ("#8C8C8C", "\\\\\\\\"),
    ("#D9D9D9", "...."),
    ("#8C8C8C", "xxxx"),
    ("#D9D9D9", ""),
)
_ROW = 0.3  # Height of a row, in inches.


def draw(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes the picture of `report` to `path`.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: the suffix of `path` names no picture format.
    """
    figure = build_figure(report)
    suffixes = sorted(figure.canvas.get_supported_filetypes())
    if os.path.splitext(path)[1].lower().removeprefix(".") not in suffixes:
        raise ValueError(
            f"Received the path '{os.fspath(path)}'. Expected a suffix among {suffixes}. "
            "Choose a name such as 'report.png'."
        )
    figure.savefig(path)


def build_figure(report: Report) -> Any:
    """The picture as a Matplotlib figure: groups left where there are any, costs right."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The picture needs Matplotlib, which is not installed. "
            "Install it: pip install tfmot-pam[plot]"
        ) from error
    figure = Figure(layout="constrained", dpi=150)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    # Both panels have the same height of a row; the shorter one leaves the rest empty.
    rows = max(len(report.groups), _cost_rows(report), 2)
    if not report.groups:
        figure.set_size_inches(7, rows * _ROW + 0.8)
        _draw_costs(figure.add_subplot(), report, rows)
        return figure
    styles = _styles(report)
    figure.set_size_inches(12, rows * _ROW + 1.3 + 0.2 * _legend_rows(styles))
    areas = figure.add_gridspec(1, 2, width_ratios=(3, 2))
    _draw_groups(figure.add_subplot(areas[0]), report, styles, rows)
    _draw_costs(figure.add_subplot(areas[1]), report, rows)
    _draw_legend(figure, styles)
    return figure


# --- groups -----------------------------------------------------------------------------------


def _styles(report: Report) -> dict[str, tuple[str, str]]:
    """Colour and hatch by legend label, for the labels that occur: shared first, tasks last."""
    present = {tasks for found in report.groups.values() for tasks in found}
    everyone = _all_tasks(report)
    places = {task: index for index, task in enumerate(everyone)}
    ordered = sorted(present, key=lambda s: (-len(s), [places[task] for task in s]))
    styles: dict[str, tuple[str, str]] = {}
    for label, tasks in ((_label(report, tasks), tasks) for tasks in ordered):
        if len(tasks) == 1:
            colour = _TASK_COLOURS[places[tasks[0]] % len(_TASK_COLOURS)]
            styles[label] = (colour, "////" if places[tasks[0]] >= len(_TASK_COLOURS) else "")
        elif len(tasks) == len(everyone):
            styles[label] = (_SHARED_COLOUR, "")
        elif label not in styles:
            between = sum(style in _BETWEEN_STYLES for style in styles.values())
            styles[label] = _BETWEEN_STYLES[between % len(_BETWEEN_STYLES)]
    return styles


def _all_tasks(report: Report) -> tuple[str, ...]:
    """The model's tasks, and those that a selected sub-network's groups still name."""
    named = (task for found in report.groups.values() for tasks in found for task in tasks)
    return tuple(dict.fromkeys((*report.tasks, *named)))


def _label(report: Report, tasks: TaskSet) -> str:
    everyone = _all_tasks(report)
    if len(tasks) == 1:
        return f"only {tasks[0]}" if len(everyone) > 1 else tasks[0]
    if len(tasks) == len(everyone):
        return "shared by all" if len(everyone) > 2 else f"shared by {' and '.join(tasks)}"
    present = {found for layer in report.groups.values() for found in layer}
    between = [found for found in present if 1 < len(found) < len(everyone)]
    if len(between) > len(_BETWEEN_STYLES):
        return f"shared by {len(tasks)} of {len(everyone)}"
    return " + ".join(tasks)


def _draw_groups(axes: Any, report: Report, styles: dict[str, tuple[str, str]], rows: float):
    for row, found in enumerate(report.groups.values()):
        by_label: Counter[str] = Counter()
        for tasks, channels in found.items():
            by_label[_label(report, tasks)] += channels
        total, start = by_label.total(), 0.0
        for label, channels in by_label.items():
            _draw_share(axes, row, start, channels / total, str(channels), styles[label])
            start += channels / total
        axes.text(1.01, row, str(total), va="center", fontsize=8, color=_SHARED_COLOUR)
    axes.set_xlim(0, 1)
    _finish(axes, "Channels of each layer by the tasks that need them", list(report.groups), rows)


def _draw_share(axes: Any, row: int, start: float, share: float, text: str, style) -> None:
    colour, hatch = style
    box = {"height": 0.78, "color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.6}
    axes.barh(row, share, left=start, **box)
    if share < 0.05:
        return
    # A hatch would make the number hard to read.
    plate = {"boxstyle": "round,pad=0.15", "facecolor": colour, "linewidth": 0} if hatch else None
    place = {"ha": "center", "va": "center", "fontsize": 8, "bbox": plate}
    axes.text(start + share / 2, row, text, color=_text_colour(colour), **place)


def _text_colour(background: str) -> str:
    red, green, blue = (int(background[place : place + 2], 16) for place in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "black"


def _legend_rows(styles: dict[str, tuple[str, str]]) -> int:
    return -(-len(styles) // _legend_columns(styles))


def _legend_columns(styles: dict[str, tuple[str, str]]) -> int:
    longest = max(len(label) for label in styles)
    return max(1, min(len(styles), 130 // (longest + 8)))


def _draw_legend(figure: Any, styles: dict[str, tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=label)
        for label, (colour, hatch) in styles.items()
    ]
    columns = _legend_columns(styles)
    figure.legend(
        handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=9
    )


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
    _cost_bars(axes, [p - offset for p in places], macs, _SHARED_COLOUR, "model")
    if compared:
        originals = [row.original_macs for row in report.rows]
        below = [p + offset for p in places]
        _cost_bars(axes, below, originals, _ORIGINAL_COLOUR, "originals, run separately")
        below_last = {"bbox_to_anchor": (0, below[-1] + 0.5)}
        below_last["bbox_transform"] = axes.get_yaxis_transform()
        axes.legend(loc="upper left", ncols=2, frameon=False, fontsize=9, **below_last)
        macs = macs + originals
    axes.set_xlim(0, max(macs) * 1.18 or 1)
    names = [" + ".join(row.tasks) for row in report.rows]
    _finish(axes, "MACs per run of each combination", names, rows, places)


def _cost_bars(axes: Any, places: Iterable[float], values: list[int], colour: str, label: str):
    bars = axes.barh(places, values, height=0.7, color=colour, label=label)
    axes.bar_label(bars, [human(value) for value in values], padding=3, fontsize=8)


def _finish(axes: Any, title: str, names: list[str], rows: float, places=None) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_yticks(range(len(names)) if places is None else places, names, fontsize=9)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
