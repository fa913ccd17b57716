"""Searches in processes of their own: each goes on from its checkpoints and leaves more of them.

A search is told by its checkpoints, and what comes next follows from them alone. So workers return
nothing: when they are done, their searches are there as if they had been run before.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfmot_pam import backends
from tfmot_pam.display import Display
from tfmot_pam.pipeline.checkpoints import Checkpoints, folder_name
from tfmot_pam.pipeline.problem import Problem
from tfmot_pam.pipeline.search import Search
from tfmot_pam.pipeline.strategy import Allotment
from tfmot_pam.pipeline.summaries import RoundSummaries

_ALIGNED = 64  # bytes between which arrays start
_STOP = "stop"  # a file that tells workers to stop
_INTERVAL = 0.25  # seconds between looks at what workers show


@dataclasses.dataclass(frozen=True)
class Job:
    """A search that was started, to be gone on with.

    Args:
        label: For messages.
        tasks: The tasks that it is for.
        checkpoints: Its rounds, the first of them at least.
        allotment: How its epochs are spent.
        trial: Epochs and fraction of a trial; None searches to the end.
        log_dir: Where rounds are written for TensorBoard, or None.
    """

    label: str
    tasks: tuple[str, ...]
    checkpoints: Checkpoints
    allotment: Allotment
    trial: tuple[int, float] | None = None
    log_dir: str | os.PathLike[str] | None = None


def run_jobs(problem: Problem, jobs: Sequence[Job], workers: int, display: Display) -> None:
    """Takes searches on, so many at a time, in processes that share the machine's threads.

    All read one copy of the data, a file that is mapped into their memory. Where one fails, the
    others end with their rounds.

    Raises:
        TypeError: something of the problem, such as a loss, cannot be sent to a process.
        RuntimeError: a process ended before its search did.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="tfmot-pam-") as folder:
        _write(problem, pathlib.Path(folder))
        count = min(workers, len(jobs))
        threads = max(1, _processors() // count)
        with concurrent.futures.ProcessPoolExecutor(count, context) as pool:
            shown = [pathlib.Path(folder, f"shown-{number}") for number in range(len(jobs))]
            futures = [
                pool.submit(_go_on, folder, job, threads, file)
                for job, file in zip(jobs, shown, strict=True)
            ]
            try:
                _wait(futures, [_Shown(file, display) for file in shown])
            except concurrent.futures.process.BrokenProcessPool as error:
                raise RuntimeError(
                    f"One of {count} worker processes of compress() ended before its search did: "
                    "it ran out of memory or was killed, or the script that calls compress() does "
                    'not do so under `if __name__ == "__main__":`, which new processes need. '
                    "Rounds kept in `directory` are whole. Call again with fewer `workers`."
                ) from error
            except BaseException:
                pathlib.Path(folder, _STOP).touch()
                for future in futures:
                    future.cancel()
                raise


class _Shown:
    """What a worker shows, which it writes to a file, handed on to a display."""

    def __init__(self, file: pathlib.Path, display: Display):
        self._file, self._display, self._read = file, display, 0

    def hand_on(self) -> None:
        """Shows what has come since the last time."""
        if not self._file.exists():
            return
        with open(self._file, encoding="utf-8") as file:
            file.seek(self._read)
            while (line := file.readline()).endswith("\n"):  # the last may not be whole yet
                self._display.show(*json.loads(line))
                self._read = file.tell()


def _wait(futures: Sequence[concurrent.futures.Future[None]], shown: Sequence[_Shown]) -> None:
    """Waits for workers, shows what they show, and raises what the first of them raises."""
    left = set(futures)
    while left:
        done, left = concurrent.futures.wait(left, _INTERVAL, concurrent.futures.FIRST_COMPLETED)
        for one in shown:
            one.hand_on()
        for future in done:
            future.result()


def _go_on(folder: str, job: Job, threads: int, shown: pathlib.Path) -> None:
    """Runs in a worker."""
    backends.current().use_threads(threads)

    def show(done: float, state: str = "", line: str = "") -> None:
        with open(shown, "a", encoding="utf-8") as file:
            file.write(json.dumps([job.label, done, state, line]) + "\n")

    problem = _read(pathlib.Path(folder)).only(job.tasks)
    options: dict[str, Any] = {}
    if job.log_dir is not None:
        options["watch"] = RoundSummaries(job.log_dir, folder_name(job.label))
    search = Search(problem, None, job.allotment, job.checkpoints, show, **options)
    if job.trial is None:
        search.run(lambda: _is_to_stop(folder))
    else:
        search.trial(*job.trial)


def _is_to_stop(folder: str) -> bool:
    """Whether another worker has failed, or the process that waits for them is gone."""
    parent = multiprocessing.parent_process()
    return pathlib.Path(folder, _STOP).exists() or (parent is not None and not parent.is_alive())


def _processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write(problem: Problem, folder: pathlib.Path) -> None:
    """Writes a problem with its arrays in a file of their own."""
    buffers: list[pickle.PickleBuffer] = []
    with _sent():
        body = pickle.dumps(problem, protocol=5, buffer_callback=buffers.append)
    places, end = [], 0
    with open(folder / "arrays", "wb") as file:
        for buffer in buffers:
            file.write(b"\0" * (-end % _ALIGNED))
            start = end + -end % _ALIGNED
            end = start + file.write(buffer.raw())
            places.append((start, end))
        file.write(b"\0")  # An empty file cannot be mapped.
    (folder / "problem").write_bytes(pickle.dumps((places, body)))


def _read(folder: pathlib.Path) -> Problem:
    places, body = pickle.loads((folder / "problem").read_bytes())
    arrays = np.memmap(folder / "arrays", mode="r")
    with _sent():
        return pickle.loads(body, buffers=[arrays[start:end] for start, end in places])


@contextlib.contextmanager
def _sent() -> Iterator[None]:
    """Keras finds out on either side what it cannot send: classes and functions without a name."""
    try:
        yield
    except (pickle.PicklingError, AttributeError, ImportError, TypeError, ValueError) as error:
        raise TypeError(
            "`workers` needs models, losses and importances that can be sent to a process: "
            f"{error}. Define what they are made of in a module, register own layers and losses "
            "with keras.saving.register_keras_serializable, or pass workers=1."
        ) from error
