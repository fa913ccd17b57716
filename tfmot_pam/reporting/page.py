"""The page of a report or a compression: one HTML file, in which everything stands."""

from __future__ import annotations

import dataclasses
import importlib.resources
import io
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfmot_pam.reporting import curves, plot
from tfmot_pam.reporting.drawing import BOX, placed
from tfmot_pam.reporting.styles import set_colour, text_colour
from tfmot_pam.reporting.table import columns, footer_lines, human

if TYPE_CHECKING:
    from tfmot_pam.pipeline.result import CompressionResult
    from tfmot_pam.reporting.result import Report

Path = str | os.PathLike[str]
Files = Mapping[Any, Path]  # by combination
_LONGEST = 22  # letters of a name in a box


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture with what it shows.

    Args:
        title: Its heading.
        text: What to see in it.
        svg: The picture.
    """

    title: str
    text: str
    svg: str


def report_page(report: Report, path: Path, files: Files | None) -> str:
    """The page of a report."""
    text = "Channels by the tasks that need them, and multiply-accumulates of every combination."
    pictures = [
        Picture("What is shared, and what it costs", text, _svg(plot.build_figure(report), "r"))
    ]
    return _rendered(report, path, files, pictures, title="Combinations of tasks")


def result_page(result: CompressionResult, path: Path, files: Files | None) -> str:
    """The page of a compression."""
    pictures = [
        Picture(
            "What combinations cost",
            "Multiply-accumulates of one run, for each combination of tasks.",
            _svg(curves.cost_figure(result), "costs"),
        ),
        Picture(
            "What was given for what",
            "Every round of the search: the computation that was left, and what the task had lost "
            "of its accuracy. Hollow ones lost too much and were undone.",
            _svg(curves.trade_off_figure(result), "rounds"),
        ),
    ]
    if result.report.groups:
        text = "How many channels of each layer which tasks need."
        svg = _svg(plot.groups_figure(result.report), "groups")
        pictures.append(Picture("Who needs what", text, svg))
    return _rendered(
        result.report,
        path,
        files,
        pictures,
        title="Compressed networks",
        verdict=result.verdict,
        arms=[_arm(result, arm) for arm in result.arms],
    )


def _arm(result: CompressionResult, arm: Any) -> dict[str, Any]:
    rounds = [row for rows in arm.rounds.values() for row in rows]
    return {
        "name": arm.name,
        "chosen": arm is result.best,
        "share": arm.share,
        "macs": sum(arm.macs.values()) / len(arm.macs),
        "within": "yes" if arm.accepted else "no",
        "rounds": len(rounds),
        "epochs": arm.epochs,
        "minutes": arm.seconds / 60,
    }


def _rendered(
    report: Report, path: Path, files: Files | None, pictures: Sequence[Picture], **more: Any
) -> str:
    import jinja2

    template = importlib.resources.files("tfmot_pam.reporting").joinpath("page.html.jinja")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["human"] = human
    found = environment.from_string(template.read_text(encoding="utf-8"))
    values = {"verdict": None, "arms": [], **more}
    return found.render(
        report=report,
        table=_table(report),
        notes=footer_lines(report),
        pictures=pictures,
        graph=_graph(report),
        files=_shipped(report, path, files),
        costs=[{"tasks": row.tasks, "macs": human(row.macs)} for row in report.rows],
        **values,
    )


def _table(report: Report) -> dict[str, Any]:
    titles = [(title.replace("\n", " "), cell) for title, cell in columns(report)]
    rows = [{"tasks": row.tasks, "cells": [cell(row) for _, cell in titles]} for row in report.rows]
    return {"titles": [title for title, _ in titles], "rows": rows}


def _shipped(report: Report, path: Path, files: Files | None) -> list[dict[str, Any]]:
    """The files by combination, linked from where the page is."""
    from tfmot_pam.graph.selection import check_tasks

    folder, found = pathlib.Path(path).absolute().parent, []
    for chosen, file in (files or {}).items():
        tasks = check_tasks(chosen, report.tasks)
        place = os.path.relpath(pathlib.Path(file).absolute(), folder)
        link = urllib.parse.quote(place.replace(os.sep, "/"))
        size = pathlib.Path(file).stat().st_size
        found.append({"tasks": tasks, "link": link, "name": place, "bytes": size})
    return found


def _graph(report: Report) -> dict[str, Any] | None:
    """Boxes and lines of the network, ready to be drawn."""
    if not report.layers:
        return None
    where, boxes, lines = placed(report.layers, report.tasks), [], []
    for (x, y), layer in zip(where.boxes, report.layers, strict=True):
        colour = set_colour(layer.tasks, report.tasks) if layer.tasks else "#FFFFFF"
        boxes.append(
            {
                **{"x": x, "y": y, "colour": colour, "ink": text_colour(colour)},
                "name": _shortened(layer.name),
                "below": f"{layer.kind}, {human(layer.macs)} MACs" if layer.macs else layer.kind,
                "layer": layer,
            }
        )
        for place in layer.reads:
            left, top = where.boxes[place]
            start, end = (left + BOX[0] / 2, top + BOX[1]), (x + BOX[0] / 2, y)
            bend = (end[1] - start[1]) / 2
            curve = f"M{start[0]:.0f} {start[1]:.0f}C{start[0]:.0f} {start[1] + bend:.0f} "
            curve += f"{end[0]:.0f} {end[1] - bend:.0f} {end[0]:.0f} {end[1]:.0f}"
            lines.append({"path": curve, "tasks": layer.tasks})
    return {"boxes": boxes, "lines": lines, "width": where.width, "height": where.height}


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 8]}…{name[-7:]}"


def _svg(figure: Any, name: str) -> Any:
    """A Matplotlib figure as an element of the page, the same for the same figure."""
    import markupsafe
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    content = text.getvalue()
    return markupsafe.Markup(content[content.index("<svg") :])
