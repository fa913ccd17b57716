"""Reports as tables, JSON, CSV and pictures."""

from __future__ import annotations

import builtins
import csv
import io
import json

import keras
import numpy as np
import pytest
import rich.console

from tests import hand_built
from tests.hand_counted import AB, MACS, ORIGINAL_MACS, A, B, full_report, single, two_originals
from tfmot_pam.reporting.report import report
from tfmot_pam.reporting.table import human


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return hand_built.two_task_model()


@pytest.fixture(scope="module")
def full(model):
    return full_report(model, two_originals())


# --- forms of output ----------------------------------------------------------------------------


def test_table_is_what_printing_shows(full):
    text = str(full)
    assert text == repr(full)
    lines = text.splitlines()
    both = next(line for line in lines if line.strip().startswith("a + b"))
    for cell in ("109", "127", "0.86", "90.0 (95.0)", "80.0 (85.0)", "0.625 ms", "3.40 MB", "50.0"):
        assert cell in both
    assert "Expected MACs per run: 90 (originals: 89, ratio 1.02)." in lines
    assert all(line == line.rstrip() for line in lines)


def test_rich_console_shows_the_same_table(full):
    console = rich.console.Console(file=io.StringIO(), width=200)
    console.print(full)
    assert "0.625 ms" in console.file.getvalue()


def test_task_names_are_not_markup():
    x = keras.Input((2,))
    heads = {"a[bold]": keras.layers.Dense(1)(x), "[/red]": keras.layers.Dense(1)(x)}
    assert "a[bold] + [/red]" in str(report(keras.Model(x, heads), accuracy={"[/red]": 0.5}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (99_960, "100 k"),
        (12_345_678, "12.3 M"),
        (999_500, "1.00 M"),
        (3_112_200_684, "3.11 G"),
    ],
)
def test_human_numbers(value, text):
    assert human(value) == text


def test_json_is_exact(full, tmp_path):
    text = full.to_json(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == text
    data = json.loads(text)
    assert data["tasks"] == ["a", "b"]
    assert data["expected_macs"] == full.expected_macs
    assert data["groups"]["fc1"][0] == {"tasks": ["a", "b"], "channels": 4}
    assert data["notes"] == list(full.notes)
    for record, row in zip(data["rows"], full.rows, strict=True):
        assert record["ratio"] == row.ratio
        for name, value in record.items():
            expected = getattr(row, name)
            assert value == (list(expected) if name == "tasks" else expected)


def test_csv_round_trip(full, tmp_path):
    text = full.to_csv(tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_text(encoding="utf-8") == text
    records = list(csv.DictReader(io.StringIO(text)))
    assert [record["tasks"] for record in records] == ["a", "b", "a+b"]
    for record, row in zip(records, full.rows, strict=True):
        for name in ("macs", "flops", "parameters", "groups", "original_macs", "file_bytes"):
            assert int(record[name]) == getattr(row, name)
        for name in ("probability", "latency_ms", "ratio"):
            assert float(record[name]) == getattr(row, name)
    assert (records[0]["accuracy_a"], records[0]["accuracy_b"]) == ("0.9", "")
    assert records[2]["original_accuracy_b"] == "0.85"


def test_csv_columns_do_not_depend_on_what_was_given(model, full):
    bare, rich_ = (text.splitlines()[0] for text in (report(model).to_csv(), full.to_csv()))
    assert bare == rich_


@pytest.mark.parametrize("form", ["to_json", "to_csv", "plot"])
def test_files_are_not_replaced_silently(full, tmp_path, form):
    path = tmp_path / "report.png"
    path.write_text("mine")
    with pytest.raises(ValueError, match="exists.*Pass overwrite=True"):
        getattr(full, form)(path)
    assert path.read_text() == "mine"
    getattr(full, form)(path, overwrite=True)
    assert path.read_bytes() != b"mine"


class ZMQInteractiveShell:
    """The name by which rich knows that it runs in a notebook."""


def test_text_in_a_notebook(full, monkeypatch):
    text = str(full)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert rich.console.Console().is_jupyter
    assert str(full) == text


# --- pictures -----------------------------------------------------------------------------------


def panels(found):
    from tfmot_pam.reporting.plot import build_figure

    return build_figure(found)


def test_bars_are_the_shares_of_the_groups(full):
    figure = panels(full)
    groups, _ = figure.axes
    assert [label.get_text() for label in groups.get_yticklabels()] == ["fc1", "fc2"]
    widths = [bar.get_width() for bar in groups.patches]
    np.testing.assert_allclose(widths, [4 / 9, 2 / 9, 3 / 9, 2 / 6, 3 / 6, 1 / 6])
    colours = [bar.get_facecolor() for bar in groups.patches]
    assert colours[:3] == colours[3:]
    assert len(set(colours)) == 3
    legend = groups.get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["shared by a and b", "only a", "only b"]
    assert [patch.get_facecolor() for patch in legend.get_patches()] == colours[:3]


def test_cost_panel_compares_with_the_originals(full):
    _, costs = panels(full).axes
    widths = [bar.get_width() for bar in costs.patches]
    assert widths[:3] == [MACS[A], MACS[B], MACS[AB]]
    assert widths[3:] == [ORIGINAL_MACS[A], ORIGINAL_MACS[B], sum(ORIGINAL_MACS.values())]


def test_model_without_groups_has_the_cost_panel_only():
    (costs,) = panels(report(single(3, 2))).axes
    assert [bar.get_width() for bar in costs.patches] == [6 * 3 + 3 * 2]


def test_many_task_sets_are_told_apart_by_size():
    everyone = tuple("abcd")
    sets = [everyone, *((x, y) for x in "abcd" for y in "abcd" if x < y), tuple("abc")]
    sets += [("a", "b", "d"), ("b", "c", "d")]
    x = keras.Input((3,))
    h = hand_built.mix(x, "fc", dict.fromkeys(sets, 2), keras.layers.Dense, everyone)
    heads = {t: keras.layers.Dense(1)(hand_built.side_by_side(h, (t,))) for t in everyone}
    figure = panels(report(keras.Model(x, heads)))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["shared by all", "shared by 3 of 4", "shared by 2 of 4"]
    np.testing.assert_allclose([bar.get_width() for bar in figure.axes[0].patches], [0.1, 0.3, 0.6])


def test_a_legend_that_is_longer_than_its_panel_stands_below_both():
    tasks = ("recorded-digit", "recorded-speaker")
    x = keras.Input((3,))
    sets = {tasks: 2, tasks[:1]: 2, tasks[1:]: 1}
    h = hand_built.mix(x, "fc", sets, keras.layers.Dense, tasks)
    heads = {t: keras.layers.Dense(1)(hand_built.side_by_side(h, (t,))) for t in tasks}
    figure = panels(report(keras.Model(x, heads)))
    assert figure.axes[0].get_legend() is None
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][2] == "only recorded-speaker"


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_picture_files(full, tmp_path, suffix):
    full.plot(tmp_path / f"groups{suffix}")
    start = (tmp_path / f"groups{suffix}").read_bytes()[:5]
    assert start in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_unknown_picture_format(full, tmp_path):
    with pytest.raises(ValueError, match=r"groups.docx'.*Expected a suffix among.*png"):
        full.plot(tmp_path / "groups.docx")
