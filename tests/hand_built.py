"""Multi-head models written by hand from task groups, for tests with known answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras

from tfmot_pam.task_group import TaskGroup

TaskSet = tuple[str, ...]


def mix(tensors, name: str, widths: Mapping[TaskSet, int], make: Callable, everyone: TaskSet):
    """One layer as task groups: each group reads the groups that hold all of its tasks.

    Args:
        tensors: The layer's input: one tensor, or a tensor by task set.
        name: The layer's name, which the groups' names start with.
        widths: The number of channels by task set.
        make: Makes a Keras layer of that many channels.
        everyone: All tasks.

    Returns:
        The output tensors by task set, large sets first.
    """
    if not isinstance(tensors, Mapping):
        tensors = {everyone: tensors}
    result = {}
    for tasks in sorted(widths, key=len, reverse=True):
        suffix = "shared" if tasks == everyone else "_".join(tasks)
        group = TaskGroup(make(widths[tasks]), tasks, name=f"{name}_{suffix}")
        result[tasks] = group(side_by_side(tensors, tasks))
    return result


def keep(tensors, make: Callable):
    """A layer that keeps the channels, on every group."""
    return {tasks: TaskGroup(make(), tasks)(tensor) for tasks, tensor in tensors.items()}


def side_by_side(tensors, tasks: TaskSet):
    """The groups that hold all of `tasks` as one tensor."""
    found = [tensor for names, tensor in tensors.items() if set(tasks) <= set(names)]
    return found[0] if len(found) == 1 else keras.layers.Concatenate()(found)


def two_task_model() -> keras.Model:
    """Tasks `a` and `b` on 6 inputs: two dense layers of three groups each, and two heads."""
    everyone = ("a", "b")
    x = keras.Input((6,))
    first = {everyone: 4, ("a",): 2, ("b",): 3}
    second = {everyone: 2, ("a",): 3, ("b",): 1}
    h = mix(x, "fc1", first, keras.layers.Dense, everyone)
    h = keep(h, keras.layers.ReLU)
    h = mix(h, "fc2", second, keras.layers.Dense, everyone)
    heads = {
        task: TaskGroup(keras.layers.Dense(units), (task,), name=f"head_{task}")(
            side_by_side(h, (task,))
        )
        for task, units in (("a", 2), ("b", 4))
    }
    return keras.Model(x, heads, name="two_tasks")


def three_task_model() -> keras.Model:
    """Tasks `a`, `b`, `c` on images: convolutions, batch norm, dropout, every task set."""
    everyone = ("a", "b", "c")
    x = keras.Input((8, 8, 2))
    widths = {everyone: 2, ("a", "b"): 1, ("b", "c"): 2, ("a",): 1, ("b",): 1, ("c",): 2}
    h = mix(x, "conv1", widths, lambda n: keras.layers.Conv2D(n, 3, padding="same"), everyone)
    h = keep(h, keras.layers.BatchNormalization)
    h = keep(h, keras.layers.ReLU)
    h = mix(h, "conv2", widths, lambda n: keras.layers.Conv2D(n, 3, strides=2), everyone)
    h = keep(h, keras.layers.Flatten)
    h = keep(h, lambda: keras.layers.Dropout(0.5))
    heads = {
        task: TaskGroup(keras.layers.Dense(3), (task,), name=f"head_{task}")(
            side_by_side(h, (task,))
        )
        for task in everyone
    }
    return keras.Model(x, heads, name="three_tasks")


def shake(model: keras.Model, seed: int) -> keras.Model:
    """Gives every weight a random value, variances included, so that none hides an error."""
    rng = keras.random.SeedGenerator(seed)
    for weight in model.weights:
        if weight.dtype.startswith("float"):
            value = keras.random.uniform(weight.shape, -1.0, 1.0, seed=rng)
            weight.assign(keras.ops.abs(value) + 0.1 if "variance" in weight.name else value)
    return model
