"""Writes requirements.lock: one `name==version` line for everything a development set-up installs.

Run as `python -m tools.lock_file --write` (or `make lock`). pip's own resolver picks the versions,
so whatever stands in the file can be installed by plain pip.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PYTHON = (3, 11)
DISTRIBUTION = "tfmot-pam"
HEADER = f"""\
# Everything that the tests and the demo run with, for Python {PYTHON[0]}.{PYTHON[1]}.
# Written by `make lock`; do not edit by hand.
"""


def resolve() -> dict[str, str]:
    """Asks pip what it would install for the package with all extras, in an empty environment.

    Returns:
        Version by canonical distribution name, sorted by name, without the package itself.

    Raises:
        RuntimeError: If this is not the Python that the lock is for.
    """
    if sys.version_info[:2] != PYTHON:
        wanted, found = (".".join(map(str, v)) for v in (PYTHON, sys.version_info[:2]))
        raise RuntimeError(
            f"requirements.lock is for Python {wanted}, and this is Python {found}. "
            f"Run `make clean lock PYTHON=python{wanted}`."
        )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--report", "-", f"{ROOT}[ai-edge-quantizer,test]"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    installs = (item["metadata"] for item in report["install"])
    pins = {canonicalize_name(item["name"]): item["version"] for item in installs}
    return {name: pins[name] for name in sorted(pins) if name != DISTRIBUTION}


def main() -> None:
    """Prints the lock file, or writes it with `--write`."""
    parser = argparse.ArgumentParser(description="Resolve requirements.lock with pip.")
    parser.add_argument("--write", action="store_true", help="write requirements.lock")
    write = parser.parse_args().write
    text = HEADER + "".join(f"{name}=={version}\n" for name, version in resolve().items())
    if write:
        LOCK.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
