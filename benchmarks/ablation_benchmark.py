"""What the parts of a merge are worth: one factor at a time, points lost at two fixed costs.

One command, from the repository's root; called again, it goes on where it stopped:

    python -m benchmarks.ablation_benchmark --suite=products --seeds=2 --data_dir=DIR

A suite's networks are pruned alone to a fixed share of their cost, merged, trained, and cut to a
first and then to a second fixed share of the originals' expected cost, with as many epochs for
every variant. Losses are those of validation data, the mean over the tasks and the worst task. The
shares are those of products; composites take `--alone=0.4 --costs=0.2,0.14`.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from absl import app, flags

from benchmarks import results_io, suites
from tfmot_pam.display import Lines
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.donor import donor_method
from tfmot_pam.merging.merge import merge
from tfmot_pam.pipeline.arguments import check_goal
from tfmot_pam.pipeline.checkpoints import Checkpoints
from tfmot_pam.pipeline.inputs import originals_by_task, split
from tfmot_pam.pipeline.problem import Problem, make_problem
from tfmot_pam.pipeline.result import Round
from tfmot_pam.pipeline.room import with_room
from tfmot_pam.pipeline.search import Search
from tfmot_pam.pipeline.strategy import Action, Allotment
from tfmot_pam.pruning.settings import PruningSettings

_SUITE = flags.DEFINE_enum("suite", "products", sorted(suites.SUITES), "Which suite.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Number of seeds.")
_FIRST = flags.DEFINE_integer("first_seed", 0, "The first seed.")
_VARIANTS = flags.DEFINE_list("variants", [], "Which variants; none stands for all.")
_ALONE = flags.DEFINE_float("alone", 0.12, "Share to which networks are pruned alone.")
_COSTS = flags.DEFINE_list("costs", ["0.045", "0.025"], "Shares that the losses are told at.")
_EPOCHS = flags.DEFINE_integer("epochs", 24, "Epochs of the merged network.")
_DATA = flags.DEFINE_string("data_dir", "data", "Folder that holds the data sets.")
_WORK = flags.DEFINE_string("work_dir", "build/ablation", "Networks and rounds.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Page's folder.")

_ALONE_CUTS, _ALONE_TAIL = 5, 4  # cuts of an epoch each, and epochs at the end


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to merge and to search.

    Args:
        donor: The place of the task whose network gives the shared channels; None for `method`.
        share: The share of its channels that all tasks use.
        method: A method of `merge` in the place of a donor's.
        originals: Whether the originals are merged, and not the networks that were pruned alone.
        random: Whether the merged network's weights are drawn anew.
        room: Whether cheap layers get wider.
        widths: Whether widths count when channels are removed.
        steered: Whether the losses' factors follow what tasks have left.
        importance: What channels are rated by; `taylor` fades them out while training.
        temperature: That at which teachers are imitated.
        effort: The epochs, in units of those of the others.
    """

    donor: int | None = 0
    share: float = 1.0
    method: str | None = None
    originals: bool = False
    random: bool = False
    room: bool = True
    widths: bool = True
    steered: bool = True
    importance: str = "reconstruction"
    temperature: float = 3.0
    effort: float = 1.0


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "as it is": Variant(),
        "the other donor": Variant(donor=1),
        "centroids": Variant(donor=None, method="shared"),
        "the most relevant channels": Variant(donor=None, method="pam"),
        "random weights": Variant(random=True),
        "three quarters shared": Variant(share=0.75),
        "a half shared": Variant(share=0.5),
        "a third shared": Variant(share=0.3),
        "from the originals": Variant(originals=True),
        "no room": Variant(room=False, widths=False),
        "room but no count of widths": Variant(widths=False),
        "no steering": Variant(steered=False),
        "faded out while training": Variant(importance="taylor"),
        "teachers at temperature 1": Variant(temperature=1.0),
        "half the effort": Variant(effort=0.5),
        "twice the effort": Variant(effort=2.0),
        "four times the effort": Variant(effort=4.0),
    }
)


