"""Executes docs/tutorial.ipynb and writes its outputs into it, without what only one run tells.

Run as `python -m tools.tutorial` (`make bench` does), with the extra `notebook` installed.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

PATH = pathlib.Path(__file__).resolve().parent.parent / "docs" / "tutorial.ipynb"


def cleaned(notebook: dict[str, Any]) -> dict[str, Any]:
    """A notebook without times and versions, and without the error stream of its cells."""
    language = {"name": "python"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        cell = {**cell, "id": f"cell-{number:02}", "metadata": {}}
        if "outputs" in cell:
            cell["outputs"] = [out for out in cell["outputs"] if out.get("name") != "stderr"]
        cells.append(cell)
    metadata = {"kernelspec": kernel, "language_info": language}
    return {**notebook, "cells": cells, "metadata": metadata}


def main() -> None:
    """Executes the notebook in its folder; where a cell fails the file stays as it was."""
    # Native libraries greet on the error stream; warnings of ours stay visible in the shell.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", "--timeout=3600", PATH.name]
    subprocess.run(command, cwd=PATH.parent, env=environment, check=True)
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                sys.stderr.write("".join(output["text"]))
    text = json.dumps(cleaned(notebook), indent=1, ensure_ascii=False)
    PATH.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
