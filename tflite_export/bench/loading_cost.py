"""What an app loads when the set of running tasks changes."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from typing import Any


def bytes_to_load(
    manifest: Mapping[str, Any], alone: Mapping[str, int] | None = None
) -> dict[str, dict[str, float]]:
    """Counts the bytes of model files that an app reads at its start and at each change.

    Args:
        manifest: What `manifest.read` returned.
        alone: Bytes of the tasks' single networks, which stay loaded while they run.

    Returns:
        For each way of shipping the combinations (`"files"`, `"signatures"` and `"alone"`, where
        all of them are there that way): `first`, the mean over the combinations that the app may
        start with, and `mean` and `largest` over all changes from one combination to another.

    Example:
    >>> def file(name, size, *signatures):
    ...     found = [{"name": "+".join(tasks), "tasks": tasks} for tasks in signatures]
    ...     return {"file": name, "bytes": size, "signatures": found}
    >>> files = [file("a", 5, ["a"]), file("b", 7, ["b"]), file("all", 10, ["a"], ["b"])]
    >>> bytes_to_load({"files": files})["files"]
    {'first': 6, 'mean': 6, 'largest': 7}
    >>> bytes_to_load({"files": files})["signatures"]
    {'first': 10, 'mean': 0, 'largest': 0}
    """
    combinations = {
        signature["name"]: set(signature["tasks"])
        for entry in manifest["files"]
        for signature in entry["signatures"]
    }
    files: dict[str, dict[str, int]] = {}
    for entry in manifest["files"]:
        way = "signatures" if len(entry["signatures"]) > 1 else "files"
        for signature in entry["signatures"]:
            files.setdefault(way, {})[signature["name"]] = entry["bytes"]
    found = {}
    own = files.get("files", {})
    if own.keys() == combinations.keys():
        found["files"] = _summary(combinations, own, lambda old, new: own[new])
    together = files.get("signatures", {})
    if together.keys() == combinations.keys():
        found["signatures"] = _summary(combinations, together, lambda old, new: 0)
    if alone and set(alone) >= set().union(*combinations.values()):
        sizes = {name: sum(alone[t] for t in tasks) for name, tasks in combinations.items()}

        def missing(old: str, new: str) -> int:
            return sum(alone[task] for task in combinations[new] - combinations[old])

        found["alone"] = _summary(combinations, sizes, missing)
    return found


def _summary(combinations: Mapping[str, Any], first: Mapping[str, int], change: Any) -> Any:
    changes = [change(old, new) for old, new in itertools.permutations(combinations, 2)] or [0]
    return {
        "first": statistics.mean(first[name] for name in combinations),
        "mean": statistics.mean(changes),
        "largest": max(changes),
    }
