"""The merge plan: which channel of which network went into which group, as data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflite_export import json_files
from tfmot_pam.graph.likeness import freeze, structure
from tfmot_pam.graph.network import Network
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.plan_schema import HEADER, PLAN
from tfmot_pam.merging.relevance import RelevancePath

FORMAT = "tfmot_pam.MergePlan"
# Plans without fused channels are written as they were before there were any.
_PLAIN, _FUSED = 1, 2


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedSpace:
    """One channel space of the common trunk in a plan.

    Args:
        name: The first layer that writes it, in the first model.
        writers: All layers of the first model that write it.
        widths: Its number of channels in each model, in task order.
        frozen: Why its channels could not be regrouped, or None.
        groups: For each task set, in canonical order, the channels of each model, by task name.
        dropped: The channels that no task needs, by task name of their model.
        paths: Each task's greedy path, where relevance was measured. Its channels count through
            the models in task order.
        fused: The channels that became one, by task name of their model.
        factors: By task name of their model, for each of its channels what the one is multiplied
            by to stand for it; empty for 1.
    """

    name: str
    writers: tuple[str, ...]
    widths: tuple[int, ...]
    frozen: str | None
    groups: tuple[tuple[tuple[str, ...], Mapping[str, tuple[int, ...]]], ...]
    dropped: Mapping[str, tuple[int, ...]]
    paths: Mapping[str, RelevancePath]
    fused: tuple[Mapping[str, tuple[int, ...]], ...] = ()
    factors: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class MergePlan:
    """Everything that a merge decided: replay it with `merge(models, data, plan=plan)`.

    `merge` leaves the plan as the attribute `merge_plan` of the model it returns (in memory; a
    saved model does not hold it, so save the plan next to it).

    Args:
        tasks: Task names in model order.
        method: The merge method.
        options: The options that led to the decision.
        fingerprints: A digest of each model's structure and weights.
        spaces: The trunk's channel spaces.

    Example:
    >>> import tfmot_pam
    >>> plan = tfmot_pam.MergePlan(("a", "b"), "separate", {}, ("0", "1"), ())
    >>> tfmot_pam.MergePlan.from_json(plan.to_json()).method
    'separate'
    """

    tasks: tuple[str, ...]
    method: str
    options: Mapping[str, Any]
    fingerprints: tuple[str, ...]
    spaces: tuple[PlannedSpace, ...]

    @property
    def frozen(self) -> dict[str, str]:
        """The reason by space, for spaces whose channels could not be regrouped."""
        return {space.name: space.frozen for space in self.spaces if space.frozen}

    @property
    def shared(self) -> float:
        """The share of the trunk's regroupable channels that several tasks need."""
        counts = [
            (len(tasks) > 1, sum(len(found) for found in channels.values()))
            for space in self.spaces
            if space.frozen is None
            for tasks, channels in [*space.groups, ((), space.dropped)]
        ]
        total = sum(count for _, count in counts)
        return sum(count for several, count in counts if several) / total if total else 0.0

    def to_json(self) -> str:
        """The plan as JSON text, floats exact."""
        return json.dumps(
            {
                "format": FORMAT,
                "version": _FUSED if any(space.fused for space in self.spaces) else _PLAIN,
                "tasks": self.tasks,
                "method": self.method,
                "options": self.options,
                "fingerprints": self.fingerprints,
                "spaces": [_space_to_dict(space) for space in self.spaces],
            },
            indent=1,
            default=_plain,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> MergePlan:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: the text is no plan, is of another version, or is damaged.
        """
        try:
            data = json_files.parse(text)
            HEADER(data, "the text")
        except ValueError as error:
            raise ValueError(
                f"This is no merge plan: {error}. Expected the JSON text that "
                "MergePlan.to_json() returns. Merge again to make a new plan."
            ) from error
        kind, version = data["format"], data["version"]
        if kind != FORMAT or version not in (_PLAIN, _FUSED):
            raise ValueError(
                f"Received a file of format {kind!r}, version {version!r}. Expected {FORMAT!r}, "
                f"version {_PLAIN} or {_FUSED}. Merge again to make a new plan."
            )
        try:
            PLAN(data, "the plan")
            plan = cls(
                tasks=tuple(data["tasks"]),
                method=data["method"],
                options=data["options"],
                fingerprints=tuple(data["fingerprints"]),
                spaces=tuple(_space_from_dict(space) for space in data["spaces"]),
            )
            check_consistent(plan)
        except ValueError as error:
            raise ValueError(
                f"The merge plan is damaged: {error}. Expected the JSON text that "
                "MergePlan.to_json() returns, unchanged. Merge again to make a new plan."
            ) from error
        return plan

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Writes the plan to a file; an existing file is refused without `overwrite`."""
        if os.path.exists(path) and not overwrite:
            raise ValueError(
                f"The file '{path}' exists. Expected a new path. Pass overwrite=True to replace it."
            )
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike) -> MergePlan:
        """Reads a plan that `save` wrote."""
        return cls.from_json(pathlib.Path(path).read_bytes())


