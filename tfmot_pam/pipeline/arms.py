"""Arms: the families of networks that `compress` searches, each by where it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from tfmot_pam.merging.donor import donor_method
from tfmot_pam.merging.method_table import METHODS
from tfmot_pam.merging.methods import MergeMethod

Starts = Callable[[Sequence[str]], Sequence["ArmStart"]]

_MIXED_SHARE = 0.5
_LATE_SHARE = 0.75  # of pruned networks' channels, which are few


@dataclasses.dataclass(frozen=True)
class ArmPart:
    """Tasks that one network serves: a single one as it is, or several merged by a method.

    Args:
        tasks: The tasks.
        method: How their networks are merged; None for a single task.
        pruned: Whether not the originals are merged but networks that the arm `separate` has
            pruned, to at most three times the cost at which it ends. A single task is then
            served by the network that this arm ends with.
    """

    tasks: tuple[str, ...]
    method: MergeMethod | None = None
    pruned: bool = False

    @property
    def found(self) -> bool:
        """Whether the network is one that the arm `separate` ends with."""
        return self.pruned and self.method is None


@dataclasses.dataclass(frozen=True)
class ArmStart:
    """One way to start: every task is in one of the parts.

    Args:
        name: For messages and checkpoints.
        parts: What is searched, each on its own.
    """

    name: str
    parts: tuple[ArmPart, ...]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A family of networks to search; `compress(arms=)` takes one, and knows some by name.

    Args:
        name: What it is called in results.
        starts: `starts(tasks) -> [ArmStart, ...]`: where a search may start. Of several, short
            trials choose one.
        apart: Whether tasks that need far less than the others stay out of its networks and are
            served by those that the arm `separate` ends with.

    Raises:
        TypeError: `name` is no text or `starts` no function.

    Example:
    >>> import tfmot_pam
    >>> def starts(tasks):
    ...     return [tfmot_pam.ArmStart("apart", tuple(tfmot_pam.ArmPart((t,)) for t in tasks))]
    >>> arm = tfmot_pam.Arm("apart", starts)
    >>> [part.tasks for part in arm.starts(("a", "b"))[0].parts]
    [('a',), ('b',)]
    """

    name: str
    starts: Starts
    apart: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not callable(self.starts):
            raise TypeError(
                f"Received name={self.name!r} and starts={self.starts!r}. Expected a name and a "
                "function starts(tasks) -> [ArmStart, ...]. Pass the function itself."
            )

    def starts_of(self, tasks: Sequence[str]) -> list[ArmStart]:
        """The starts, after they were found to be such.

        Raises:
            TypeError: `starts` returned something else, or none.
        """
        found = self.starts(tasks)
        listed = list(found) if isinstance(found, Iterable) else []
        if not listed or not all(isinstance(start, ArmStart) for start in listed):
            raise TypeError(
                f"The arm {self.name!r} returned {found!r} for the tasks {list(tasks)}. Expected a "
                "list of one tfmot_pam.ArmStart or more. Return such from `starts`."
            )
        return listed


def _separate(tasks: Sequence[str]) -> list[ArmStart]:
    """Nothing shared: every network is compressed alone."""
    return [ArmStart("separate", tuple(ArmPart((task,)) for task in tasks))]


def _donors(name: str, share: Callable[[int, int], float], pruned: bool = False) -> Starts:
    def starts(tasks: Sequence[str]) -> list[ArmStart]:
        methods = {task: donor_method(task, share, name) for task in tasks}
        return [
            ArmStart(f"{name}-{task}", (ArmPart(tuple(tasks), method, pruned),))
            for task, method in methods.items()
        ]

    return starts


def _trunk(tasks: Sequence[str]) -> list[ArmStart]:
    """Everything shared: the most relevant channels of all networks, or those of one of them."""
    relevant = ArmStart("trunk-relevant", (ArmPart(tuple(tasks), METHODS["shared"]),))
    return [relevant, *_donors("trunk", lambda position, count: 1.0)(tasks)]


def _late(tasks: Sequence[str]) -> list[ArmStart]:
    """Trunks and mixed networks of networks that were pruned separately before.

    Their layers have the widths that each task needs, and all training goes to small networks.
    """
    trunks = _donors("late-trunk", lambda position, count: 1.0, pruned=True)
    mixed = _donors("late-mixed", lambda position, count: _LATE_SHARE, pruned=True)
    return [*trunks(tasks), *mixed(tasks)]


def _stem(tasks: Sequence[str]) -> list[ArmStart]:
    """Shared up to a layer, exclusive above it: a half, or three quarters of the layers."""
    starts = []
    for quarters in (2, 3):

        def share(position: int, count: int, quarters: int = quarters) -> float:
            return float(4 * position < quarters * count)

        for task in tasks:
            part = ArmPart(tuple(tasks), donor_method(task, share, "stem"))
            starts.append(ArmStart(f"stem-{quarters}-{task}", (part,)))
    return starts


def _merged(method: MergeMethod) -> Starts:
    return lambda tasks: [ArmStart(method.name, (ArmPart(tuple(tasks), method),))]


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        arm.name: arm
        for arm in (
            Arm("separate", _separate),
            Arm("trunk", _trunk),
            # A half of every layer shared, the rest exclusive.
            Arm("mixed", _donors("mixed", lambda position, count: _MIXED_SHARE)),
            Arm("late", _late, apart=True),
            Arm("stem", _stem),
            *(Arm(n, _merged(m)) for n, m in METHODS.items() if n != "separate"),
        )
    }
)
# What "auto" looks at besides "separate".
AUTO = ("late",)


def find_arms(arms: str | Sequence[str | Arm]) -> tuple[Arm, ...]:
    """The arms that are named.

    Raises:
        TypeError: something is neither a name nor an arm.
        ValueError: a name is unknown or given twice, or there is none.
    """
    if not isinstance(arms, (str, Arm, Iterable)):
        raise TypeError(
            f"`arms` must be 'auto', or a list of names or tfmot_pam.Arm objects. Received: "
            f"{arms!r} of type {type(arms).__name__}. Choose some of {sorted(ARMS)}."
        )
    named = [arms] if isinstance(arms, (str, Arm)) else list(arms)
    found = []
    for arm in named:
        if isinstance(arm, str):
            if arm not in ARMS:
                raise ValueError(
                    f"Unknown arm: {arm!r}. Expected 'auto', or some of {sorted(ARMS)}. Choose "
                    "among these."
                )
            arm = ARMS[arm]
        elif not isinstance(arm, Arm):
            raise TypeError(
                f"`arms` must hold names or tfmot_pam.Arm objects. Received: {arm!r} of type "
                f"{type(arm).__name__}. Choose some of {sorted(ARMS)}."
            )
        found.append(arm)
    names = [arm.name for arm in found]
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"`arms` must name at least one arm, each once. Received: {names}. Leave out the "
            "repeated ones."
        )
    return tuple(found)
