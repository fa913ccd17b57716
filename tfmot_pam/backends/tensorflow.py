"""The backend TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from tfmot_pam.backends.attributes import keras_mask, replicas, set_keras_mask  # noqa: F401

JIT_COMPILE = False  # XLA takes longer to compile a small network than it saves.


def dataset(
    epoch: Callable[[], Iterator[tuple]], steps: int | None, count: Callable[[], int], spec: Any
) -> Any:
    """A `tf.data.Dataset` that reads one epoch per iteration.

    Args:
        epoch: Begins the next epoch.
        steps: Batches of an epoch; None where that is not known.
        count: Counts them.
        spec: The `Spec` of each array of a batch, nested as they are.
    """
    import tensorflow as tf

    signature = keras.tree.map_structure(lambda one: tf.TensorSpec(one.shape, one.dtype), spec)
    found = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    if steps is not None:
        found = found.apply(tf.data.experimental.assert_cardinality(steps))
    return found.prefetch(1)


def released(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer, in a form that lets go of the training graph in the end.

    Keras sums gradients over replicas even where there is one. TensorFlow registers a gradient of
    that sum for as long as the process lives, and with it all of the graph: 100 MB for a small
    network, at every training. Of one replica the sum is what is there already. There is no public
    way to leave it out; where Keras renames the method, this changes nothing.
    """
    import tensorflow as tf

    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars
    return optimizer


def no_gradients() -> contextlib.AbstractContextManager[None]:
    """Nothing: TensorFlow keeps what a tape records."""
    return contextlib.nullcontext()


def inner_gradients(call: Callable[..., list[Any]], x: Any, directions: Sequence[Any]) -> list[Any]:
    """Gradients of a network's outputs along some directions, by tensors within it.

    Args:
        call: `call(x)` gives those tensors, then the outputs.
        x: A batch of inputs, an array or a dict.
        directions: An array for each output.

    Returns:
        An array for each tensor within.
    """
    import tensorflow as tf

    batch = keras.tree.map_structure(tf.convert_to_tensor, x)
    with tf.GradientTape() as tape:
        # A network's weights need not be trainable.
        tape.watch([part for part in keras.tree.flatten(batch) if part.dtype.is_floating])
        values = call(batch)
        found, answers = values[: -len(directions)], values[-len(directions) :]
        drawn = sum(tf.reduce_sum(v * d) for v, d in zip(answers, directions, strict=True))
    gradients = tape.gradient(drawn, found, unconnected_gradients="zero")
    return [gradient.numpy() for gradient in gradients]


def after_step(model: Any, logs: Any, data: Any) -> Any:
    """Lets a gated model observe its gates, if it is to.

    Args:
        model: The model.
        logs: What its training step gave.
        data: What that was given.

    Returns:
        What the training step gives.
    """
    import tensorflow as tf

    gates = model.gates
    shape = (len(gates.tasks), gates.channels)
    rows = tf.cond(gates.observing > 0, lambda: _gradients(model, data), lambda: tf.zeros(shape))
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync > 1:
        # Each has seen a part of the batch. They cannot wait for each other in a branch.
        rows = replica.all_reduce(tf.distribute.ReduceOp.SUM, rows)
    gates.observe(rows)
    return logs


def _gradients(model: Any, data: Any) -> Any:
    """Each task's gradients of the gates for one batch, `[tasks, channels]`."""
    import tensorflow as tf

    mask = model.gates.mask.value
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(mask)
        losses = model.losses_apart(data)
    return tf.stack([_dense(tape.gradient(loss, mask), mask) for loss in losses])


def _dense(gradient: Any, mask: Any) -> Any:
    import tensorflow as tf

    return tf.zeros_like(mask) if gradient is None else tf.convert_to_tensor(gradient)


def deals_out(model: keras.Model) -> bool:
    """Whether `predict` deals out a batch to devices, and `predict_on_batch` does not."""
    return model.distribute_strategy.num_replicas_in_sync > 1


def use_threads(count: int) -> None:
    """Limits the threads of this process, unless that has been done."""
    import tensorflow as tf

    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
