"""Own width: no task keeps more channels of a space than its own network has there.

A layer of a merged network then reads and writes, for one task, at most what the task's own layer
reads and writes, and every channel is computed for at least one task: no combination costs more
than the originals that it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from tfmot_pam.merging.grouping import identical_elsewhere
from tfmot_pam.merging.methods import Request


def own_width(
    request: Request,
    decided: Mapping[int, np.ndarray],
    classes: Mapping[int, np.ndarray] = MappingProxyType({}),
) -> dict[int, np.ndarray]:
    """Lets the most relevant channels in, each for those of its tasks that have room left.

    Channels enter by their mean place in the relevance paths of the tasks that need them, so that
    a channel that several tasks need stays shared as long as all of them have room. Those that are
    the same in several networks come first: what was shared before stays so.

    Args:
        request: Alignment and relevance.
        decided: The task sets of the channels of each free space, as masks.
        classes: Numbers of the channels of some spaces, the same for those that become one: they
            enter together, and take the room of one.

    Returns:
        Smaller task sets; 0 where no task is left.
    """
    spaces = request.alignment.spaces
    result = {}
    for index, masks in decided.items():
        widths = spaces[index].widths
        needs = masks[:, None] >> np.arange(len(widths)) & 1
        # A path ends with the channels that say most about its task.
        places = [np.argsort(request.paths[index, task].order) for task in range(len(widths))]
        value = (needs * np.stack(places, axis=1)).sum(axis=1) / np.maximum(needs.sum(axis=1), 1)
        value = value + len(value) * identical_elsewhere(request.alignment, index)
        room, found = np.array(widths), np.zeros_like(masks)
        numbers = classes.get(index, np.arange(len(masks)))
        known: dict[tuple[int, int], int] = {}
        for channel in np.argsort(-value, kind="stable").tolist():
            key = int(numbers[channel]), int(masks[channel])
            if key not in known:
                let_in = needs[channel] * (room > 0)
                room -= let_in
                known[key] = int(let_in @ (1 << np.arange(len(widths))))
            found[channel] = known[key]
        result[index] = found
    return result
