"""The merge methods that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tfmot_pam.merging.methods import RULES, MergeMethod
from tfmot_pam.merging.mtz import mtz_method
from tfmot_pam.merging.zip import zip_method

METHODS: Mapping[str, MergeMethod] = MappingProxyType(
    {method.name: method for method in (*RULES, mtz_method(), zip_method())}
)


def find_method(method: str | MergeMethod) -> MergeMethod:
    """The method of a name, or the method itself.

    Raises:
        TypeError: it is neither.
        ValueError: there is none of that name.
    """
    if isinstance(method, MergeMethod):
        return method
    if not isinstance(method, str):
        raise TypeError(
            f"`method` must be a name or a tfmot_pam.MergeMethod. Received: {method!r} of type "
            f"{type(method).__name__}. Choose one of {sorted(METHODS)}."
        )
    if method not in METHODS:
        raise ValueError(
            f"Unknown `method`: {method!r}. Expected one of {sorted(METHODS)}. Choose one."
        )
    return METHODS[method]
