"""Fine-tuning a merged model by distillation from the networks it was made of."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.data import Samples, heads_with_gaps, take_samples
from tfmot_pam.distribution.devices import as_local, devices_of
from tfmot_pam.graph.arguments import check_seed, check_whole
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.frozen import with_trainable
from tfmot_pam.graph.generation import same_generation
from tfmot_pam.graph.heads import heads_of, input_shapes
from tfmot_pam.graph.reader import check_model, read
from tfmot_pam.graph.selection import network_heads, task_names
from tfmot_pam.graph.usage import check_usage
from tfmot_pam.training.arguments import check_teacher_input, check_training
from tfmot_pam.training.distillation import head_outputs, set_up
from tfmot_pam.training.losses import TEMPERATURE
from tfmot_pam.training.usage import StepTasks

_SCALE_SAMPLES = 256


@same_generation("merged")
def fine_tune(
    merged: keras.Model,
    data: Any,
    teachers: Mapping[str, Any] | Sequence[Any] | None = None,
    epochs: int = 3,
    *,
    batch_size: int = 32,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
    optimizer: str | keras.optimizers.Optimizer | None = None,
    usage: Mapping[Any, float] | None = None,
    joint: float = 0.5,
    task_weights: Mapping[str, float] | None = None,
    label_weight: float = 0.3,
    temperature: float = TEMPERATURE,
    losses: Mapping[str, Any] | None = None,
    class_weight: Mapping[str, Mapping[int, float]] | None = None,
    dropout: float = 1.0,
    trainable: str = "as-trained",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    validation_data: Any = None,
    seed: int = 0,
    verbose: str | int = "auto",
) -> keras.Model:
    """Trains a merged model to do what the original networks do, for every combination of tasks.

    Use it after `merge` and after channels were removed. The loss of a task is its distance to
    its teacher's outputs (cross-entropy for softmax and sigmoid outputs, squared error for
    others), mixed with the usual loss on its labels where there are labels; each part is divided
    by what the best constant prediction would cost, so that no task dominates. Steps that serve
    one sampled combination alternate with steps that serve all tasks; tasks that a step does not
    serve send no gradient. Underneath is an ordinary Keras `fit`.

    Batch-norm statistics adapt in every step. Where tasks have data sets of their own, a step
    takes a batch of each, and every task's loss is measured on its own samples.

    In the scope of a `tf.distribute` strategy, or for a model that was made in one, it trains on
    all of its devices; batches are then those of all replicas together.

    Args:
        merged: A functional or sequential Keras 3 model with a dict of outputs keyed by task, where
            an output may be a nest of tensors; or with a single output, whose layer names the task.
            Several inputs are a dict by name in the data. A model from
            `prune_channels` is pruned on the way, with `UpdatePruningStep()` in `callbacks`. A
            tf_keras model is trained as its Keras 3 twin and comes back as a tf_keras model.
        data: The data, in any form that `merge` takes; labels optional if there are teachers.
            Arrays are shuffled, and their teacher outputs computed once and kept in memory.
            Streams are passed through in their own order and batch size. A third element holds
            weights of samples, as in Keras: one array for all tasks, or a dict by task. Labels
            that are NaN, negative class indices, and 255 where it is no class, do not count.
        teachers: The original models, a dict from task to model or a list in task order. None
            trains on labels alone.
        epochs: Passes over the data (over the longest data set, if tasks have their own).
        batch_size: Samples per step taken from each array data set.
        learning_rate: Starting rate, falling to 0 along a cosine; or a Keras schedule, used as
            it is. Ignored where `optimizer` is an optimizer object.
        optimizer: Keras optimizer or its name; None is Adam. An object is copied.
        usage: Probability of each combination, such as `{("a",): 0.8, ("a", "b"): 0.2}`. None
            takes all combinations as equally likely.
        joint: Share of the steps that serve all tasks at once, in 0..1.
        task_weights: Factor of each task's loss, above 0; None takes 1 for all.
        label_weight: Share of the labels in the loss of a task that has a teacher too, in 0..1.
        temperature: Divisor of the logits of student and teacher in the distance to the teacher, at
            least 1: a teacher that is all but sure of its training inputs then still tells what
            else they look like. Without effect on outputs that are not probabilities.
        losses: Keras losses to use on the labels of some tasks instead of the chosen ones; they
            get the labels as given, also those that do not count, and the task's outputs. Of a
            task with several outputs one is named like `"detector/boxes"`; so it is in
            `class_weight`.
        class_weight: Factors of the labels' loss by class, `{task: {class index: factor}}`, for
            tasks whose labels are classes. Classes that are not named have 1.
        dropout: Factor of the rates of dropout layers during training, in 0..1. Small students of
            a teacher need none: 0 trains without.
        trainable: `"as-trained"`: layers that were frozen in the originals, such as those of a
            common backbone, stay so, with a warning; or `"all"`.
        callbacks: Keras callbacks. Their `model` is a plain functional model that shares the
            trained weights.
        validation_data: Data like `data`, for the validation losses after each epoch.
        seed: Seed of shuffling, combinations and dropout.
        verbose: As in `keras.Model.fit`; 0 silences the progress bar.

    Returns:
        A new model with the trained weights, not compiled: ready for `predict`, `select_tasks`
        and export. Compile it with losses keyed by task before `evaluate`. `merged` is unchanged.
        It belongs to no strategy, and is equal on all workers.

    Raises:
        TypeError: `merged` is not a functional model, or an argument has a wrong type. Optimizer,
            losses and callbacks are always Keras 3's.
        ValueError: There are neither labels nor teachers for a task, or an argument does not fit
            the model.

    Source: PAM (He et al., KDD 2021) fine-tunes merged networks; distillation from the originals
    follows Hinton, Vinyals, Dean (2015) in place of labels alone.

    Example:
    >>> import keras, numpy as np
    >>> from keras import layers
    >>> inputs = keras.Input((4,))
    >>> heads = {task: layers.Dense(2, activation="softmax")(inputs) for task in ("a", "b")}
    >>> merged = keras.Model(inputs, heads)
    >>> teachers = {task: keras.Model(inputs, head) for task, head in heads.items()}
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> tuned = fine_tune(merged, x, teachers, epochs=1, verbose=0)
    >>> list(tuned.output)
    ['a', 'b']
    """
    check_model(merged, "`merged`")
    if isinstance(merged, keras.Sequential):
        merged = keras.Model(merged.inputs, merged.outputs[0], name=merged.name)
    network = read(merged)
    tasks = task_names(network)
    heads = heads_of(network_heads(network))
    check_whole("epochs", epochs)
    check_whole("batch_size", batch_size)
    check_seed(seed)
    _check_shares(joint=joint, label_weight=label_weight, dropout=dropout)
    callbacks = check_training(learning_rate, optimizer, losses, callbacks)
    teachers = _by_task(teachers, tasks)
    usage = None if usage is None else check_usage(usage, tasks)
    changed = with_trainable(network, trainable)
    if changed is not network:
        merged = emit(changed, cls=type(merged))
    weights = _check_task_weights(task_weights, tasks)
    input_shape = input_shapes(network)
    sample = take_samples(data, heads, input_shape, samples=_SCALE_SAMPLES, seed=seed)
    for task, teacher in teachers.items():
        check_teacher_input(task, teacher, input_shape)
    _check_targets(sample, teachers, losses or {}, "losses")
    _check_targets(sample, teachers, class_weight or {}, "class_weight")
    gaps = heads_with_gaps(data, heads, input_shape)
    gaps |= heads_with_gaps(validation_data, heads, input_shape)
    devices = devices_of(merged)
    with devices.left():
        distillation = set_up(
            head_outputs(merged, tasks),
            sample,
            {task: as_local(teacher) for task, teacher in teachers.items()},
            input_shape,
            label_weight=label_weight,
            temperature=temperature,
            losses=losses,
            class_weight=class_weight,
            gaps=gaps,
            seed=seed,
        )
        return distillation.train(
            merged,
            [distillation.feed.prepare(data, batch_size, heads)],
            epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            steps=StepTasks(
                heads, usage, joint, seed, {h: weights[task] for task in tasks for h in heads[task]}
            ),
            dropout=dropout,
            callbacks=callbacks,
            validation_data=validation_data,
            tasks=heads,
            seed=seed,
            verbose=verbose,
            devices=devices,
        )


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not isinstance(value, numbers.Real):
            raise TypeError(
                f"`{name}` is a share and must be a number in 0..1. Received: {value!r} of type "
                f"{type(value).__name__}. Pass such as 0.5."
            )
        if not 0 <= value <= 1:
            raise ValueError(
                f"`{name}` is a share and must be in 0..1. Received: {value}. Divide percentages "
                "by 100."
            )


def _check_task_weights(
    weights: Mapping[str, float] | None, tasks: tuple[str, ...]
) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(tasks, 1.0)
    given = isinstance(weights, Mapping) and all(
        isinstance(weight, numbers.Real) for weight in weights.values()
    )
    if not given:
        raise TypeError(
            f"`task_weights` must be a dict with a number for each of the tasks {list(tasks)}. "
            f"Received: {weights!r}. Pass such as {dict.fromkeys(tasks, 1.0)}."
        )
    if set(weights) != set(tasks) or not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError(
            f"`task_weights` must hold a number above 0 for each of the tasks {list(tasks)}. "
            f"Received: {dict(weights)}. Add the missing ones and take out the others."
        )
    return {task: float(weights[task]) for task in tasks}


def _by_task(teachers: Any, tasks: tuple[str, ...]) -> dict[str, Any]:
    if teachers is None:
        return {}
    if isinstance(teachers, list | tuple):
        if len(teachers) != len(tasks):
            raise ValueError(
                f"`teachers` has {len(teachers)} models for the {len(tasks)} tasks {list(tasks)}. "
                "Pass one model per task, in this order."
            )
        teachers = dict(zip(tasks, teachers, strict=True))
    if not isinstance(teachers, Mapping):
        raise TypeError(
            "`teachers` must be a dict from task to model, or a list in task order. Received: "
            f"{teachers!r} of type {type(teachers).__name__}."
        )
    unknown = [task for task in teachers if task not in tasks]
    missing = [task for task in tasks if task not in teachers]
    if unknown or missing:
        raise ValueError(
            f"`teachers` must have a model for each of the tasks {list(tasks)}. "
            f"Unknown: {unknown}; missing: {missing}."
        )
    for task, teacher in teachers.items():
        if not callable(getattr(teacher, "predict_on_batch", None)):
            raise TypeError(
                f"The teacher of the task {task!r} must be a Keras model. Received: {teacher!r} "
                f"of type {type(teacher).__name__}."
            )
    return dict(teachers)


def _check_targets(sample: Samples, teachers: Mapping, named: Mapping, what: str) -> None:
    tasks = list(sample.by_head)
    unlabelled = [task for task in tasks if sample.by_head[task].y is None]
    if not teachers and unlabelled:
        raise ValueError(
            f"There is nothing to train towards for the tasks {unlabelled}: the data has no "
            "labels for them and `teachers` is None. Pass the original models as `teachers`, or "
            "data with labels."
        )
    useless = [task for task in named if task not in tasks or task in unlabelled]
    if useless:
        raise ValueError(
            f"`{what}` names {useless}, which are no tasks with labels. The tasks are "
            f"{tasks}; without labels: {unlabelled}. Leave them out."
        )
