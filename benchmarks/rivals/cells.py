"""Cells: one rival at one level of cost, on one seed of a suite."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras

import tfmot_pam
from benchmarks import results_io, suites
from benchmarks.rivals import RIVALS
from benchmarks.rivals.attempt import Attempt, combination_macs, originals_macs
from benchmarks.rivals.pages import searched, share_of
from tfmot_pam.pruning.at_once import UnreachableFraction


def find_levels(wanted: Sequence[str] | None, suite: str, seed: int) -> dict[str, float]:
    """The levels by name, as shares of the originals' expected cost, dear ones first.

    Args:
        wanted: Shares as they are given; None takes those of the suite's separate and best arm, and
            half of the former.
        suite: The suite.
        seed: The seed.

    Raises:
        ValueError: a share is none, or there are no figures of the suite's arms.
    """
    if wanted is None:
        arms = searched(suite, seed, suites.SUITES[suite].effort)
        if "separate" not in arms:
            raise ValueError(
                f"There are no figures of compress() for seed {seed} of the suite {suite!r}. "
                "Expected some in benchmarks/results/suites.csv. Run benchmarks.suite before, or "
                "pass such as --levels=0.1,0.05,0.03."
            )
        separate, best = share_of(arms["separate"]), min(map(share_of, arms.values()))
        found = {"separate": separate, "best": best, "half of separate": separate / 2}
        return {name: share for name, share in found.items() if name != "best" or best < separate}
    try:
        shares = {name: float(name) for name in wanted}
    except ValueError:
        shares = {}
    if not shares or not all(0.0 < share < 1.0 for share in shares.values()):
        raise ValueError(
            f"Received the levels {list(wanted)}. Expected shares of the originals' expected cost, "
            "above 0 and below 1. Pass such as --levels=0.1,0.05,0.03."
        )
    return shares


def run_cell(settings: Mapping[str, Any]) -> None:
    """Runs one rival at one level on one seed, and writes its rows, if it gets there."""
    name, seed, effort = settings["suite"], settings["seed"], settings["effort"]
    suite, work = suites.SUITES[name], pathlib.Path(settings["work_dir"])
    data = pathlib.Path(settings["data_dir"])
    keras.backend.clear_session()
    splits = suite.load(data, seed)
    models = suites.networks(name, seed, splits, work, data)
    attempt = Attempt(
        suite,
        models,
        splits,
        macs=settings["share"] * originals_macs(models),
        effort=effort,
        seed=seed,
        # Where benchmarks.suite leaves its own.
        rounds=work / "rounds" / f"{name}-reconstruction-macs-{effort}-{seed}",
    )
    try:
        rows = rows_of(settings["rival"], attempt)
    except UnreachableFraction as error:
        print(f"{settings['rival']} does not get to the level {settings['level']}: {error}")
        return
    for row in rows:
        row.update({key: settings[key] for key in ("suite", "effort", "level", "seed")})
    results_io.write_raw(pathlib.Path(settings["path"]), rows)


def rows_of(rival: str, attempt: Attempt) -> list[dict[str, Any]]:
    """What an attempt of a rival comes to on the test split: a row a combination."""
    keras.utils.set_random_seed(attempt.seed)
    began = time.perf_counter()
    model = RIVALS[rival](attempt)
    seconds = round(time.perf_counter() - began)
    lost = suites.losses(attempt.suite, attempt.models, model, attempt.splits["test"])
    costs = combination_macs(model)
    original = {task: tfmot_pam.cost(network).macs for task, network in attempt.models.items()}

    def worst(tasks: Sequence[str], name: str) -> dict[str, float]:
        points, error = max(lost[task] for task in tasks)
        return {name: round(points, 3), f"{name}_error": round(error, 3)}

    return [
        {
            "rival": rival,
            "choice": attempt.choice,
            "combination": "+".join(chosen),
            "macs": macs,
            "original_macs": sum(original[task] for task in chosen),
            "expected_macs": round(sum(costs.values()) / len(costs)),
            **worst(chosen, "lost"),
            **worst(list(lost), "worst_loss"),
            "epochs": attempt.epochs,
            "training_macs": f"{attempt.training_macs:.3e}",
            "seconds": seconds,
        }
        for chosen, macs in costs.items()
    ]
