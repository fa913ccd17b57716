"""Colours and names of task sets, the same in every picture and on every page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfmot_pam.reporting.result import Report, TaskSet

# Okabe and Ito's colours, which colour-blind readers can tell apart; dark grey is for sharing.
TASK_COLOURS = "#E69F00 #56B4E9 #009E73 #CC79A7 #F0E442 #D55E00 #0072B2".split()
SHARED_COLOUR = "#404040"
BETWEEN_COLOUR = "#8C8C8C"
ORIGINAL_COLOUR = "#BDBDBD"
# For sets between one and all tasks: few enough to be told apart in a legend.
_BETWEEN_STYLES = (
    ("#8C8C8C", ""),
    ("#D9D9D9", "////"),
    ("#8C8C8C", "...."),
    ("#D9D9D9", "xxxx"),
    ("#8C8C8C", "\\\\\\\\"),
    ("#D9D9D9", "...."),
    ("#8C8C8C", "xxxx"),
    ("#D9D9D9", ""),
)


def group_styles(report: Report) -> dict[str, tuple[str, str]]:
    """Colour and hatch by legend label, for the labels that occur: shared first, tasks last."""
    present = {tasks for found in report.groups.values() for tasks in found}
    everyone = _all_tasks(report)
    places = {task: index for index, task in enumerate(everyone)}
    ordered = sorted(present, key=lambda s: (-len(s), [places[task] for task in s]))
    styles: dict[str, tuple[str, str]] = {}
    for label, tasks in ((group_label(report, tasks), tasks) for tasks in ordered):
        if len(tasks) in (1, len(everyone)):
            repeated = len(tasks) == 1 and places[tasks[0]] >= len(TASK_COLOURS)
            styles[label] = (set_colour(tasks, everyone), "////" if repeated else "")
        elif label not in styles:
            between = sum(style in _BETWEEN_STYLES for style in styles.values())
            styles[label] = _BETWEEN_STYLES[between % len(_BETWEEN_STYLES)]
    return styles


def _all_tasks(report: Report) -> tuple[str, ...]:
    """The model's tasks, and those that a selected sub-network's groups still name."""
    named = (task for found in report.groups.values() for tasks in found for task in tasks)
    return tuple(dict.fromkeys((*report.tasks, *named)))


def group_label(report: Report, tasks: TaskSet) -> str:
    """What a legend calls a task set."""
    everyone = _all_tasks(report)
    if len(tasks) == 1:
        return f"only {tasks[0]}" if len(everyone) > 1 else tasks[0]
    if len(tasks) == len(everyone):
        return "shared by all" if len(everyone) > 2 else f"shared by {' and '.join(tasks)}"
    present = {found for layer in report.groups.values() for found in layer}
    between = [found for found in present if 1 < len(found) < len(everyone)]
    if len(between) > len(_BETWEEN_STYLES):
        return f"shared by {len(tasks)} of {len(everyone)}"
    return " + ".join(tasks)


def set_colour(tasks: TaskSet, everyone: TaskSet) -> str:
    """The colour of a task set: of one task its own, of all dark, of others grey."""
    if len(tasks) == 1:
        return TASK_COLOURS[everyone.index(tasks[0]) % len(TASK_COLOURS)]
    return SHARED_COLOUR if len(tasks) == len(everyone) else BETWEEN_COLOUR


def text_colour(background: str) -> str:
    """White or black, whichever is easier to read on a colour."""
    red, green, blue = (int(background[place : place + 2], 16) for place in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "black"
