"""`compress`: trained models in, the smallest network that keeps their accuracy out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import Samples, TaskSamples, read_arrays
from tfmot_pam.graph.generation import are_tf_keras, as_keras
from tfmot_pam.graph.reader import check_model, read
from tfmot_pam.graph.selection import task_names
from tfmot_pam.graph.tf_keras.convert import to_tf_keras
from tfmot_pam.graph.usage import check_usage
from tfmot_pam.merging.arguments import named_models
from tfmot_pam.merging.merge import merge
from tfmot_pam.merging.plan import fingerprint
from tfmot_pam.pipeline.accuracy import Examination
from tfmot_pam.pipeline.arguments import Request, check_request
from tfmot_pam.pipeline.checkpoints import Checkpoints
from tfmot_pam.pipeline.result import CompressionResult, Round, round_from
from tfmot_pam.pruning.callbacks import UpdatePruningStep
from tfmot_pam.pruning.importance import find_importance
from tfmot_pam.pruning.prune import UnreachableFraction, prune_channels, strip_pruning
from tfmot_pam.pruning.schedules import Ramp
from tfmot_pam.reporting.report import report
from tfmot_pam.training.fine_tune import fine_tune

_BATCH = 32
# A round that breaks the tolerance is tried again with half its step, down to this one.
_SMALLEST_STEP = 0.05


def compress(
    models: Mapping[str, keras.Model] | Sequence[keras.Model] | keras.Model,
    data: Any,
    max_accuracy_drop: float | Mapping[str, float] = 0.01,
    *,
    directory: str | os.PathLike[str] | None = None,
    validation_data: Any = None,
    target: float | None = None,
    usage: Mapping[Sequence[str], float] | None = None,
    method: str = "pam",
    importance: Any = "reconstruction",
    step: float = 0.3,
    epochs: int = 3,
    merge_options: Mapping[str, Any] | None = None,
    fine_tune_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    verbose: int | str = "auto",
) -> CompressionResult:
    """Merges models and removes channels, round by round, as long as every task stays accurate.

    Use it to go from trained models to a deployable network in one call; `merge`, `fine_tune`,
    `prune_channels` and `strip_pruning` are its parts. Each round removes a share of the expected
    computation, fine-tunes by distillation from the originals, and measures every task on
    validation data. A round that breaks a tolerance is undone and tried again with half the step.

    Works on a single model too: it is then pruned alone.

    Args:
        models: Trained models by task, a list of them, or one model. As in `merge`.
        data: Training data in any form that `merge` takes. Without labels, accuracy is agreement
            with the originals.
        max_accuracy_drop: How much validation accuracy each task may lose against its original
            model, 0..1 (R^2 for real-valued targets); one number, or one a task.
        directory: Where to keep a checkpoint of every round. When the same call is made again, it
            goes on from the last complete one.
        validation_data: Data like `data`, for the accuracy: best samples that the originals were
            not trained on. None takes every seventh sample of `data` away from training; where the
            originals know those by heart, compression stops early.
        target: Stop at this share of the computation of the originals run one by one, 0..1.
        usage: Probability of each combination; default: all alike.
        method: As in `merge`.
        importance: As in `prune_channels`.
        step: Share of the computation that a round removes at first, 0..1.
        epochs: Epochs of fine-tuning per round.
        merge_options: Further arguments of `merge`.
        fine_tune_options: Further arguments of `fine_tune`.
        seed: Seed of everything random.
        verbose: 0 for silence, otherwise one line a round.

    Returns:
        The result: `.model`, `.models`, `.rounds`, `.report`, `.save(directory)`.

    Raises:
        TypeError: a model or the data is of a wrong kind.
        ValueError: an option is out of range; tolerances are for unknown tasks; the merged model
            is not within the tolerance before anything is removed; the directory holds checkpoints
            of other models, data or options.
        OSError: a checkpoint cannot be written; those before it are whole.

    Source: the rounds of pruning and fine-tuning are those of PAM (He et al., KDD 2021, section 5).

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> x = np.random.default_rng(0).normal(size=(280, 6)).astype("float32")
    >>> y = (x[:, 0] > 0).astype("int64")
    >>> model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, activation="relu"),
    ...                           keras.layers.Dense(2, activation="softmax", name="sign")])
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> history = model.fit(x, y, epochs=30, verbose=0)
    >>> result = tfmot_pam.compress(model, (x, {"sign": y}), 0.05, epochs=1, target=0.5, verbose=0)
    >>> result.best.share <= 0.5
    True
    """
    of_tf_keras = are_tf_keras(models, "models")
    originals = _named(models)
    tasks = list(originals)
    request = check_request(tasks, max_accuracy_drop, target, step, epochs)
    usage = None if usage is None else check_usage(usage, tasks)
    find_importance(importance)
    training, validation = _split(originals, data, validation_data)
    options = {
        "merge": dict(merge_options or {}),
        "fine_tune": {"batch_size": _BATCH, "seed": seed, **(fine_tune_options or {})},
        "rounds": [request, usage, method, importance, seed],
    }
    checkpoints = Checkpoints(directory, _identity(originals, training, validation, options))
    running = _Compression(originals, training, validation, options, checkpoints, verbose)
    result = running.run()
    if of_tf_keras:
        result = dataclasses.replace(result, model=to_tf_keras(result.model))
    return result


class _Compression:
    """The rounds of one compression."""

    def __init__(self, originals, training, validation, options, checkpoints, verbose):
        self.request, self.usage, self.method, self.importance, self.seed = options["rounds"]
        self.originals, self.training, self.options = originals, training, options
        self.examination = Examination(originals, validation)
        self.checkpoints, self.verbose = checkpoints, verbose
        self.rounds: list[Round] = []
        self.step = self.request.step
        self.model: keras.Model | None = None

    def run(self) -> CompressionResult:
        found = self.checkpoints.latest()
        if found is not None:
            state, self.model = found
            self.rounds = [round_from(one) for one in state["rounds"]]
            self.step = state["step"]
            self._say(f"going on after round {self.rounds[-1].number}")
        else:
            self._begin()
        while not self._is_done():
            self._next()
        return self._result()

    def _begin(self) -> None:
        """Round 0: merged and fine-tuned, nothing removed."""
        model = self._unpruned()
        self._examine(model, 0.0)
        if not self.rounds[-1].accepted:
            marks = {t: round(v, 4) for t, v in self.rounds[-1].accuracy.items()}
            alone = {t: round(v, 4) for t, v in self.examination.originals.items()}
            raise ValueError(
                f"The merged model reaches {marks} before anything is removed, the originals "
                f"{alone}: more than the allowed drop of {dict(self.request.tolerances)}. Train "
                "longer (epochs), share less (merge_options={'rho': ...}), or allow more."
            )
        self._keep(model)

    def _unpruned(self) -> keras.Model:
        if len(self.originals) > 1:
            options = {"seed": self.seed, "verbose": 0, **self.options["merge"]}
            merged = merge(self.originals, self._data(), method=self.method, **options)
            return self._tuned(merged)
        (model,) = self.originals.values()
        return model

    def _data(self) -> Any:
        by_task = self.training.by_task
        if self.training.shared:
            x = next(iter(by_task.values())).x
            return x, {task: own.y for task, own in by_task.items()}
        return {task: (own.x, own.y) for task, own in by_task.items()}

    def _tuned(self, model: keras.Model, callbacks: Sequence[Any] = ()) -> keras.Model:
        options = {"usage": self.usage, "verbose": 0, **self.options["fine_tune"]}
        callbacks = [*options.pop("callbacks", ()), *callbacks]
        return fine_tune(
            model,
            self._data(),
            self.originals,
            self.request.epochs,
            callbacks=callbacks,
            **options,
        )

    def _is_done(self) -> bool:
        target, share = self.request.target, self._best().share
        return self.step < _SMALLEST_STEP or (target is not None and share <= target + 1e-9)

    def _best(self) -> Round:
        return [found for found in self.rounds if found.accepted][-1]

    def _next(self) -> None:
        step = self.step
        if self.request.target is not None:
            step = min(step, 1.0 - self.request.target / self._best().share)
        try:
            smaller = self._smaller(step)
        except UnreachableFraction:
            # So much cannot be removed any more: every layer keeps something to read.
            self.step = step / 2
            return
        self._examine(smaller, step)
        if self.rounds[-1].accepted:
            self._keep(smaller)
        else:
            self.step = step / 2
            self._keep(self.model)

    def _smaller(self, step: float) -> keras.Model:
        common = {"measure": "macs", "usage": self.usage, "seed": self.seed}
        if find_importance(self.importance).at_once:
            gated = prune_channels(self.model, step, self.importance, data=self._data(), **common)
            return self._tuned(strip_pruning(gated))
        rows = max(len(own.x) for own in self.training.by_task.values())
        batches = math.ceil(rows / self.options["fine_tune"]["batch_size"]) * self.request.epochs
        schedule = Ramp(step, end_step=max(1, batches // 2), frequency=max(1, batches // 40))
        gated = prune_channels(self.model, schedule, self.importance, **common)
        return strip_pruning(self._tuned(gated, [UpdatePruningStep()]))

    def _examine(self, model: keras.Model, step: float) -> None:
        marks = self.examination.marks(model)
        table = report(model, originals=self.originals, usage=self.usage)
        lost = {task: self.examination.originals[task] - mark for task, mark in marks.items()}
        accepted = all(lost[task] <= self.request.tolerances[task] + 1e-9 for task in lost)
        self.rounds.append(
            Round(
                number=len(self.rounds),
                macs=table.expected_macs,
                share=table.expected_macs / table.expected_original_macs,
                accuracy=marks,
                accepted=accepted,
                step=step,
            )
        )
        found = self.rounds[-1]
        tasks = ", ".join(f"{t} {100 * m:.2f} ({-100 * lost[t]:+.2f})" for t, m in marks.items())
        self._say(
            f"round {found.number}: {100 * found.share:.1f} % of the originals' expected MACs, "
            f"accuracy in %: {tasks}: {'kept' if accepted else 'undone'}"
        )

    def _keep(self, model: keras.Model) -> None:
        self.model = model
        state = {"rounds": [dataclasses.asdict(one) for one in self.rounds], "step": self.step}
        self.checkpoints.save(self.rounds[-1].number, state, model)

    def _result(self) -> CompressionResult:
        table = report(
            self.model,
            originals=self.originals,
            usage=self.usage,
            accuracy=_shown(self._best().accuracy),
            original_accuracy=_shown(self.examination.originals),
        )
        return CompressionResult(
            self.model, tuple(self.rounds), dict(self.examination.originals), table
        )

    def _say(self, text: str) -> None:
        if self.verbose:
            sys.stdout.write(f"compress: {text}\n")
            sys.stdout.flush()


def _shown(marks: Mapping[str, float]) -> dict[str, float]:
    """Accuracies as a report takes them: R^2 may be below 0."""
    return {task: min(max(mark, 0.0), 1.0) for task, mark in marks.items()}


def _named(models: Any) -> dict[str, keras.Model]:
    """The models by task; one alone keeps its own form, or gets the name that it is given."""
    if isinstance(models, Mapping):
        models = {task: as_keras(model, f"The model of {task!r}") for task, model in models.items()}
        if len(models) == 1:
            ((task, model),) = models.items()
            return {task: _with_task(model, task)}
    elif isinstance(models, (list, tuple)):
        models = [as_keras(model) for model in models]
    else:
        models = as_keras(models)
    if isinstance(models, keras.Model):
        models = [models]
    if isinstance(models, list) and len(models) == 1:
        (model,) = models
        (task,) = task_names(read(model))
        return {task: _functional(model)}
    return named_models(models)


def _with_task(model: keras.Model, task: str) -> keras.Model:
    """The model with its one output under a task's name."""
    check_model(model, f"The model of {task!r}")
    model = _functional(model)
    outputs = keras.tree.flatten(model.output)
    if len(outputs) != 1:
        raise ValueError(
            f"The model of {task!r} has {len(outputs)} outputs. Expected one. Pass a model for "
            "each task."
        )
    return keras.Model(model.input, {task: outputs[0]}, name=model.name)


