"""For backends whose tensors take attributes, and to which batches are dealt out whole."""

from __future__ import annotations

from typing import Any


def replicas() -> int:
    """One: Keras deals out nothing here, and a strategy of TensorFlow batches of any size."""
    return 1


def keras_mask(tensor: Any) -> Any:
    """The mask of a tensor, None where it has none."""
    return getattr(tensor, "_keras_mask", None)


def set_keras_mask(tensor: Any, mask: Any) -> None:
    """Gives a tensor a mask."""
    tensor._keras_mask = mask
