"""A report as a table for people: rounded numbers, and what must be known to read them."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfmot_pam.reporting.result import Report, ReportRow

_PREFIXES = ("", "k", "M", "G", "T", "P")


def human(value: float) -> str:
    """A count with three significant digits and a unit prefix: 1234567 is `1.23 M`."""
    scaled, prefix = float(value), 0
    # 999.5 would be rounded to four digits.
    while abs(scaled) >= 999.5 and prefix < len(_PREFIXES) - 1:
        scaled, prefix = scaled / 1000, prefix + 1
    if prefix == 0:
        return f"{scaled:.0f}"
    digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{digits}f} {_PREFIXES[prefix]}"


def renderable(report: Report) -> Any:
    """The rich renderable of a report: the table, expected costs, notes and reasons."""
    from rich.console import Group

    return Group(_table(report), *_footer(report))


def as_text(report: Report) -> str:
    """The table as plain text, as wide as it needs to be."""
    from rich.console import Console
    from rich.measure import Measurement

    text = io.StringIO()
    # In a notebook rich would display the table instead of returning it.
    console = Console(file=text, width=1000, color_system=None, force_jupyter=False)
    table = _table(report)
    console.width = max(80, Measurement.get(console, console.options, table).maximum)
    console.print(table, *_footer(report), sep="\n")
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _table(report: Report) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = columns(report)
    for title, _ in shown:
        left = title == "combination"
        table.add_column(escape(title), justify="left" if left else "right", no_wrap=True)
    for row in report.rows:
        table.add_row(*(escape(cell(row)) for _, cell in shown))
    return table


def columns(report: Report) -> list[tuple[str, Callable[[ReportRow], str]]]:
    """Titles and cells; a column that no row has a value for is left out."""
    found: list[tuple[str, Callable[[ReportRow], str]]] = [
        ("combination", lambda row: " + ".join(row.tasks)),
        ("MACs", lambda row: human(row.macs)),
    ]
    if any(row.ratio is not None for row in report.rows):
        found += [
            ("originals", lambda row: _optional(row.original_macs, human)),
            ("ratio", lambda row: _optional(row.ratio, lambda v: f"{v:.2f}")),
        ]
    found += [
        ("FLOPs", lambda row: human(row.flops)),
        ("parameters", lambda row: human(row.parameters)),
    ]
    if report.groups:
        found.append(("groups", lambda row: str(row.groups)))
    for mark in _marks(report):
        title = report.metrics.get(mark)
        write = _percent if title is None else _value
        heading = f"accuracy\n{mark}, %" if title is None else f"{title}\n{mark}"
        found.append((heading, functools.partial(_accuracy, mark=mark, write=write)))
    if any(row.latency_ms is not None for row in report.rows):
        found.append(("latency", lambda row: _optional(row.latency_ms, _milliseconds)))
    if any(row.file_bytes is not None for row in report.rows):
        found.append(("file", lambda row: _optional(row.file_bytes, lambda v: f"{human(v)}B")))
    if len({row.probability for row in report.rows}) > 1:
        found.append(("usage, %", lambda row: _percent(row.probability)))
    return found


def _optional(value: float | None, write: Callable[[float], str]) -> str:
    return "" if value is None else write(value)


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _value(value: float) -> str:
    return f"{value:.4g}"


def _marks(report: Report) -> list[str]:
    """What there are accuracies of, in the order of the tasks."""
    found = [m for row in report.rows for m in (*row.accuracy, *row.original_accuracy)]

    def place(mark: str) -> int:
        owners = [t for t in report.tasks if mark == t or mark.startswith(f"{t}/")]
        return report.tasks.index(max(owners, key=len))

    return sorted(dict.fromkeys(found), key=place)


def _accuracy(row: ReportRow, mark: str, write: Callable[[float], str]) -> str:
    text = _optional(row.accuracy.get(mark), write)
    original = _optional(row.original_accuracy.get(mark), write)
    return f"{text} ({original})".lstrip() if original else text


def footer_lines(report: Report) -> list[str]:
    """The expected cost, notes and reasons, below the table."""
    expected = f"Expected MACs per run: {human(report.expected_macs)}"
    if report.expected_original_macs:
        ratio = report.expected_macs / report.expected_original_macs
        expected += f" (originals: {human(report.expected_original_macs)}, ratio {ratio:.2f})"
    lines = [f"{expected}."]
    if any(row.original_accuracy for row in report.rows):
        what = "Accuracy" if not report.metrics else "Accuracies and metrics"
        lines.append(f"{what} in brackets: the original models.")
    lines += [f"Note: {note}" for note in report.notes]
    lines += [f"Not counted: {layer}: {reason}" for layer, reason in report.unsupported.items()]
    lines += [f"Not regrouped: {space}: {reason}" for space, reason in report.frozen.items()]
    return lines


def _footer(report: Report) -> list[Any]:
    from rich.text import Text

    return [Text(line) for line in footer_lines(report)]
