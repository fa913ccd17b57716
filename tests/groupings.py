"""Alignments, relevance paths made by hand, and the masks that come of them."""

from __future__ import annotations

import numpy as np

from tests.small_nets import dense_net
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.alignment import align
from tfmot_pam.merging.grouping import free_spaces
from tfmot_pam.merging.methods import Request, Threshold
from tfmot_pam.merging.relevance import RelevancePath

A, B, AB = 1, 2, 3
C, AC, BC, ABC = 4, 5, 6, 7


def aligned(*models):
    return align("abcde"[: len(models)], [read(model) for model in models])


def perceptrons(*widths):
    """An alignment of networks; `widths` are one tuple a network."""
    return aligned(*(dense_net(k, found) for k, found in enumerate(widths)))


def path(irrelevant, channels):
    """A path that at rho = 1/2 finds exactly these channels irrelevant, the first ones first."""
    order = [*irrelevant, *(j for j in range(channels) if j not in irrelevant)]
    values = np.where(np.arange(channels) < len(irrelevant), 0.25, 1.0)
    return RelevancePath(np.array(order), values, full=1.0, null=0.0)


def paths_for(*spaces, tasks=2):
    """Paths by space and task, from the masks that every channel shall get."""
    found = {}
    for space, masks in spaces:
        for task in range(tasks):
            irrelevant = [j for j, mask in enumerate(masks) if not mask >> task & 1]
            found[space, task] = path(irrelevant, len(masks))
    return found


def request(alignment, paths, threshold=None, seed=0):
    return Request(alignment, paths, threshold or Threshold(rho=0.5), seed)


def masks_in(alignment, grouping, space):
    """The masks of one space, the first network's channels first."""
    return [
        int(mask)
        for k, channels in enumerate(alignment.spaces[space].channels)
        for mask in grouping.masks[k][channels]
    ]


def only(alignment):
    (space,) = free_spaces(alignment)
    return space
