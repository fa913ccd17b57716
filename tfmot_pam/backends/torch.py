"""The backend PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from tfmot_pam.backends.attributes import keras_mask, replicas, set_keras_mask  # noqa: F401
from tfmot_pam.backends.epochs import Epochs

JIT_COMPILE = False


def dataset(
    epoch: Callable[[], Iterator[tuple]], steps: int | None, count: Callable[[], int], spec: Any
) -> Any:
    """As in `tfmot_pam.backends.tensorflow`, without TensorFlow."""
    return Epochs(epoch, steps or count())


def released(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer: nothing of a training outlives it."""
    return optimizer


def no_gradients() -> contextlib.AbstractContextManager[None]:
    """A context in which nothing is kept for a backward pass."""
    import torch

    return torch.no_grad()


def inner_gradients(call: Callable[..., list[Any]], x: Any, directions: Sequence[Any]) -> list[Any]:
    """As in `tfmot_pam.backends.tensorflow`."""
    import torch

    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    for part in keras.tree.flatten(batch):
        # A network's weights need not be trainable.
        part.requires_grad_(part.is_floating_point())
    values = call(batch)
    found, answers = values[: -len(directions)], values[-len(directions) :]
    weights = [keras.ops.convert_to_tensor(direction) for direction in directions]
    drawn = sum((v * w).sum() for v, w in zip(answers, weights, strict=True))
    sources = [value for value in found if value.requires_grad]
    gradients = iter(torch.autograd.grad(drawn, sources, allow_unused=True) if sources else ())
    wanted = [next(gradients) if value.requires_grad else None for value in found]
    return [
        keras.ops.convert_to_numpy(torch.zeros_like(value) if gradient is None else gradient)
        for value, gradient in zip(found, wanted, strict=True)
    ]


def after_step(model: Any, logs: Any, data: Any) -> Any:
    """As in `tfmot_pam.backends.tensorflow`."""
    import torch

    gates = model.gates
    if not float(gates.observing.value):
        return logs
    mask = gates.mask.value.detach().clone().requires_grad_()
    # What metrics note of these losses is left in the scope: they have seen the batch.
    with keras.StatelessScope(state_mapping=[(gates.mask, mask)]):
        losses = model.losses_apart(data)
    rows = [
        torch.autograd.grad(loss, mask, retain_graph=True, allow_unused=True)[0]
        if loss.requires_grad
        else None
        for loss in losses
    ]
    with torch.no_grad():
        found = [torch.zeros_like(mask) if row is None else row for row in rows]
        gates.observe(torch.stack(found))
    return logs


def deals_out(model: keras.Model) -> bool:
    """No: nothing is dealt out here."""
    return False


def use_threads(count: int) -> None:
    """Limits the threads of this process."""
    import torch

    torch.set_num_threads(count)
