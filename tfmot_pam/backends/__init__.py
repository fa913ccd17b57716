"""What differs between the backends of Keras: a module for each, with the same names in it.

Everything else is written in `keras.ops` and NumPy. A module of a backend has

* `JIT_COMPILE`: how a model that is trained here is compiled;
* `dataset(epoch, steps, count, spec)`: what `fit` reads;
* `released(optimizer)`: an optimizer that keeps nothing of a training that is over;
* `no_gradients()`: a context in which nothing is kept for a backward pass;
* `inner_gradients(call, x, directions)`: gradients by tensors within a network;
* `after_step(model, result, *arguments)`: what a gated model does behind a training step;
* `keras_mask(tensor)`, `set_keras_mask(tensor, mask)`: what Keras hands on beside a tensor;
* `replicas()`: the parts into which Keras deals out a batch;
* `deals_out(model)`: whether `predict` does that, and `predict_on_batch` does not;
* `use_threads(count)`: the threads that this process may take.
"""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType
from typing import Any

import keras

NAMES = ("tensorflow", "jax", "torch")


@dataclasses.dataclass(frozen=True)
class Spec:
    """An array of a batch.

    Attributes:
        shape: Its shape, None for what varies.
        dtype: Its type, as NumPy names it.
    """

    shape: tuple[int | None, ...]
    dtype: Any = "float32"


def current() -> ModuleType:
    """The module of the backend that Keras runs on.

    Raises:
        ValueError: nothing can be trained on it.
    """
    name = keras.backend.backend()
    if name not in NAMES:
        raise ValueError(
            f"Keras runs on the backend {name!r}. Expected one that trains: {', '.join(NAMES)}. "
            "Set the environment variable KERAS_BACKEND to one of them before Keras is imported."
        )
    return importlib.import_module(f"{__name__}.{name}")
