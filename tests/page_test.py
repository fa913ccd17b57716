"""The pages and pictures of reports and compressions."""

from __future__ import annotations

import html
import html.parser
import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.hand_built import two_task_model
from tests.small_nets import classes, dense_net, vectors
from tfmot_pam.graph.reader import read
from tfmot_pam.reporting.curves import _lost, cost_figure, trade_off_figure
from tfmot_pam.reporting.drawing import BOX, GAP, drawn_layers, placed

A, B, AB = ("a",), ("b",), ("a", "b")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def report():
    return tfmot_pam.report(two_task_model())


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def result(logs):
    x = vectors(140)
    data = (x, {"a": classes(x, 3), "b": classes(x, 2, seed=1)})
    models = {"a": dense_net(0, (12, 10)), "b": dense_net(1, (12, 10), 2)}
    options = {"arms": ["separate", "trunk"], "effort": 1, "target": 0.8, "verbose": 0}
    options["tensorboard"] = logs
    return tfmot_pam.compress(models, data, 0.9, **options)


# --- the drawing ----------------------------------------------------------------------------------


def test_what_is_drawn(report):
    """The hand-built network: an input, two layers of three groups each, two heads."""
    drawn = {layer.name: layer for layer in report.layers}
    names = [layer.name for layer in report.layers]
    groups = {"fc1_shared": AB, "fc1_a": A, "fc1_b": B, "fc2_shared": AB, "fc2_a": A, "fc2_b": B}
    assert {name: drawn[name].tasks for name in groups} == groups
    assert len(drawn) == 1 + len(groups) + 2
    reads = {name: {names[place] for place in layer.reads} for name, layer in drawn.items()}
    assert reads["fc2_shared"] == {"fc1_shared"}  # Never an exclusive one.
    assert reads["fc2_a"] == {"fc1_shared", "fc1_a"}
    assert reads["head_b"] == {"fc2_shared", "fc2_b"}
    assert [drawn[name].rank for name in ("fc1_a", "fc2_shared", "head_a")] == [1, 2, 3]
    assert drawn["head_a"].heads == A
    assert drawn["fc2_a"].heads == ()
    assert drawn["fc2_a"].macs == (4 + 2) * 3
    assert sum(layer.macs for layer in report.layers) == report.rows[-1].macs


def test_what_has_no_task_and_what_is_an_output_twice():
    x = keras.Input((4,), name="x")
    beside = keras.Input((2,), name="unread")
    hidden = keras.layers.Dense(3, name="hidden")(x)
    model = keras.Model([x, beside], {"a": hidden, "b": keras.layers.ReLU()(hidden)})
    drawn = {layer.name: layer for layer in drawn_layers(read(model))}
    assert drawn["unread"].tasks == ()
    assert drawn["hidden"].heads == AB
    assert drawn["hidden"].rank == 1


def test_boxes_do_not_overlap(report):
    where = placed(report.layers, report.tasks)
    assert len(set(where.boxes)) == len(report.layers)
    for place, (x, y) in enumerate(where.boxes):
        assert 0 <= x <= where.width - BOX[0]
        assert 0 <= y <= where.height - BOX[1]
        for other_x, other_y in where.boxes[:place]:
            assert abs(x - other_x) >= BOX[0] + GAP[0] or abs(y - other_y) >= BOX[1] + GAP[1]
    first = [where.boxes[place] for place, layer in enumerate(report.layers) if layer.rank == 1]
    assert first == sorted(first)  # The shared group, that of a, that of b.


# --- the page -------------------------------------------------------------------------------------


