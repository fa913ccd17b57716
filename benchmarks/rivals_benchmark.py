"""Simple rivals of the search: what one would try instead, at the same effort and cost.

One command, from the repository's root; called again, it goes on where it stopped:

    python -m benchmarks.rivals_benchmark --suite=products --seeds=1 --data_dir=DIR

A cell is one rival (`benchmarks/rivals`) at one level of expected cost, on one seed of a suite. All
have the same trained networks and splits as `benchmarks.suite`, and train as many sample passes
times networks as an arm of `compress`. Choices are made on the validation split; the test split,
which nothing before has seen, is measured in the end.
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import app, flags

from benchmarks import results_io, suites
from benchmarks.rivals import RIVALS, find_rivals
from benchmarks.rivals.cells import find_levels, run_cell
from benchmarks.rivals.pages import write_pages

_SUITE = flags.DEFINE_enum("suite", "composites", sorted(suites.SUITES), "Which suite.")
_DATA = flags.DEFINE_string("data_dir", "data", "Folder that holds the data sets.")
_SEEDS = flags.DEFINE_integer("seeds", None, "Number of seeds; None takes the suite's.")
_FIRST = flags.DEFINE_integer("first_seed", 0, "The first seed.")
_RIVALS = flags.DEFINE_list("rivals", list(RIVALS), "Which rivals.")
_LEVELS = flags.DEFINE_list(
    "levels",
    None,
    "Expected costs as shares of the originals'; None takes those at which compress() ended.",
)
_EFFORT = flags.DEFINE_integer("effort", None, "Epochs per network; None takes the suite's.")
_WORK = flags.DEFINE_string("work_dir", "build/suites", "Networks, rounds and cells.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Where the pages go.")
_QUICK = flags.DEFINE_bool("quick", False, "One seed at a third of the effort.")


def _cells() -> list[dict[str, Any]]:
    """What is to be run: one level after the other, all rivals at each."""
    name, work = _SUITE.value, pathlib.Path(_WORK.value)
    suite = suites.SUITES[name]
    effort = _EFFORT.value or suite.effort
    effort = max(3, effort // 3) if _QUICK.value else effort
    rivals = find_rivals(_RIVALS.value)
    cells = []
    for seed in range(
        _FIRST.value, _FIRST.value + (1 if _QUICK.value else _SEEDS.value or suite.seeds)
    ):
        for level, share in find_levels(_LEVELS.value, name, seed).items():
            for rival in rivals:
                label = f"{name}-{effort}-{level}-{rival}-{seed}.json".replace(" ", "-")
                cells.append(
                    {
                        "suite": name,
                        "effort": effort,
                        "level": level,
                        "share": share,
                        "rival": rival,
                        "seed": seed,
                        "data_dir": _DATA.value,
                        "work_dir": _WORK.value,
                        "path": str(work / "rivals" / label),
                    }
                )
    return cells


def main(argv):
    del argv
    work, output = pathlib.Path(_WORK.value), pathlib.Path(_OUTPUT.value)
    left = [cell for cell in _cells() if not pathlib.Path(cell["path"]).exists()]
    for _ in results_io.in_processes(run_cell, left, 1):
        write_pages(work, output)
    write_pages(work, output)
    print(pathlib.Path(output, "rivals.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    app.run(main)