def _plain(value: Any) -> Any:
    """An option that the user gave as a NumPy number or another mapping, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"An option of type {type(value).__name__} cannot be written as JSON.")


def _space_to_dict(space: PlannedSpace) -> dict[str, Any]:
    return {
        **{key: getattr(space, key) for key in ("name", "writers", "widths", "frozen")},
        "groups": [{"tasks": tasks, "channels": channels} for tasks, channels in space.groups],
        "dropped": space.dropped,
        "paths": {task: path.to_dict() for task, path in space.paths.items()},
        **({"fused": space.fused, "factors": space.factors} if space.fused else {}),
    }


def _space_from_dict(data: Mapping[str, Any]) -> PlannedSpace:
    return PlannedSpace(
        name=data["name"],
        writers=tuple(data["writers"]),
        widths=tuple(data["widths"]),
        frozen=data["frozen"],
        groups=tuple(
            (tuple(group["tasks"]), _indices(group["channels"])) for group in data["groups"]
        ),
        dropped=_indices(data["dropped"]),
        paths={task: RelevancePath.from_dict(path) for task, path in data["paths"].items()},
        fused=tuple(_indices(found) for found in data.get("fused", ())),
        factors={
            task: tuple(float(value) for value in found)
            for task, found in data.get("factors", {}).items()
        },
    )


def _indices(channels: Mapping[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {task: tuple(int(index) for index in found) for task, found in channels.items()}


def check_consistent(plan: MergePlan) -> None:
    """Raises ValueError unless every channel of every space has exactly one place."""
    for name in ("tasks", "fingerprints", "spaces"):
        if not isinstance(getattr(plan, name), (tuple, list)):
            raise ValueError(f"its {name} are {getattr(plan, name)!r}, not a tuple")
    if not isinstance(plan.options, Mapping):
        raise ValueError(f"its options are {plan.options!r}, not a dict")
    if other := [space for space in plan.spaces if not isinstance(space, PlannedSpace)]:
        raise ValueError(f"its spaces hold {other[0]!r}, which is no PlannedSpace")
    if len(plan.fingerprints) != len(plan.tasks) or len(set(plan.tasks)) != len(plan.tasks):
        raise ValueError(
            f"{len(plan.tasks)} tasks and {len(plan.fingerprints)} fingerprints do not fit"
        )
    for space in plan.spaces:
        if not all(tasks for tasks, _ in space.groups):
            raise ValueError(f"space '{space.name}' has a group without tasks")
        named = {task for tasks, channels in space.groups for task in (*tasks, *channels)}
        unknown = (named | set(space.dropped) | set(space.paths)) - set(plan.tasks)
        if unknown:
            raise ValueError(f"space '{space.name}' names the unknown tasks {sorted(unknown)}")
        if len(space.widths) != len(plan.tasks):
            raise ValueError(
                f"space '{space.name}' has {len(space.widths)} widths for {len(plan.tasks)} tasks"
            )
        parts = [*(channels for _, channels in space.groups), space.dropped]
        for task, width in zip(plan.tasks, space.widths, strict=True):
            found = sorted(index for part in parts for index in part.get(task, ()))
            # Counted first: a width can be any number.
            if len(found) != width or found != list(range(width)):
                raise ValueError(
                    f"space '{space.name}' does not place each of the {width} channels of "
                    f"{task!r} exactly once"
                )
        _check_fused(plan, space)
        total = sum(space.widths)
        wrong = sorted(task for task, path in space.paths.items() if len(path.order) != total)
        if wrong:
            raise ValueError(
                f"space '{space.name}' has {total} channels, its paths of {wrong} others"
            )


def _check_fused(plan: MergePlan, space: PlannedSpace) -> None:
    """Raises ValueError unless channels that become one are there, once, in one group."""
    widths = dict(zip(plan.tasks, space.widths, strict=True))
    members = [
        (task, channel)
        for found in space.fused
        for task, channels in found.items()
        for channel in channels
    ]
    unknown = sorted({*(task for task, _ in members), *space.factors} - set(plan.tasks))
    if unknown:
        raise ValueError(f"space '{space.name}' fuses channels of the unknown tasks {unknown}")
    if any(not 0 <= channel < widths[task] for task, channel in members):
        raise ValueError(f"space '{space.name}' fuses channels that it does not have")
    if len(set(members)) != len(members):
        raise ValueError(f"space '{space.name}' fuses a channel twice")
    for found in space.fused:
        parts = [*(channels for _, channels in space.groups), space.dropped]
        if not any(
            all(set(own) <= set(part.get(task, ())) for task, own in found.items())
            for part in parts
        ):
            raise ValueError(f"space '{space.name}' fuses channels of several groups")
    for task, values in space.factors.items():
        if len(values) != widths[task] or not np.isfinite(values).all():
            raise ValueError(
                f"space '{space.name}' has the factors {list(values)} for the {widths[task]} "
                f"channels of {task!r}"
            )


def fingerprint(network: Network) -> str:
    """A digest of a network's layers, connections and weights."""
    digest = hashlib.sha256()
    # Positions, not names: Keras numbers unnamed layers anew whenever a model is built again.
    position = {node.name: index for index, node in enumerate(network.nodes)}
    for node in network.nodes:
        layer = network.layer_of(node)
        inputs = [(position[tensor.node], tensor.index) for tensor in node.inputs]
        config = structure(layer.config)
        digest.update(freeze([layer.kind, config, inputs, node.shapes]).encode())
        for name, weight in layer.weights.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def check_plan_belongs(
    plan: MergePlan, alignment: Alignment, fingerprints: tuple[str, ...]
) -> None:
    """Raises unless `plan` is a plan that was made for exactly these models."""
    if not isinstance(plan, MergePlan):
        raise TypeError(
            f"`plan` must be a tfmot_pam.MergePlan. Received: {plan!r} of type "
            f"{type(plan).__name__}. Read a saved one with MergePlan.load(path)."
        )
    try:
        check_consistent(plan)
    except ValueError as error:
        raise ValueError(
            f"The merge plan contradicts itself: {error}. Expected one that merge() made, or one "
            "in which every channel has its place. Merge without `plan` to make a new one."
        ) from error
    if tuple(plan.tasks) != alignment.tasks:
        raise ValueError(
            f"The plan belongs to other models: it is for the tasks {list(plan.tasks)}, the models "
            f"are for {list(alignment.tasks)}. Pass the models of the plan, in its order."
        )
    others = [
        task
        for task, old, new in zip(plan.tasks, plan.fingerprints, fingerprints, strict=True)
        if old != new
    ]
    planned = [space.widths for space in plan.spaces]
    present = [space.widths for space in alignment.spaces if not space.given]
    if others or planned != present:
        difference = (
            f"the structure or the weights of {others} are not those it was made from"
            if others
            else f"it is for a trunk of the widths {planned}, that of the models has {present}"
        )
        raise ValueError(
            f"The plan belongs to other models: {difference}. Pass the original models, or merge "
            "without `plan`."
        )