def _functional(model: keras.Model) -> keras.Model:
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def _split(originals, data: Any, validation_data: Any) -> tuple[Samples, Samples]:
    """Training and validation samples in memory."""
    tasks = list(originals)
    shape = tuple(next(iter(originals.values())).inputs[0].shape[1:])
    training = read_arrays(data, tasks, shape)
    if validation_data is not None:
        validation = read_arrays(validation_data, tasks, shape)
        if training is not None and validation is not None:
            return training, validation
    elif training is not None:
        return _part(training, False), _part(training, True)
    raise ValueError(
        "compress() keeps its data in memory. Received: a stream. Expected arrays for `data` and "
        "`validation_data`. Read a part of the stream into arrays; merge() and fine_tune() take "
        "streams."
    )


def _part(samples: Samples, validation: bool) -> Samples:
    """Every seventh sample, or the others; samples that share inputs still do."""
    parts: dict[int, np.ndarray] = {}
    by_task = {}
    for task, own in samples.by_task.items():
        chosen = (np.arange(len(own.x)) % 7 == 6) == validation
        if not chosen.any() or chosen.all() == (not validation) and len(own.x) < 7:
            raise ValueError(
                f"The task {task!r} has {len(own.x)} samples. Expected at least 7, of which every "
                "seventh is for validation. Pass validation_data."
            )
        x = parts.setdefault(id(own.x), own.x[chosen])
        by_task[task] = TaskSamples(x, None if own.y is None else np.asarray(own.y)[chosen])
    return Samples(by_task, samples.shared)


def _identity(originals, training: Samples, validation: Samples, options) -> dict[str, str]:
    """Digests of what a compression is of; a checkpoint belongs to exactly one."""
    models = {task: fingerprint(read(model)) for task, model in originals.items()}
    request: Request = options["rounds"][0]
    described = {**options, "rounds": [dataclasses.asdict(request), *options["rounds"][1:]]}
    return {
        "models": _digest(models),
        "data": _digest([_data_digest(training), _data_digest(validation)]),
        "options": _digest(described),
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(_plain(content)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Plain data that is the same in every process; of objects and functions their names."""
    if isinstance(value, Mapping):
        return [[str(key), _plain(found)] for key, found in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(found) for found in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _data_digest(samples: Samples) -> str:
    digest = hashlib.sha256()
    for task, own in samples.by_task.items():
        digest.update(task.encode())
        for array in (own.x, own.y):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
