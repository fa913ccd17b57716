"""Searches in processes of their own: each goes on from its checkpoints and leaves more of them.

A search is told by its checkpoints, and what comes next follows from them alone. So workers return
nothing: when they are done, their searches are there as if they had been run before.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import pickle
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np

from tfmot_pam.pipeline.checkpoints import Checkpoints, folder_name
from tfmot_pam.pipeline.problem import Problem
from tfmot_pam.pipeline.search import Search
from tfmot_pam.pipeline.strategy import Allotment
from tfmot_pam.pipeline.summaries import RoundSummaries

_ALIGNED = 64  # bytes between which arrays start
_STOP = "stop"  # a file that tells workers to stop


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


def run_jobs(problem: Problem, jobs: Sequence[Job], workers: int, verbose: int | str) -> None:
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
            futures = [pool.submit(_go_on, folder, job, threads, bool(verbose)) for job in jobs]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
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


def _go_on(folder: str, job: Job, threads: int, verbose: bool) -> None:
    """Runs in a worker."""
    import tensorflow as tf

    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)

    def say(text: str) -> None:
        if verbose:
            tell(f"{job.label}: {text}")

    problem = _read(pathlib.Path(folder)).only(job.tasks)
    options = {}
    if job.log_dir is not None:
        options["watch"] = RoundSummaries(job.log_dir, folder_name(job.label))
    search = Search(problem, None, job.allotment, job.checkpoints, say, **options)
    if job.trial is None:
        search.run(lambda: _is_to_stop(folder))
    else:
        search.trial(*job.trial)


def _is_to_stop(folder: str) -> bool:
    """Whether another worker has failed, or the process that waits for them is gone."""
    parent = multiprocessing.parent_process()
    return pathlib.Path(folder, _STOP).exists() or (parent is not None and not parent.is_alive())


def tell(text: str) -> None:
    """Writes a line at once: those of several processes come as they happen."""
    sys.stdout.write(f"compress: {text}\n")
    sys.stdout.flush()


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