def problem_of(suite: suites.Suite, models, splits, variant: Variant, seed: int) -> Problem:
    """The joint problem of a suite's networks."""
    originals = originals_by_task(models)
    training, validation = split(originals, splits["train"], splits["validation"])
    return make_problem(
        originals,
        training,
        validation,
        check_goal(tuple(originals), 0.01, None, suite.effort),
        PruningSettings(importance=variant.importance, measure="macs", seed=seed),
        augment=suite.augment,
        temperature=variant.temperature,
        dropout=0.0,
    )


class Steps:
    """A search whose actions are fixed beforehand; those that are kept are not taken again.

    Args:
        search: The search.
    """

    def __init__(self, search: Search):
        self._search, self._taken = search, 0

    def take(self, stage: str, epochs: int, share: float | None = None) -> Round:
        """Goes on from the last network, cut to a share of the originals' cost if one is given."""
        self._taken += 1
        rounds = self._search.rounds
        if len(rounds) < self._taken:
            parent = rounds[-1] if rounds else None
            fraction = 0.0 if share is None else max(0.0, 1.0 - share / parent.share)
            number = None if parent is None else parent.number
            self._search.take(Action(stage, number, epochs, fraction))
        if len(rounds) < self._taken:
            raise app.UsageError(
                f"A {stage} to {share} of the originals' cost is more than can go. Expected larger "
                "shares: raise --alone or --costs."
            )
        return self._search.rounds[self._taken - 1]

    def cut(self, cuts: int, epochs: int, share: float) -> None:
        """Cuts in equal factors to a share."""
        for left in range(cuts, 0, -1):
            last = self._search.rounds[self._taken - 1].share
            self.take("cut", epochs, last * (share / last) ** (1.0 / left))

    @property
    def model(self) -> keras.Model:
        """The last network."""
        return self._search.model(self._search.rounds[-1].number)


def _steps(
    problem: Problem, build: Callable[[], keras.Model], path: int, folder, **options: Any
) -> Steps:
    allotment = Allotment(warm=0, path=path, level=1, tail=1, total=path)
    known = {"shares": repr([_ALONE.value, *_COSTS.value, _EPOCHS.value])}
    show = functools.partial(Lines("ablation").show, folder.name)
    return Steps(Search(problem, build, allotment, Checkpoints(folder, known), show, **options))


def pruned_alone(problem: Problem, folder: pathlib.Path) -> dict[str, keras.Model]:
    """Every network, pruned to the fixed share of its cost."""
    found = {}
    for task in problem.tasks:
        (original,) = problem.only([task]).originals.values()
        steps = _steps(problem.only([task]), lambda own=original: own, _ALONE_CUTS, folder / task)
        steps.take("start", 0)
        steps.cut(_ALONE_CUTS, 1, _ALONE.value)
        steps.take("tail", _ALONE_TAIL)
        found[task] = steps.model
    return found


def merged(problem: Problem, networks, variant: Variant) -> keras.Model:
    """The network that a variant starts from."""
    method = variant.method
    if variant.donor is not None:
        method = donor_method(
            problem.tasks[variant.donor], lambda position, count: variant.share, "donor"
        )
    seed = problem.settings.seed
    model = merge(networks, problem.data, method=method, seed=seed, verbose=0)
    if variant.room:
        model = emit(with_room(read(model), "macs", None, seed))
    if variant.random:
        keras.utils.set_random_seed(seed)
        model = keras.models.clone_model(model)
    return model


