"""Simple rivals: what one would try instead of a search, at the same effort.

Each is a function from an `Attempt`, with the trained originals, the splits and a level of cost, to
a model of all tasks. A new one is such a function and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import keras

from benchmarks.rivals.apart import small_scratch, uniform_width
from benchmarks.rivals.attempt import Attempt
from benchmarks.rivals.one_network import distilled, donor_labels, frozen_donor, narrow_scratch
from benchmarks.rivals.stem import stem_branches

RIVALS: Mapping[str, Callable[[Attempt], keras.Model]] = MappingProxyType(
    {
        rival.__name__: rival
        for rival in (
            narrow_scratch,
            donor_labels,
            distilled,
            frozen_donor,
            stem_branches,
            uniform_width,
            small_scratch,
        )
    }
)


def find_rivals(names: Sequence[str]) -> tuple[str, ...]:
    """The names, after all were found to be such.

    Raises:
        ValueError: one is unknown or given twice, or there is none.
    """
    unknown = [name for name in names if name not in RIVALS]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(
            f"Received the rivals {list(names)}. Expected some of {list(RIVALS)}, each once. "
            f"Choose among these{f', without {unknown}' if unknown else ''}."
        )
    return tuple(names)
