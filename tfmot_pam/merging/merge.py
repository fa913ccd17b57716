"""`merge`: from trained single-task models to one multi-head model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.closed_form.compensate import Compensation, compensate, compensation_options
from tfmot_pam.data import HeadSamples, Samples
from tfmot_pam.display import Display, find_display
from tfmot_pam.graph.arguments import check_seed
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.generation import same_generation
from tfmot_pam.graph.heads import leaves
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.runner import Made
from tfmot_pam.merging.alignment import Alignment, TrunkSpace, align
from tfmot_pam.merging.arguments import check_estimator, check_options, named_models, read_models
from tfmot_pam.merging.assemble import Assembly, assemble
from tfmot_pam.merging.building import IrregularLayout
from tfmot_pam.merging.calibration import (
    calibration_samples,
    check_crossing,
    inputs_of_tasks,
    own_samples,
)
from tfmot_pam.merging.capture import check_reduction, observe
from tfmot_pam.merging.grouping import Grouping, free_spaces
from tfmot_pam.merging.method_table import find_method
from tfmot_pam.merging.methods import MergeMethod, Paths, Request, Threshold, checked
from tfmot_pam.merging.observations import Observations
from tfmot_pam.merging.plan import MergePlan, check_plan_belongs, fingerprint
from tfmot_pam.merging.planning import grouping_of, make_plan
from tfmot_pam.merging.regroup import regroup
from tfmot_pam.merging.relevance import RelevancePath, relevance_path
from tfmot_pam.merging.targets import (
    Targets,
    encode_labels,
    joint_targets,
    rows_of_outputs,
    targets_from_outputs,
)
from tfmot_pam.merging.units import check_units
from tfmot_pam.training.heads import output_kinds

Models = Mapping[str, keras.Model]


@same_generation("models")
def merge(
    models: Mapping[str, keras.Model] | Sequence[keras.Model],
    data: Any = None,
    *,
    method: str | MergeMethod = "pam",
    width: str = "own",
    rho: float | None = None,
    alpha: float | Mapping[str, float] | None = None,
    share: float | None = None,
    estimator: str | Mapping[str, Any] = "gaussian",
    reduction: str = "max",
    samples: int = 1024,
    min_group: int = 4,
    compensation: bool | Compensation = True,
    plan: MergePlan | None = None,
    seed: int = 0,
    verbose: int | str = "auto",
) -> keras.Model:
    """Merges models that were trained for one task each into one multi-head model.

    Use it first: the result runs every combination of the tasks (`select_tasks`), is ready to use
    before any training, and is meant to be fine-tuned (`fine_tune`) and pruned. Channels that
    only one task needs stay apart, channels that several need are shared, and a shared channel
    never reads an exclusive one.

    Source: PAM (He, Gao, Zhou, Tong, Thiele, KDD 2021), section 4; task sets between one and all
    tasks, the Gaussian estimator and the compensation are this package's.

    Args:
        models: Trained functional or sequential models, all of Keras 3 or all of tf_keras, by task
            name. A list takes its task names from the models' output layers; one that was merged
            before stands there for all its tasks, in a dict under each. Models with one input
            each of equal shape share it; others' inputs are matched by name. What a model yields
            may be a nest of tensors, such as `{"boxes": ..., "classes": ...}`.
        data: Calibration data from the *training* split: `(x, {task: y})`, `x` alone,
            `{task: (x, y)}`, `{task: x}`, or a `tf.data.Dataset` or `keras.utils.PyDataset` that
            yields batches of these. Several inputs are a dict by name, several outputs' labels are
            nested as those are. Labels are class indices, one-hot, 0/1 or -1/+1 matrices or
            real values; NaN, negative class indices and 255 where it is no class do not count.
            Without labels the models' own outputs are used. None draws random inputs and warns.
        method: `"pam"`; `"pam-paper"` (only exclusive channels and those of all tasks);
            `"shared"` (everything shared); `"separate"` (nothing shared: reproduces the models);
            `"random"` (the sizes of `"pam"`, the channels drawn at random); `"mtz"` (Multi-Task
            Zipping: of each network one channel, those of the least functional difference, become
            one); `"zip"` (ZipIt!: channels that correlate most become one, those of one network
            too). Or a `MergeMethod`, such as `mtz_method(until="conv3")`.
        width: `"own"`: in every layer each task keeps at most as many channels as its own network
            has there, so that no combination costs more than its originals; `"union"`: all
            channels of all networks.
        rho: Threshold as a share of each task's measurable relevance, 0 <= rho < 1; larger values
            share less. Default 0.05.
        alpha: Threshold in nats instead, one for all tasks or one a task.
        share: Threshold by the wanted share of channels that several tasks need instead, 0 < share
            <= 1, before `width` takes channels away. The only threshold of `"mtz"` and `"zip"`: the
            share of each layer's channels that become one with others; by default all that can.
        estimator: `"gaussian"` or `"kde"` (the paper's), or a dict with the entry `name` and the
            estimator's own options.
        reduction: How activations are reduced over space: `"max"`, `"mean"` or `"max+mean"`.
        samples: Calibration samples that are drawn per task.
        min_group: Smaller groups are folded into a group with more tasks, before `width` takes
            channels away.
        compensation: Whether what the cuts take away is fitted back in closed form, or a
            `Compensation` with its options.
        plan: A plan to replay instead of deciding anew.
        seed: Seed of everything random.
        verbose: 0 for silence, `"auto"` or 1 for live progress (plain lines where there is no
            terminal), 2 for plain lines.

    Returns:
        A functional model with a dict of outputs by task, built of ordinary layers in `TaskGroup`
        wrappers; with several inputs it takes a dict by name. Out of tf_keras models a tf_keras
        model of ordinary layers alone. Its attribute `merge_plan` holds the `MergePlan`.

    Raises:
        TypeError: a model is not a functional or sequential Keras model, or the data has none
            of the forms above.
        ValueError: fewer than two models, models that cannot be merged, unusable data or options.

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> def model(classes):
    ...     return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3),
    ...                              keras.layers.Flatten(), keras.layers.Dense(classes)])
    >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    >>> merged = tfmot_pam.merge({"digit": model(10), "speaker": model(6)}, x, verbose=0)
    >>> list(merged.output)
    ['digit', 'speaker']
    """
    chosen = find_method(method)
    threshold = check_options(rho, alpha, share, width, min_group, samples, chosen)
    check_seed(seed)
    fit = compensation_options(compensation, seed)
    check_estimator(estimator)
    check_reduction(reduction)
    display = find_display(verbose, "merge")
    by_task = named_models(models)
    networks = read_models(by_task)
    once = chosen.name != "separate"  # what is the same in all networks
    alignment = _aligned(by_task, networks, once, plan)
    threshold = _check_alpha_tasks(threshold, alignment.tasks)
    calibration = calibration_samples(by_task, networks, data, samples, seed)
    made: Made = {}
    check_crossing(by_task, networks, calibration, made)
    with display:
        fingerprints = tuple(fingerprint(network) for network in networks)
        if plan is not None:
            check_plan_belongs(plan, alignment, fingerprints)
            alignment = _freeze_as_planned(alignment, plan)
            grouping = grouping_of(plan, alignment)
            check_units(alignment, grouping)
            own_width = plan.options.get("width") == "own"
            assembly = assemble(alignment, grouping, own_width=own_width)
        else:
            paths: Paths = {}
            if chosen.needs_relevance or (width == "own" and not chosen.own_width):
                paths = _relevance(
                    by_task, alignment, calibration, estimator, reduction, seed, display, made
                )
            inputs = inputs_of_tasks(alignment, calibration) if chosen.matches else ()
            request = Request(alignment, paths, threshold, seed, inputs)
            request, grouping, assembly = _regroup_and_assemble(request, chosen, min_group, width)
            alignment = request.alignment
            options = {
                **dataclasses.asdict(threshold),
                "width": width,
                "estimator": estimator,
                "reduction": reduction,
                "samples": samples,
                "min_group": min_group,
                "seed": seed,
                "once": once,
            }
            plan = make_plan(alignment, grouping, paths, chosen.name, options, fingerprints)
        network = assembly.network
        if fit is not None:
            network = compensate(
                network,
                assembly.origins,
                alignment.networks,
                calibration.inputs,
                fit,
                functools.partial(display.show, "fitting"),
                own=own_samples(alignment, calibration),
                made=made,
            )
            display.show("fitting", 1.0, line="done")
    merged = emit(network)
    merged.merge_plan = plan
    return merged


def _aligned(
    by_task: Models, networks: Sequence[Network], once: bool, plan: MergePlan | None
) -> Alignment:
    """The networks side by side; a plan knows what was computed once when it was made."""
    trunk_needed = once
    if isinstance(plan, MergePlan):
        options = plan.options if isinstance(plan.options, Mapping) else {}
        trunk_needed, once = plan.method != "separate", bool(options.get("once"))
    return align(list(by_task), networks, once=once, trunk_needed=trunk_needed)


def _check_alpha_tasks(threshold: Threshold, tasks: tuple[str, ...]) -> Threshold:
    if isinstance(threshold.alpha, Mapping) and set(threshold.alpha) != set(tasks):
        raise ValueError(
            f"`alpha` has the tasks {sorted(threshold.alpha)}. Expected one value for each of "
            f"{list(tasks)}. Add the missing tasks and take out the unknown ones."
        )
    return threshold


def _relevance(
    by_task: Models,
    alignment: Alignment,
    calibration: Samples,
    estimator: Any,
    reduction: str,
    seed: int,
    display: Display,
    made: Made,
) -> Paths:
    name, options = check_estimator(estimator)
    kinds = {
        head: kind
        for task in alignment.tasks
        for head, kind in output_kinds(by_task[task], [task]).items()
    }

    def kept(head: str, output: np.ndarray) -> np.ndarray:
        """What targets are made of: of maps a row for each image, of labelled ones the width."""
        if calibration.by_head[head].y is not None:
            # A copy: a view would keep the whole map.
            first: tuple[slice | int, ...] = (slice(None), *(0,) * (output.ndim - 2))
            return output[first].copy()
        return output if name == "kde" else rows_of_outputs(output, kinds[head], head)

    observed, outputs = _observe_all(alignment, calibration, reduction, kept, display, made)
    targets = {
        task: joint_targets(
            [
                _targets(head, calibration.by_head[head], output, kinds[head], name)
                for head, output in outputs[task].items()
            ],
            task,
        )
        for task in alignment.tasks
    }
    spaces = free_spaces(alignment)
    paths: dict[tuple[int, int], RelevancePath] = {}
    for space in spaces:
        for t, task in enumerate(alignment.tasks):
            joined = _join([found[space] for found in observed[task]])
            if targets[task].rows is not None:
                columns = targets[task].observed(joined.columns)
                joined = Observations(columns, joined.channel_of)
            paths[space, t] = relevance_path(
                joined, targets[task], estimator=name, seed=seed, **options
            )
            display.show("relevance", len(paths) / (len(spaces) * len(alignment.tasks)))
    display.show("relevance", 1.0, line="known")
    return paths


def _observe_all(
    alignment: Alignment,
    calibration: Samples,
    reduction: str,
    kept: Callable[[str, np.ndarray], np.ndarray],
    display: Display,
    made: Made,
) -> tuple[dict[str, list[dict[int, Observations]]], dict[str, dict[str, np.ndarray]]]:
    """For each task, every network's observations on that task's data, and its own outputs."""
    observed: dict[str, list[dict[int, Observations]]] = {}
    outputs: dict[str, dict[str, np.ndarray]] = {}
    tasks = alignment.tasks
    for position, task in enumerate(tasks):
        if calibration.shared and observed:
            observed[task] = observed[tasks[0]]
            continue
        found = []
        for k, other in enumerate(tasks):
            head = next(iter(leaves(task, alignment.networks[position].outputs)))
            x = calibration.by_head[head].x
            needed = other == task or calibration.shared
            take = kept if needed else _nothing
            spaces, result = observe(
                alignment, k, x, reduction=reduction, outputs_as=take, made=made
            )
            found.append(spaces)
            if needed:
                outputs[other] = result
            display.show("activations", (position * len(tasks) + k + 1) / len(tasks) ** 2)
        observed[task] = found
    display.show("activations", 1.0, line="seen")
    return observed, outputs


def _nothing(head: str, output: np.ndarray) -> np.ndarray:
    del head
    return np.empty((len(output), 0), output.dtype)


def _join(observations: Sequence[Observations]) -> Observations:
    """All networks' channels in one space, numbered through."""
    offsets = np.cumsum([0] + [found.channels for found in observations])
    return Observations(
        np.concatenate([found.columns for found in observations], axis=1),
        np.concatenate(
            [
                found.channel_of + offset
                for found, offset in zip(observations, offsets, strict=False)
            ]
        ),
    )