def rows_of(problem: Problem, networks, variant: Variant, folder: pathlib.Path) -> Iterator[dict]:
    """The losses of a variant at the fixed costs."""
    first, second = map(float, _COSTS.value)
    epochs = round(variant.effort * _EPOCHS.value)
    level, tail = max(1, epochs // 12), max(1, epochs // 4)
    chosen = problem.originals if variant.originals else networks
    options = {} if variant.widths else {"room": 0.0}
    if not variant.steered:
        options["weigh"] = _evenly
    steps = _steps(problem, lambda: merged(problem, chosen, variant), 3 * level, folder, **options)
    steps.take("start", 0)
    steps.take("warm", tail)
    steps.cut(3, level, first)
    yield _row(first, steps.take("tail", tail))
    steps.take("trim", tail, second)
    yield _row(second, steps.take("tail", tail))


def _evenly(rounds, tolerances: Mapping[str, float]) -> dict[str, float]:
    """Losses that count the same, whatever tasks have left."""
    del rounds
    return dict.fromkeys(tolerances, 1.0)


def _row(share: float, found: Round) -> dict[str, Any]:
    lost = {task: round(100 * loss, 3) for task, loss in found.lost.items()}
    return {"share": share, "reached": round(found.share, 4), "lost": lost}


def write_page(rows: list[dict], output: str) -> None:
    """A line a variant: losses at both costs, a number a seed."""
    table = []
    for suite, variant in dict.fromkeys((row["suite"], row["variant"]) for row in rows):
        own = [row for row in rows if (row["suite"], row["variant"]) == (suite, variant)]
        line = {"suite": suite, "variant": variant}
        for share in dict.fromkeys(row["share"] for row in own):
            at = [row for row in own if row["share"] == share]
            means = [float(np.mean(list(row["lost"].values()))) for row in at]
            line[f"{'second' if len(line) > 2 else 'first'} cost"] = ", ".join(
                f"{mean:.2f} ({max(row['lost'].values()):.2f})"
                for mean, row in zip(means, at, strict=True)
            )
        table.append(line)
    text = "\n\n".join(
        [
            "# What the parts of a merge are worth",
            "Points lost on validation data at two fixed costs: the mean over the tasks (the "
            "worst), a number a seed. Made by `python -m benchmarks.ablation_benchmark`.",
            results_io.markdown_table(table),
        ]
    )
    results_io.write(output, "ablation", text, rows)


def main(argv):
    del argv
    results_io.one_thread()
    suite, work, data = suites.SUITES[_SUITE.value], pathlib.Path(_WORK.value), _DATA.value
    unknown = sorted({*_VARIANTS.value} - {*VARIANTS})
    if unknown:
        raise app.UsageError(f"Unknown variants: {unknown}. Expected some of {list(VARIANTS)}.")
    chosen = _VARIANTS.value or list(VARIANTS)
    for seed in range(_FIRST.value, _FIRST.value + _SEEDS.value):
        splits = suite.load(pathlib.Path(data), seed)
        models = suites.networks(_SUITE.value, seed, splits, work, pathlib.Path(data))
        folder = work / "rounds" / f"{_SUITE.value}-{seed}"
        usual = problem_of(suite, models, splits, Variant(), seed)
        networks = pruned_alone(usual, folder / "alone")
        for name in chosen:
            variant = VARIANTS[name]
            problem = usual
            if (variant.importance, variant.temperature) != (
                Variant.importance,
                Variant.temperature,
            ):
                problem = problem_of(suite, models, splits, variant, seed)
            for row in rows_of(problem, networks, variant, folder / name.replace(" ", "-")):
                _keep(work, {"suite": _SUITE.value, "seed": seed, "variant": name, **row})
            write_page(_kept(work), _OUTPUT.value)


def _keep(work: pathlib.Path, row: dict) -> None:
    same = ("suite", "seed", "variant", "share")
    rows = [old for old in _kept(work) if any(old[key] != row[key] for key in same)]
    results_io.write_raw(work / "rows.json", [*rows, row])


def _kept(work: pathlib.Path) -> list[dict]:
    return results_io.read_raw(work / "rows.json", [])


if __name__ == "__main__":
    app.run(main)
