"""Merges of small networks, and which channels their plans put where."""

from __future__ import annotations

import keras
import numpy as np

import tfmot_pam
from tests.small_nets import classes, conv_net, dense_net, images

layers = keras.layers
# Not in alphabetical order, as a user's tasks may be.
TASKS = ("zebra", "ant")


def merge(models, data, **options):
    return tfmot_pam.merge(models, data, verbose=0, **options)


def groups(plan):
    """The number of channels of each task set, by space."""
    return {
        space.name: {tasks: sum(map(len, found.values())) for tasks, found in space.groups}
        for space in plan.spaces
    }


def members(plan):
    """Which channels each group holds, by space."""
    return {space.name: (dict(space.groups), space.dropped) for space in plan.spaces}


def perceptrons(count=2):
    widths, outputs = ((6, 5), (8, 7), (5, 6)), (3, 2, 4)
    names = (*TASKS, "bee")
    return {names[i]: dense_net(i, widths[i], outputs[i]) for i in range(count)}


def labelled_pair():
    """Two convolutional models of different widths and heads, and labelled images."""

    def sigmoids():
        return [layers.Flatten(), layers.Dense(2, activation="sigmoid", name="labels")]

    models = {"zebra": conv_net(0), "ant": conv_net(1, (6, 12), sigmoids)}
    x = images(96)
    attributes = np.stack([classes(x, 2, seed) for seed in (1, 2)], axis=1)
    return models, (x, {"zebra": classes(x, 3), "ant": attributes})