def _targets(
    head: str, found: HeadSamples, outputs: np.ndarray, kind: str, estimator: str
) -> Targets:
    if found.y is not None:
        return encode_labels(found.y, head, outputs.shape[-1])
    if estimator == "kde":
        return targets_from_outputs(outputs, kind, head, discrete=True)
    return targets_from_outputs(outputs, "linear", head)


def _regroup_and_assemble(
    request: Request, method: MergeMethod, min_group: int, width: str
) -> tuple[Request, Grouping, Assembly]:
    """Regroups; a space whose tensors cannot be put in one order is frozen and all done again."""
    while True:
        grouping = regroup(request, checked(method), min_group, width)
        try:
            assembly = assemble(request.alignment, grouping, own_width=width == "own")
            return request, grouping, assembly
        except IrregularLayout as error:
            reason = f"'{error.node}' combines its channels in different orders"
            alignment = request.alignment
            labels = alignment.graphs[error.index].labels
            touched = {
                int(label)
                for tensor, found in labels.items()
                if tensor.node == error.node
                for label in found
            }

            def hit(
                space: TrunkSpace,
                touched: set[int] = touched,
                index: int = error.index,
                reason: str = reason,
            ) -> str | None:
                return reason if touched & set(space.channels[index].tolist()) else None

            frozen = _freeze(alignment, hit)
            if all(
                a.frozen == b.frozen for a, b in zip(frozen.spaces, alignment.spaces, strict=True)
            ):
                raise
            request = dataclasses.replace(request, alignment=frozen)


def _freeze_as_planned(alignment: Alignment, plan: MergePlan) -> Alignment:
    planned = iter(plan.spaces)
    return _freeze(alignment, lambda space: next(planned).frozen)


def _freeze(alignment: Alignment, reason_of: Callable[[TrunkSpace], str | None]) -> Alignment:
    """The same alignment with reasons for spaces that are to be frozen too."""
    spaces = []
    for space in alignment.spaces:
        if not space.given:
            space = dataclasses.replace(space, frozen=reason_of(space) or space.frozen)
        spaces.append(space)
    return dataclasses.replace(alignment, spaces=tuple(spaces))
