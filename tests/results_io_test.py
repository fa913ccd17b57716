"""Benchmarks: what they write, and a worker ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from benchmarks import results_io

_SCRIPT = """
import concurrent.futures, multiprocessing, os, time
from benchmarks import results_io

if __name__ == "__main__":
    pool = concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=results_io.end_with_parent
    )
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600)
    time.sleep(600)
"""


def test_a_worker_ends_when_the_process_that_started_it_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    worker = int(parent.stdout.readline())
    parent.kill()
    try:
        parent.communicate(timeout=60)  # until nobody has its end of the pipe open
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        raise


def test_a_benchmark_writes_its_numbers_and_its_page(tmp_path, capsys):
    rows = [
        {"suite": "x", "lost": {"a": 0.25, "b": {"c": 1 / 3}}, "widths": [4, 16]},
        {"suite": "y", "lost": {"a": 1.0}, "seed": 7, "peak": None, "accepted": True},
    ]
    results_io.write(str(tmp_path / "pages"), "one", "# One", rows)
    assert (tmp_path / "pages" / "one.csv").read_text(encoding="utf-8").splitlines() == [
        "suite,lost.a,lost.b.c,widths,seed,peak,accepted",
        "x,0.25,0.33333333,4 16,,,",
        "y,1,,,7,,True",
    ]
    title, environment = (tmp_path / "pages" / "one.md").read_text(encoding="utf-8").split("\n\n")
    assert title == "# One"
    assert environment == results_io.environment() + "\n"
    for told in (f"cores: {os.cpu_count()}", "python 3.", "tensorflow 2.", "ai-edge-litert "):
        assert told in environment
    assert capsys.readouterr().out == "# One\n"
    assert len(list((tmp_path / "pages").iterdir())) == 2


def test_raw_data_is_kept_in_a_work_folder(tmp_path):
    path = tmp_path / "work" / "rows.json"
    assert results_io.read_raw(path, []) == []
    results_io.write_raw(path, [{"seconds": 1.5}])
    assert results_io.read_raw(path, []) == [{"seconds": 1.5}]


def test_parts_of_a_page_are_replaced_where_it_names_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- one -->\nold\n<!-- end of one -->\nb\n", encoding="utf-8")
    for part in ("new", "newer \\1"):
        results_io.write_parts(page, {"one": part})
        expected = f"a\n<!-- one -->\n{part}\n<!-- end of one -->\nb\n"
        assert page.read_text(encoding="utf-8") == expected
    with pytest.raises(ValueError, match="has no comments '<!-- two -->'"):
        results_io.write_parts(page, {"two": ""})
