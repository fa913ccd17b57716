"""Whether merging pays, in words."""

from __future__ import annotations

from tfmot_pam.pipeline.price import Price
from tfmot_pam.pipeline.result import ArmResult, cheapest


def verdict(arms: tuple[ArmResult, ...], price: Price, obstacle: str | None = None) -> str:
    """What the arms of a compression say about merging.

    Args:
        arms: What each arm found, at least one of them accepted.
        price: What the costs are.
        obstacle: Why the networks cannot be merged, or None.
    """

    def told(arm: ArmResult) -> str:
        return price.told(arm.cost)

    best = cheapest(arms)
    separate = next((arm for arm in arms if arm.name == "separate"), None)
    if len(best.macs) == 1:
        return f"One task: {told(best)}, {100 * best.share:.1f} % of the original's."
    if separate is None:
        return (
            f"{_named(best)} is the best of {[arm.name for arm in arms]}: {told(best)} expected. "
            "Whether merging pays was not measured: add 'separate' to `arms`."
        )
    if len(arms) == 1 and obstacle is None:
        return (
            f"Separate pruning: {told(best)} expected, {100 * best.share:.1f} % of the originals'. "
            "Whether merging pays was not measured: add 'late' to `arms`."
        )
    if best is not separate:
        return (
            f"Merging pays: {_named(best)} costs {separate.cost / best.cost:.2f}x less than "
            f"separate pruning at equal effort, in expectation ({told(best)} against "
            f"{told(separate)})."
        )
    others = [arm for arm in arms if arm is not separate and arm.accepted]
    rival = min(others, key=lambda arm: arm.cost, default=None)
    what = (
        (obstacle or "no merged network was within the tolerances")
        if rival is None
        else f"the best merged network, {_named(rival)}, costs {told(rival)}"
    )
    return (
        f"Merging does not pay here: separate pruning costs {told(separate)} expected; "
        f"{what.rstrip('.')}. The result is the separate networks side by side."
    )


def _named(arm: ArmResult) -> str:
    """An arm's start, and which tasks have a network of their own beside a merged one."""
    alone = [tasks[0] for tasks in arm.rounds if len(tasks) == 1]
    merged = len(alone) < len(arm.rounds)
    return f"'{arm.start}'" + (f" with {alone} alone" if alone and merged else "")
