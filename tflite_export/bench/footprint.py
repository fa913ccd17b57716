"""Measures the memory that loading and running a signature takes, in a process of its own.

Run as `python -m tflite_export.bench.footprint FILE SIGNATURE`; prints the bytes.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

_RUNS = 3


def peak_memory(path: str | pathlib.Path, signature: str) -> int | None:
    """Measures how much a fresh process grows when it loads a file and runs a signature.

    Args:
        path: The `.tflite` file.
        signature: Name of the signature to run.

    Returns:
        Bytes: the peak of the resident memory above that of the process before, one thread. The
        pages of the file itself count, and so do the kernels' packed copies of the weights. None
        where the system does not tell (Windows).
    """
    if sys.platform == "win32":
        return None
    command = [sys.executable, "-m", "tflite_export.bench.footprint", str(path), signature]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"Signature '{signature}' of '{path}' cannot be run: "
            f"{(done.stderr.splitlines() or ['no message'])[-1]}"
        )
    return int(done.stdout)


def _peak() -> int:
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # Linux's getrusage would count the process that started this one.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _measure(path: str, signature: str) -> int:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    before = _peak()
    runner = Interpreter(model_path=path, num_threads=1).get_signature_runner(signature)
    inputs = {
        name: np.zeros(detail["shape"], detail["dtype"])
        for name, detail in runner.get_input_details().items()
    }
    for _ in range(_RUNS):
        runner(**inputs)
    return _peak() - before


if __name__ == "__main__":
    sys.stdout.write(f"{_measure(*sys.argv[1:])}\n")
