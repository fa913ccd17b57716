"""The backend JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.backends.epochs import Epochs

JIT_COMPILE = True  # Operation by operation a training step takes many times as long.


def dataset(
    epoch: Callable[[], Iterator[tuple]], steps: int | None, count: Callable[[], int], spec: Any
) -> Any:
    """As in `tfmot_pam.backends.tensorflow`, without TensorFlow."""
    return Epochs(epoch, steps or count(), replicas())


def released(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer: nothing of a training outlives it."""
    return optimizer


def no_gradients() -> contextlib.AbstractContextManager[None]:
    """Nothing: JAX keeps what it is asked to differentiate."""
    return contextlib.nullcontext()


def inner_gradients(call: Callable[..., list[Any]], x: Any, directions: Sequence[Any]) -> list[Any]:
    """As in `tfmot_pam.backends.tensorflow`, by way of offsets.

    JAX has gradients by arguments only. So `call(x, offsets)` has to add an array to each of the
    tensors within, and the gradients by these, at zero, are those that are wanted.
    """
    import jax

    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    shapes = jax.eval_shape(call, batch)[: -len(directions)]

    def drawn(offsets: list[Any]) -> Any:
        answers = call(batch, offsets)[len(offsets) :]
        return sum((v * d).sum() for v, d in zip(answers, directions, strict=True))

    gradients = jax.grad(drawn)([jax.numpy.zeros(one.shape, one.dtype) for one in shapes])
    return [np.asarray(gradient) for gradient in gradients]


def after_step(model: Any, result: tuple[Any, tuple], state: tuple, data: Any) -> tuple[Any, tuple]:
    """As in `tfmot_pam.backends.tensorflow`; the state of the model is handed through."""
    import jax

    logs, (trainable, fixed, optimizer, metrics) = result
    variables = model.non_trainable_variables
    place = {id(variable): position for position, variable in enumerate(variables)}
    mask, observing = (place[id(v)] for v in (model.gates.mask, model.gates.observing))

    def given(values: Sequence[Any]) -> list[tuple[Any, Any]]:
        return [
            *zip(model.trainable_variables, trainable, strict=True),
            *zip(variables, values, strict=True),
            *zip(model.metrics_variables, metrics, strict=True),
        ]

    def observed(values: list[Any]) -> list[Any]:
        def losses(of_mask: Any) -> Any:
            changed = [*values[:mask], of_mask, *values[mask + 1 :]]
            with keras.StatelessScope(state_mapping=given(changed)):
                return jax.numpy.stack(model.losses_apart(data))

        found, pull = jax.vjp(losses, values[mask])
        units = jax.numpy.eye(len(found), dtype=found.dtype)
        rows = jax.numpy.stack([pull(unit)[0] for unit in units])
        with keras.StatelessScope(state_mapping=given(values)) as scope:
            model.gates.observe(rows)
        return [scope.get_current_value(variable) for variable in variables]

    fixed = jax.lax.cond(fixed[observing] > 0, observed, lambda values: values, list(fixed))
    return logs, (trainable, fixed, optimizer, metrics)


def replicas() -> int:
    """The devices among which `keras.distribution` deals out the samples of a batch, evenly."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def deals_out(model: keras.Model) -> bool:
    """No: `predict_on_batch` deals out what `predict` does."""
    return False


def keras_mask(tensor: Any) -> Any:
    """As in `tfmot_pam.backends.attributes`; JAX's arrays have no attributes of others."""
    from keras.src.backend.common import masking

    return masking.get_keras_mask(tensor)


def set_keras_mask(tensor: Any, mask: Any) -> None:
    """As in `tfmot_pam.backends.attributes`."""
    from keras.src.backend.common import masking

    masking.set_keras_mask(tensor, mask)


def use_threads(count: int) -> None:
    """Nothing: JAX takes its threads when it is imported."""
