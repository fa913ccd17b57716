"""The layer wrapper that records which tasks need a layer's channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


@keras.saving.register_keras_serializable(package="tfmot_pam")
class TaskGroup(keras.layers.Wrapper):
    """Wraps one ordinary Keras layer and records which tasks need its channels.

    `merge` emits it around every layer of a merged model. Use it by hand to write a multi-head
    model that `select_tasks`, `report` and `tflite_export.export` understand as task groups. The
    wrapper computes exactly what the wrapped layer computes; a saved `.keras` file that holds it
    describes its groups itself (`import tfmot_pam` before loading it).

    Source: the grouped layers of PAM (He et al., KDD 2021, section 4), generalised to any set of
    tasks.

    Args:
        layer: The Keras layer to wrap, with one input (a tensor or a list of tensors).
        tasks: Names of the tasks that need the layer's channels, at least one, in model order.
        **kwargs: Keras layer arguments. `name` defaults to the wrapped layer's name.

    Raises:
        TypeError: `layer` is not a Keras layer or `tasks` are not names.
        ValueError: `tasks` is empty or names a task twice.

    Example:
    >>> import keras, tfmot_pam
    >>> layer = tfmot_pam.TaskGroup(keras.layers.Dense(4), tasks=("digit", "speaker"))
    >>> layer(keras.ops.ones((2, 3))).shape
    TensorShape([2, 4])
    >>> layer.tasks
    ('digit', 'speaker')
    """

    def __init__(self, layer: keras.layers.Layer, tasks: Sequence[str], **kwargs: Any):
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                f"`layer` must be a Keras layer. Received: {layer!r} of type "
                f"{type(layer).__name__}. Pass the layer object, such as keras.layers.Dense(4)."
            )
        if isinstance(layer, TaskGroup):
            raise TypeError(
                f"`layer` must be an ordinary Keras layer. Received: the TaskGroup '{layer.name}' "
                f"of the tasks {layer.tasks}. Wrap its own layer: TaskGroup(group.layer, tasks)."
            )
        names = isinstance(tasks, Sequence) and all(
            isinstance(task, str) and task for task in tasks
        )
        if isinstance(tasks, str) or not names:
            raise TypeError(
                f"`tasks` must be a sequence of task names. Received: {tasks!r}. "
                "Pass a tuple, such as tasks=('digit',)."
            )
        tasks = tuple(tasks)
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(
                "`tasks` must name at least one task, each of them once. "
                f"Received: {tasks!r}. Leave out the repeated names."
            )
        kwargs.setdefault("name", layer.name)
        # In another precision than the layer's the wrapper would round what it is given.
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self.tasks: tuple[str, ...] = tuple(tasks)
        self.supports_masking = layer.supports_masking

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs: Any) -> Any:
        return self.layer.compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tasks": list(self.tasks)}