class _Parsed(html.parser.HTMLParser):
    """Tags that are open, links and texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.open, self.links, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        void = ("meta", "input", "link", "br")
        self.open += [] if tag in void else [tag]
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_of_a_report(report, tmp_path):
    path = tmp_path / "page.html"
    report.to_html(path)
    page = _Parsed(path)
    assert page.open == []
    assert all(link.startswith("#") for link in page.links)  # Nothing is loaded.
    assert path.stat().st_size < 1_000_000
    text = "".join(page.texts)
    for row in report.rows:
        assert " + ".join(row.tasks) in text
    assert "fc2_shared" in text
    report.to_html(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_the_page_of_a_compression(result, tmp_path):
    (tmp_path / "out files").mkdir()
    file = tmp_path / "out files" / "a.tflite"
    file.write_bytes(b"x" * 12345)
    result.to_html(tmp_path / "page.html", files={A: file})
    page = _Parsed(tmp_path / "page.html")
    text = "".join(page.texts)
    assert page.open == []
    assert result.verdict in text
    assert "out%20files/a.tflite" in page.links
    assert "12,345" in text
    assert all(arm.name in text for arm in result.arms)
    assert f"{result.best.name} (the result)" in text


def test_names_are_escaped(tmp_path):
    x = keras.Input((4,))
    task = "<b> & \"c\" 'd'"
    model = keras.Model(x, {task: keras.layers.Dense(2, name="head")(x)})
    tfmot_pam.report(model).to_html(tmp_path / "page.html")
    page = _Parsed(tmp_path / "page.html")
    assert page.open == []
    assert f"Tasks: {task}" in page.texts


def test_pages_that_cannot_be_written(report, result, tmp_path):
    path = tmp_path / "page.html"
    path.touch()
    for found in (report, result):
        with pytest.raises(ValueError, match="exists. Expected a new path"):
            found.to_html(path)
        with pytest.raises(ValueError, match="'z'"):
            found.to_html(path, files={("z",): path}, overwrite=True)
        with pytest.raises(OSError, match="none.tflite"):
            found.to_html(path, files={A: tmp_path / "none.tflite"}, overwrite=True)
    assert path.read_bytes() == b""


def _in_chromium(page, script, tmp_path):
    """What a script finds on a page, run in the browser after the page's own."""
    told = tmp_path / "told.html"
    run = f"document.title = JSON.stringify((() => {{ {script} }})());"
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{run}</script></body>")
    told.write_text(text, encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    options += " --disable-background-networking --disable-component-update --disable-sync"
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'user'}", told.as_uri()]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    return json.loads(html.unescape(re.search("<title>(.*?)</title>", shown)[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_switching_tasks_and_sorting_in_a_browser(report, tmp_path):
    report.to_html(tmp_path / "page.html")
    found = _in_chromium(
        tmp_path / "page.html",
        """
        const runs = () => [...document.querySelectorAll("#graph g")].filter(
            (box) => !box.classList.contains("off")).map((box) => box.dataset.layer);
        const shown = () => document.getElementById("running").textContent;
        const all = [runs(), shown()];
        document.querySelector("#tasks input[value=b]").click();
        const one = [runs(), shown()];
        document.querySelector("#tasks input[value=a]").click();
        const none = [runs(), shown()];
        const names = () => [...document.querySelectorAll("#combinations tbody tr")].map(
            (row) => row.cells[0].textContent);
        const head = document.querySelectorAll("#combinations th button")[1];
        head.click();
        const up = names();
        head.click();
        return { all, one, none, up, down: names(),
                 sort: head.parentElement.getAttribute("aria-sort") };
        """,
        tmp_path,
    )
    names = [layer.name for layer in report.layers]
    macs = {row.tasks: row.macs for row in report.rows}
    assert found["all"] == [names, f"a + b: {macs[AB]} MACs"]
    needed = [layer.name for layer in report.layers if "a" in layer.tasks]
    assert found["one"] == [needed, f"a: {macs[A]} MACs"]
    assert found["none"] == [[], "nothing runs"]
    ordered = [" + ".join(tasks) for tasks in sorted(macs, key=macs.get)]
    assert found["up"] == ordered
    assert found["down"] == ordered[::-1]
    assert found["sort"] == "descending"


# --- pictures of a compression --------------------------------------------------------------------


def test_pictures_of_a_compression(result, tmp_path):
    result.plot(tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert text.startswith("<?xml")
    with pytest.raises(ValueError, match="exists"):
        result.plot(tmp_path / "p.svg")
    with pytest.raises(ValueError, match="Expected a suffix among"):
        result.plot(tmp_path / "p.xyz")


def test_what_the_curves_show(result):
    panels = trade_off_figure(result).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["a", "b"]
    shown = {tuple(p) for c in panels[0].collections for p in np.asarray(c.get_offsets())}
    expected = {
        (100 * row.share, 100 * row.lost["a"])
        for arm in result.arms
        for tasks, rows in arm.rounds.items()
        if "a" in tasks
        for row in rows
    }
    assert shown == expected
    (axes,) = cost_figure(result).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[: len(result.report.rows)] == [row.macs for row in result.report.rows]


def test_losses_of_several_outputs_are_those_of_the_worst():
    lost = {"a/x": 0.01, "a/y": 0.03, "ab": 0.5, "b": 0.2}
    assert _lost(lost, "a", {}) == pytest.approx(3.0)
    assert _lost(lost, "b", {"b": "MAE"}) == 0.2


# --- TensorBoard ----------------------------------------------------------------------------------


def test_rounds_are_logged(result, logs):
    """A folder for each search, in which the steps are its rounds."""
    import tensorflow as tf

    searches = {f"separate-separate-{task}": result.arms[0].rounds[(task,)] for task in ("a", "b")}
    searches[f"trunk-{result.arms[1].start}"] = result.arms[1].rounds[AB]
    for name, rounds in searches.items():
        (path,) = (logs / name).iterdir()
        found = {}
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
        for row in rounds:
            assert found[row.number, "compress/share"] == pytest.approx(row.share)
            assert found[row.number, "compress/accepted"] == row.accepted
            for task, accuracy in row.accuracy.items():
                assert found[row.number, f"compress/accuracy/{task}"] == pytest.approx(accuracy)
                lost = found[row.number, f"compress/lost/{task}"]
                assert lost == pytest.approx(row.lost[task], abs=1e-6)
        assert len({step for step, _ in found}) == len(rounds)
