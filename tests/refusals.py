"""Bad calls of `merge`, and what their messages must say."""

from __future__ import annotations

import pytest

import tfmot_pam
from tests.small_nets import classes, dense_net, vectors

NAN = float("nan")


def models(**changes):
    found = {"a": dense_net(0), "b": dense_net(1, (8, 7), 2), **changes}
    return {task: model for task, model in found.items() if model is not None}


def labelled(count=48):
    x = vectors(count)
    return x, {"a": classes(x, 3), "b": classes(x, 2, seed=1)}


def explain(error, *parts, call=tfmot_pam.merge, **options):
    """Runs a bad call; its message holds all parts, in this order."""
    pattern = "(?s)" + ".*".join(parts)
    with pytest.raises(error, match=pattern):
        call(**options)


def refuse(error, *parts, by_task=None, data=None, **options):
    by_task = models() if by_task is None else by_task
    data = labelled() if data is None else data
    explain(error, *parts, models=by_task, data=data, verbose=0, **options)
