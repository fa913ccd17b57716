"""What a report holds, and the forms it is written in."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping
from typing import Any

from tfmot_pam.reporting.drawing import DrawnLayer

TaskSet = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One combination of tasks. What was not given to `report` is None, or an empty dict.

    Args:
        tasks: The tasks that run, in model order.
        macs: Multiply-accumulate operations per sample.
        flops: Operations per sample in the PAM paper's convention.
        parameters: Weights of all kinds.
        groups: Task groups of the trunk that the combination runs.
        probability: How often this combination runs, as a share of all runs.
        original_macs: The same for the original models of these tasks, run one by one.
        original_flops: The same.
        original_parameters: The same.
        accuracy: Accuracy by task, 0..1, or the task's own metric.
        original_accuracy: The same of the original models.
        latency_ms: Milliseconds per run.
        file_bytes: Size of the exported file.
    """

    tasks: TaskSet
    macs: int
    flops: int
    parameters: int
    groups: int
    probability: float
    original_macs: int | None = None
    original_flops: int | None = None
    original_parameters: int | None = None
    accuracy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    original_accuracy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    latency_ms: float | None = None
    file_bytes: int | None = None

    @property
    def ratio(self) -> float | None:
        """MACs as a multiple of the original models' MACs, None without originals."""
        return self.macs / self.original_macs if self.original_macs else None


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """What every combination of a model's tasks costs; `print(report)` shows it as a table.

    `report` makes it. Counts are exact here, in JSON and in CSV, and rounded in the table.

    Args:
        tasks: The model's tasks, in model order.
        rows: One row a combination.
        expected_macs: Mean MACs of a run, each combination weighted by its probability.
        expected_original_macs: The same for the original models, None where they were not given.
        groups: For each layer of the trunk that mixes channels, the number of channels by task
            set, largest task set first.
        unsupported: The reason by layer, for layers whose operations are not counted.
        frozen: The reason by channel space, for channels that the merge could not regroup. Known
            only for a model that `merge` has just returned, not for a saved and loaded one.
        metrics: Name and unit of the metrics of tasks whose accuracies are another metric.
        layers: The network, layer by layer, as `to_html` draws it.
    """

    tasks: TaskSet
    rows: tuple[ReportRow, ...]
    expected_macs: float
    expected_original_macs: float | None
    groups: Mapping[str, Mapping[TaskSet, int]]
    unsupported: Mapping[str, str]
    frozen: Mapping[str, str]
    metrics: Mapping[str, str] = dataclasses.field(default_factory=dict)
    layers: tuple[DrawnLayer, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know, one sentence or two each."""
        return tuple(note for note in (_sharing_note(self), _uncounted_note(self)) if note)

    def to_json(
        self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False
    ) -> str:
        """Returns the report as JSON text, and writes it where a path is given.

        Args:
            path: A file to write.
            overwrite: Whether a file that exists may be replaced.

        Raises:
            ValueError: the file exists and `overwrite` is False.
        """
        content = {
            "tasks": self.tasks,
            "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in self.rows],
            "expected_macs": self.expected_macs,
            "expected_original_macs": self.expected_original_macs,
            "groups": {
                layer: [{"tasks": tasks, "channels": count} for tasks, count in found.items()]
                for layer, found in self.groups.items()
            },
            "unsupported": dict(self.unsupported),
            "frozen": dict(self.frozen),
            "metrics": dict(self.metrics),
            "notes": self.notes,
        }
        return _written(json.dumps(content, indent=1) + "\n", path, overwrite)

    def to_csv(self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False) -> str:
        """Returns the rows as CSV text with a header, and writes it where a path is given.

        Task names of a combination are joined by `+`; each task has columns of its own for the
        accuracies; what is not known is empty. The columns do not depend on what was given.

        Args:
            path: A file to write.
            overwrite: Whether a file that exists may be replaced.

        Raises:
            ValueError: the file exists and `overwrite` is False.
        """
        records = [self._flat(row) for row in self.rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return _written(text.getvalue(), path, overwrite)

    def _flat(self, row: ReportRow) -> dict[str, Any]:
        record = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        record["tasks"] = "+".join(row.tasks)
        for name in ("accuracy", "original_accuracy"):
            values = record.pop(name)
            record.update({f"{name}_{task}": values.get(task) for task in self.tasks})
        return {**record, "ratio": row.ratio}

    def plot(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Draws the groups of each layer and the MACs of each combination into a picture file.

        Args:
            path: The file to write; its suffix chooses the format (`.png`, `.svg`, `.pdf`).
            overwrite: Whether a file that exists may be replaced.

        Raises:
            ValueError: the file exists and `overwrite` is False, or the suffix names no format.
        """
        from tfmot_pam.reporting.plot import draw

        refuse_existing(path, overwrite)
        draw(self, path)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        files: Mapping[Any, str | os.PathLike[str]] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes one page that needs no network: tables, pictures, and the network as a graph.

        In the graph tasks are switched on and off, to see what a combination runs.

        Args:
            path: The `.html` file to write.
            files: The files to ship, by combination: they are linked, with their sizes.
            overwrite: Whether a file that exists may be replaced.

        Raises:
            OSError: one of `files` does not exist.
            ValueError: the file exists and `overwrite` is False, or `files` has an unknown
                combination.
        """
        from tfmot_pam.reporting.page import report_page

        refuse_existing(path, overwrite)
        _written(report_page(self, path, files), path, overwrite)

    def __rich__(self) -> Any:
        from tfmot_pam.reporting.table import renderable

        return renderable(self)

    def __str__(self) -> str:
        from tfmot_pam.reporting.table import as_text

        return as_text(self)

    # Notebooks and the interactive prompt show the representation.
    __repr__ = __str__


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises ValueError where a file would be replaced without leave."""
    if os.path.exists(path) and not overwrite:
        raise ValueError(
            f"The file '{os.fspath(path)}' exists. Expected a new path. Pass overwrite=True to "
            "replace it."
        )


def _written(text: str, path: str | os.PathLike[str] | None, overwrite: bool) -> str:
    if path is not None:
        refuse_existing(path, overwrite)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    return text


def _sharing_note(report: Report) -> str | None:
    if not any(len(tasks) > 1 for found in report.groups.values() for tasks in found):
        return None
    if report.expected_original_macs is None:
        return (
            "Before pruning and fine-tuning a shared group is dense and can cost more than the "
            "separate models. Pass originals= to compare."
        )
    dearer = [row for row in report.rows if row.ratio is not None and row.ratio > 1]
    if not dearer:
        return None
    worst = max(dearer, key=lambda row: row.ratio or 0.0)
    return (
        f"{len(dearer)} of {len(report.rows)} combinations cost more than the original models run "
        f"separately ({' + '.join(worst.tasks)}: {worst.ratio:.2f} times as much): a shared group "
        "is dense, the channels that several models put into it all read each other. Sharing pays "
        "after pruning and fine-tuning."
    )


def _uncounted_note(report: Report) -> str | None:
    if not report.unsupported:
        return None
    return "The model costs more than its MACs and FLOPs say where layers could not be counted."
