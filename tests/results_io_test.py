"""Benchmarks: a worker ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

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
