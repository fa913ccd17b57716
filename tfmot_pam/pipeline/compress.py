"""`compress`: trained models in, the smallest network that keeps their accuracy out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.display import find_display
from tfmot_pam.distribution.devices import as_local, devices_of
from tfmot_pam.graph.arguments import check_seed
from tfmot_pam.graph.generation import are_tf_keras
from tfmot_pam.graph.selection import all_combinations, check_tasks
from tfmot_pam.graph.tf_keras.convert import to_tf_keras
from tfmot_pam.graph.time_model import CallCost
from tfmot_pam.graph.usage import check_usage
from tfmot_pam.metrics.metric import find_metrics
from tfmot_pam.pipeline.arguments import (
    check_count,
    check_directory,
    check_goal,
    check_merge_options,
    check_name,
    check_training_options,
)
from tfmot_pam.pipeline.arms import Arm, find_arms
from tfmot_pam.pipeline.competition import Competition
from tfmot_pam.pipeline.identity import identity
from tfmot_pam.pipeline.inputs import heads_of_originals, opened, originals_by_task, prepared, split
from tfmot_pam.pipeline.portfolio import told_portfolio
from tfmot_pam.pipeline.price import TaskSet, find_price
from tfmot_pam.pipeline.problem import make_problem
from tfmot_pam.pipeline.result import CompressionResult
from tfmot_pam.pruning.importance import find_importance
from tfmot_pam.pruning.settings import PruningSettings


def compress(
    models: Mapping[str, keras.Model] | Sequence[keras.Model] | keras.Model,
    data: Any,
    max_accuracy_drop: float | Mapping[str, float] = 0.01,
    *,
    directory: str | os.PathLike[str] | None = None,
    validation_data: Any = None,
    data_name: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    arms: str | Sequence[str | Arm] = "auto",
    effort: int = 24,
    target: float | None = None,
    usage: Mapping[Any, float] | None = None,
    importance: Any = "reconstruction",
    measure: str | CallCost = "macs",
    augment: Callable[..., Any] | None = None,
    views: int | None = None,
    merge_options: Mapping[str, Any] | None = None,
    fine_tune_options: Mapping[str, Any] | None = None,
    trainable: str = "all",
    portfolio: bool | Iterable[Sequence[str]] = False,
    workers: int = 1,
    tensorboard: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int | str = "auto",
) -> CompressionResult:
    """Finds the network of least expected cost that does all tasks as the models do.

    Use it to go from trained models to a deployable network in one call; `merge`, `fine_tune`,
    `prune_channels` and `strip_pruning` are its parts. It searches several families of networks,
    the *arms*, at equal effort: the networks pruned separately, and merged ones, in which all or
    a part of each layer is shared and the rest exclusive. Each search trains by distillation from
    the originals while channels are removed, then trains the networks around the tolerance on
    while the rate falls. The cheapest within the tolerances is the result: where merging does not
    pay, the separate networks side by side.

    Works on a single model too: it is then pruned alone.

    In the scope of a `tf.distribute` strategy, or for models that were made in one, networks are
    trained on all of its devices. Of several workers the chief alone decides and writes, and all
    return the same.

    Args:
        models: Trained models by task, a list of them, or one model. As in `merge`. Models that
            take images or sequences of any size are counted at the size of the data.
        data: Training data in any form that `merge` takes; a stream is read into memory, in its
            deterministic order. Without labels, accuracy is agreement with the originals. Labels
            that are NaN, negative class indices, and 255 where it is no class, do not count. A
            third element has weights of samples for training, as in `fine_tune`.
        max_accuracy_drop: How much validation accuracy each task may lose against its original
            model, 0..1 (R^2 for real-valued targets); one number, or one a task, or a dict of one
            for each output of a task with several: `{"detector": {"boxes": 0.01, "classes": 0.02},
            "mask": 0.01}`. It must hold on all validation samples, and within one standard error
            on each half of them.
        directory: Where to keep a checkpoint of every round. When the same call is made again, it
            goes on from the last complete one.
        validation_data: Data like `data`, for the accuracy: best samples that the originals were
            not trained on. None takes every seventh sample of `data` away from training; where the
            originals know those by heart, compression stops early.
        data_name: What the data is called. Checkpoints in `directory` then belong to this name
            and not to the contents: for streams that come in another order each time.
        metrics: Metrics of tasks, `{task: metric}`, by which they are judged instead: a
            `keras.metrics` object (not changed), the name of one, a function `f(y_true, y_pred)`
            of arrays that returns one number or one a sample, or a `tfmot_pam.Metric`. A task with
            several outputs has a dict of one for each, or a function of dicts for all. Tolerances
            are then in the metric's unit: by how much it may get worse.
        arms: `"auto"` runs `"separate"` and, from the best of several starts by short trials,
            `"late"`: trunks and mixed networks of the separately pruned ones, beside which
            a task that needs far less than the others keeps its own. Or names to run:
            these, `"trunk"` (one network's width for all tasks), `"mixed"` (a half of each layer
            shared), `"stem"` (shared up to a layer), the merge methods (`"pam"`, `"pam-paper"`,
            `"shared"`, `"random"`, `"mtz"`, `"zip"`), or `Arm` objects.
        effort: Epochs of training per network and arm: an arm of T tasks trains one network
            T x effort epochs, or T networks effort epochs each. Patience pays: at 12 a merged
            network can look worse than separate ones where at 36 it is better.
        target: Stop at this share of the computation of the originals run one by one, 0..1.
        usage: Probability of each combination; default: all alike.
        importance: As in `prune_channels`.
        measure: What is to become small: `"macs"`, or `"latency"`, an estimate of the time of one
            thread in which channels count in whole tiles and every operation costs something:
            small networks in many groups can have few MACs and take long. Or a function
            `cost(kind, inputs, shape, macs)` of one call of a layer, as in `prune_channels`.
        augment: `augment(x, rng) -> x`: other views of inputs that keep their labels, such as
            flipped images; of several inputs a dict by name. Teachers see the same views.
            Accuracies are then means over 4 views of the validation data, which makes them less
            noisy. The models should have been trained on such views; one that loses more than a
            point on them is named in a warning.
        views: How many views are made of the training inputs, and kept in memory; None makes 16,
            or as many as 2 GiB hold. Long training learns few views by heart.
        merge_options: Further arguments of `merge`.
        fine_tune_options: `batch_size`, `learning_rate`, `label_weight`, `losses`, `class_weight`,
            `temperature` and `dropout`, as in `fine_tune`. Unless told otherwise the rate is 2e-3
            at first, and `dropout` 0: networks that lose channels have much to learn in few epochs.
        trainable: `"all"`: layers train that were frozen in the originals, such as those of a
            pretrained backbone; `"as-trained"`: they stay as they are, with a warning.
        portfolio: Combinations of tasks, or True for all, that get a network of their own: the
            cheapest that any arm found, in `result.models`. The verdict then says what they save
            and weigh. `result.portfolio()` has them later, too.
        workers: Searches that run at a time, such as those of separate pruning, in processes of
            their own that share the machine's threads; small networks gain most. A script must
            then call `compress` under `if __name__ == "__main__":`.
        tensorboard: Where to write every round as scalars for TensorBoard: the share of the cost
            that is left, what the worst task has used of its tolerance, accuracies and losses.
            Each search has a folder of its own; rounds of an earlier call are not written again.
        seed: Seed of everything random.
        verbose: 0 for silence; `"auto"` or 1 for a live line a search: what goes on, the least
            expected MACs, what each task has used of its tolerance there, the time left (a plain
            line a round where there is no terminal); 2 for plain lines.

    Returns:
        The result: `.model`, `.models`, `.arms`, `.verdict`, `.report`, `.save(directory)`.

    Raises:
        TypeError: a model or the data is of a wrong kind, or cannot be sent to a worker.
        ValueError: an option is out of range; tolerances are for unknown tasks; no arm is within
            the tolerance; the directory holds checkpoints of other models, data or options.
        OSError: a checkpoint cannot be written; those before it are whole.
        RuntimeError: a worker ended before its search did.

    Source: expected cost and task sets: PAM (He et al., KDD 2021, sections 3 to 5); distillation
    with the teacher on the same view and long schedules: Beyer et al., CVPR 2022.

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> x = np.random.default_rng(0).normal(size=(280, 6)).astype("float32")
    >>> y = (x[:, 0] > 0).astype("int64")
    >>> model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, activation="relu"),
    ...                           keras.layers.Dense(2, activation="softmax", name="sign")])
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> history = model.fit(x, y, epochs=30, verbose=0)
    >>> result = tfmot_pam.compress(model, (x, {"sign": y}), 0.05, effort=8, target=0.5, verbose=0)
    >>> result.best.share <= 0.5
    True
    """
    of_tf_keras = are_tf_keras(models, "models")
    originals = originals_by_task(models)
    tasks = tuple(originals)
    heads = heads_of_originals(originals)
    found_metrics = find_metrics(metrics, heads)
    goal = check_goal(heads, max_accuracy_drop, target, effort, found_metrics)
    usage = None if usage is None else check_usage(usage, tasks)
    find_importance(importance)
    check_name("data_name", data_name)
    if views is not None:
        check_count("views", views)
    check_count("workers", workers)
    check_seed(seed)
    check_directory(directory)
    check_directory(tensorboard, "tensorboard")
    display = find_display(verbose, "compress")
    merging = check_merge_options(merge_options)
    if augment is not None and not callable(augment):
        raise TypeError(
            f"`augment` must be a function augment(x, rng) -> x. Received: {augment!r} of type "
            f"{type(augment).__name__}. Pass the function itself."
        )
    find_price(measure)
    apart = _combinations(portfolio, tasks)
    chosen = None if arms == "auto" else find_arms(arms)
    options = check_training_options(fine_tune_options)
    devices = devices_of(*keras.tree.flatten(models))
    if devices.strategy is not None and workers > 1:
        raise ValueError(
            f"`workers` is {workers} under a tf.distribute strategy, whose devices train one "
            "network at a time. Expected 1. Pass workers=1, or call compress() outside of the "
            "strategy's scope."
        )
    with devices.left():
        originals = {task: as_local(model) for task, model in originals.items()}
        training, validation = split(originals, data, validation_data)
        originals, any_size = prepared(originals, training, trainable)
        settings = PruningSettings(importance=importance, measure=measure, usage=usage, seed=seed)
        problem = make_problem(
            originals,
            training,
            validation,
            goal,
            settings,
            augment=augment,
            views=views,
            metrics=found_metrics,
            devices=devices,
            **options,
        )
        described = {
            "goal": goal,
            "usage": usage,
            "importance": importance,
            "measure": measure,
            "views": [augment, views],
            "merge": merge_options,
            "fine_tune": fine_tune_options,
            "seed": seed,
            # Only where there are any: checkpoints of other runs are told apart as before.
            **({"metrics": found_metrics} if found_metrics else {}),
        }
        known = identity(originals, training, validation, described, data_name)
        if not devices.chief:
            # It gets the chief's rounds, and neither writes nor tells them.
            directory, tensorboard, display = None, None, find_display(0, "compress")
        with _kept(directory, workers) as folder, display:
            competition = Competition(
                problem, merging, folder, known, workers, display, tensorboard
            )
            result = competition.run(chosen)
        if any_size is not None:
            found = tuple(
                dataclasses.replace(arm, model=opened(arm.model, any_size)) for arm in result.arms
            )
            result = dataclasses.replace(result, model=opened(result.model, any_size), arms=found)
        if apart:
            told = told_portfolio(result.portfolio(apart), result.model, result.best.costs)
            result = dataclasses.replace(result, apart=apart, verdict=f"{result.verdict} {told}")
        if of_tf_keras:
            result = dataclasses.replace(result, model=to_tf_keras(result.model))
        return result


def _combinations(
    portfolio: bool | Iterable[Sequence[str]], tasks: Sequence[str]
) -> tuple[TaskSet, ...]:
    """The combinations that get a network of their own, in model order."""
    if isinstance(portfolio, bool):
        return tuple(all_combinations(tasks)) if portfolio else ()
    if isinstance(portfolio, str) or not isinstance(portfolio, Iterable):
        raise TypeError(
            f"`portfolio` must be True, False or combinations of tasks. Received: {portfolio!r}. "
            f"Pass combinations such as [{tuple(tasks[:1])!r}]."
        )
    return tuple(dict.fromkeys(check_tasks(chosen, tasks) for chosen in portfolio))


@contextlib.contextmanager
def _kept(directory: str | os.PathLike[str] | None, workers: int) -> Iterator[pathlib.Path | None]:
    """Where rounds are kept: nowhere, unless it is told or workers hand them over by it."""
    if directory is not None:
        yield pathlib.Path(directory)
    elif workers == 1:
        yield None
    else:
        with tempfile.TemporaryDirectory(prefix="tfmot-pam-") as folder:
            yield pathlib.Path(folder)
