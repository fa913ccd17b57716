"""The report on a multi-task model: what every combination of its tasks costs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from tfmot_pam.graph.cost import NetworkCost, combination_totals, network_cost
from tfmot_pam.graph.generation import read_model
from tfmot_pam.graph.heads import all_heads, heads_of
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.selection import all_combinations, check_tasks, network_heads, task_names
from tfmot_pam.graph.sizes import InputShape, sized
from tfmot_pam.graph.usage import usage_probabilities
from tfmot_pam.metrics.metric import by_mark, find_metrics, metric_titles
from tfmot_pam.reporting.drawing import drawn_layers
from tfmot_pam.reporting.groups import count_groups, trunk_groups
from tfmot_pam.reporting.measured import measured
from tfmot_pam.reporting.result import Report, ReportRow

TaskSet = tuple[str, ...]
TaskHeads = Mapping[str, tuple[str, ...]]


def report(
    model: keras.Model,
    *,
    originals: Mapping[str, keras.Model] | Sequence[keras.Model] | None = None,
    accuracy: Mapping[Any, Any] | None = None,
    original_accuracy: Mapping[str, float] | None = None,
    data: Any = None,
    metrics: Mapping[str, Any] | None = None,
    latency: Mapping[Any, float] | None = None,
    file_bytes: Mapping[Any, int] | None = None,
    usage: Mapping[Any, float] | None = None,
    combinations: Sequence[Sequence[str] | str] | None = None,
    input_shape: InputShape | None = None,
) -> Report:
    """Reports what every combination of a model's tasks costs; it prints as a table.

    Use it after `merge`, `fine_tune` or pruning, to see what sharing saves and to document a
    result. A combination costs what its smallest sub-network costs; the figure of merit is the
    expected cost over the combinations. A model with one output works too: it has one row.

    Source: PAM (He et al., KDD 2021), sections 3 and 5: cost of a combination, FLOPs.

    Args:
        model: A merged model, or any functional model whose outputs are a dict by task.
        originals: The single-task models, by task name or as a list in task order: adds the cost
            of running those of a combination one by one, and the ratio.
        accuracy: Accuracies to show, 0..1: `{task: value}`, or `{combination: {task: value}}`.
        original_accuracy: The original models' accuracies, 0..1, `{task: value}`.
        data: Data to measure accuracies on instead, in any form that `compress` takes: of the model
            and of `originals`. Labels that do not count are left out; where a task has none at all,
            accuracy is agreement with its original.
        metrics: `{task: metric}`, of tasks whose accuracies are another metric: a
            `tfmot_pam.Metric`, or whatever `compress` takes, or what the table shall call it. Their
            values may be any numbers. Accuracies of a task with several outputs are a dict of one
            for each, or are named like `"detector/boxes"`.
        latency: Milliseconds per run, `{combination: value}`.
        file_bytes: Size of the exported files, `{combination: value}`.
        usage: Probability of each combination; those not named are never used. Default: all
            combinations alike.
        combinations: The combinations to list. Default: all. The expected cost always covers all.
        input_shape: The shape of the input, without the samples' axis, of models that take images
            or sequences of any size.

    Returns:
        The report: `.rows`, `.expected_macs`, `.groups`, `.unsupported`, `.frozen`, and
        `.to_json()`, `.to_csv()`, `.plot(path)`.

    Raises:
        TypeError: `model` or an original is no functional or sequential Keras model, or an
            argument has another form than above.
        ValueError: a task or combination is unknown or missing; a value is out of range; the
            probabilities do not sum to 1; a model takes any size and no `input_shape` that fits is
            given.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((4,))
    >>> trunk = tfmot_pam.TaskGroup(keras.layers.Dense(3, name="trunk"), ("age", "smile"))(x)
    >>> heads = {name: keras.layers.Dense(2, name=name)(trunk) for name in ("age", "smile")}
    >>> result = tfmot_pam.report(keras.Model(x, heads))
    >>> [(row.tasks, row.macs) for row in result.rows]
    [(('age',), 18), (('smile',), 18), (('age', 'smile'), 24)]
    >>> result.groups
    {'trunk': {('age', 'smile'): 3}}
    """
    network = sized(read_model(model), input_shape)
    tasks = task_names(network)
    everything = all_combinations(tasks)
    listed = everything if combinations is None else _listed(combinations, tasks)
    probability = usage_probabilities(usage, tasks)
    costs, groups = combination_totals(network), trunk_groups(network)
    counted = count_groups(network, groups)
    originals = _originals(originals, tasks)
    original_costs = _original_costs(originals, input_shape)
    heads = heads_of(network_heads(network))
    titles = metric_titles(metrics, heads)
    if data is not None:
        _check_not_given(accuracy=accuracy, original_accuracy=original_accuracy)
        accuracy, original_accuracy = measured(
            model, originals, data, find_metrics(metrics, heads), heads
        )
    accuracies = _accuracies(accuracy, heads, titles)
    original_accuracies = _by_task(original_accuracy, heads, "original_accuracy", titles)
    latencies = _by_combination(latency, tasks, "latency")
    sizes = _by_combination(file_bytes, tasks, "file_bytes")
    rows = tuple(
        ReportRow(
            tasks=chosen,
            macs=costs[chosen].macs,
            flops=costs[chosen].flops,
            parameters=costs[chosen].parameters,
            groups=counted[chosen],
            probability=probability.get(chosen, 0.0),
            accuracy=accuracies.get(chosen, {}),
            original_accuracy=_only(original_accuracies, chosen, heads),
            latency_ms=latencies.get(chosen),
            file_bytes=sizes.get(chosen),
            **_sums(original_costs, chosen),
        )
        for chosen in listed
    )
    return Report(
        tasks=tasks,
        rows=rows,
        expected_macs=_expected(probability, {c: found.macs for c, found in costs.items()}),
        expected_original_macs=_expected(
            probability, {c: _sums(original_costs, c)["original_macs"] for c in everything}
        )
        if original_costs
        else None,
        groups=groups,
        unsupported=_unsupported(network, original_costs),
        frozen=dict(getattr(getattr(model, "merge_plan", None), "frozen", {})),
        metrics=titles,
        layers=drawn_layers(network),
    )


def _only(values: Mapping[str, float], chosen: TaskSet, heads: TaskHeads) -> dict[str, float]:
    marks = [mark for task in chosen for mark in dict.fromkeys([task, *heads[task]])]
    return {mark: values[mark] for mark in marks if mark in values}


def _expected(probability: Mapping[TaskSet, float], macs: Mapping[TaskSet, int]) -> float:
    return math.fsum(share * macs[chosen] for chosen, share in probability.items())


def _unsupported(network: Network, originals: Mapping[str, NetworkCost]) -> dict[str, str]:
    found = dict(network_cost(network).unsupported)
    for task, cost in originals.items():
        for node, reason in cost.unsupported.items():
            found[f"{node} (original of {task})"] = reason
    return found


def _check_not_given(**values: Any) -> None:
    given = [name for name, value in values.items() if value is not None]
    if given:
        raise ValueError(f"`data` measures what {given} say. Received both. Leave one of them out.")


def _originals(originals: Any, tasks: TaskSet) -> dict[str, keras.Model]:
    if originals is None:
        return {}
    if isinstance(originals, Sequence) and not isinstance(originals, str):
        if len(originals) != len(tasks):
            raise ValueError(
                f"`originals` must have one model a task. Received: {len(originals)} models for "
                f"the tasks {list(tasks)}. Pass them in this order, or a dict by task name."
            )
        originals = dict(zip(tasks, originals, strict=True))
    if not isinstance(originals, Mapping):
        raise TypeError(
            "`originals` must be a dict of models by task name, or a list. Received: "
            f"{originals!r} of type {type(originals).__name__}. Pass the models that were merged."
        )
    if set(originals) != set(tasks):
        raise ValueError(
            f"`originals` has the tasks {sorted(map(str, originals))}. Expected one model for each "
            f"of {list(tasks)}. Add the missing tasks and take out the unknown ones."
        )
    return {task: originals[task] for task in tasks}


def _original_costs(
    originals: Mapping[str, keras.Model], input_shape: InputShape | None
) -> dict[str, NetworkCost]:
    networks = {task: read_model(model) for task, model in originals.items()}
    return {
        task: network_cost(sized(network, input_shape, f"The original of {task!r}"))
        for task, network in networks.items()
    }


def _sums(costs: Mapping[str, NetworkCost], chosen: TaskSet) -> dict[str, int]:
    if not costs:
        return {}
    return {
        f"original_{name}": sum(getattr(costs[task], name) for task in chosen)
        for name in ("macs", "flops", "parameters")
    }


# --- arguments in their several forms ---------------------------------------------------------


def _listed(combinations: Any, tasks: TaskSet) -> list[TaskSet]:
    if isinstance(combinations, str) or not isinstance(combinations, Sequence):
        raise TypeError(
            "`combinations` must be a list of combinations. Received: "
            f"{combinations!r}. Pass such as [{tuple(tasks[:1])!r}, {tuple(tasks)!r}]."
        )
    listed = [_combination(chosen, tasks, "combinations") for chosen in combinations]
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(
            "`combinations` must hold at least one combination, each of them once. Received: "
            f"{combinations!r}. Leave it out to list all."
        )
    return listed


def _combination(key: Any, tasks: TaskSet, what: str) -> TaskSet:
    if not isinstance(key, (str, Sequence)):
        raise TypeError(
            f"`{what}` must name combinations by their tasks. Received: {key!r}. Pass a tuple of "
            f"task names, such as {tuple(tasks)!r}."
        )
    try:
        return check_tasks(key, tasks)
    except ValueError as error:
        raise ValueError(f"In `{what}`: {error}") from None


def _by_combination(values: Any, tasks: TaskSet, what: str) -> dict[TaskSet, Any]:
    """Values by combination in model order, each checked to be a number of at least 0."""
    if values is None:
        return {}
    _check_mapping(values, what, "combination")
    found: dict[TaskSet, Any] = {}
    for key, value in values.items():
        chosen = _combination(key, tasks, what)
        if chosen in found:
            raise ValueError(f"`{what}` has the combination {chosen} twice. Give it once.")
        found[chosen] = _number(value, what, key, math.inf)
    return found


def _by_task(values: Any, tasks: TaskHeads, what: str, own: Collection[str]) -> dict[str, float]:
    """Values by task, or by head of tasks that have several, each checked."""
    if values is None:
        return {}
    _check_mapping(values, what, "task")
    values = by_mark(values, tasks)
    known = dict.fromkeys([*tasks, *all_heads(tasks)])
    for key, value in values.items():
        if key not in known:
            raise ValueError(
                f"`{what}` has the unknown task {key!r}. The model's tasks are {list(known)}. "
                "Choose among these names."
            )
        if key in own:
            _finite(value, what, key)
        else:
            _number(value, what, key, 1.0)
    return {mark: float(values[mark]) for mark in known if mark in values}


def _accuracies(
    accuracy: Any, tasks: TaskHeads, own: Collection[str]
) -> dict[TaskSet, dict[str, float]]:
    """Accuracy by combination and task, from either of the two forms."""
    if accuracy is None:
        return {}
    _check_mapping(accuracy, "accuracy", "task")
    several = [task for task, heads in tasks.items() if heads != (task,)]
    if all(key in several or not isinstance(value, Mapping) for key, value in accuracy.items()):
        values = _by_task(accuracy, tasks, "accuracy", own)
        return {chosen: _only(values, chosen, tasks) for chosen in all_combinations(tuple(tasks))}
    found: dict[TaskSet, dict[str, float]] = {}
    for key, values in accuracy.items():
        chosen = _combination(key, tuple(tasks), "accuracy")
        if chosen in found:
            raise ValueError(f"`accuracy` has the combination {chosen} twice. Give it once.")
        found[chosen] = _by_task(values, {t: tasks[t] for t in chosen}, "accuracy", own)
    return found


def _check_mapping(values: Any, what: str, key: str) -> None:
    if not isinstance(values, Mapping):
        raise TypeError(
            f"`{what}` must be a dict by {key}. Received: {values!r} of type "
            f"{type(values).__name__}. Pass such as {{{key}: value}}."
        )


def _finite(value: Any, what: str, key: Any) -> None:
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(
            f"`{what}` has {value!r} for {key!r}. Expected a finite number. Leave out what was not "
            "measured."
        )


def _number(value: Any, what: str, key: Any, upper: float) -> Any:
    """`value` as a plain number, so that it can be written as JSON."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(
            f"`{what}` must hold numbers. Received: {value!r} of type {type(value).__name__} for "
            f"{key!r}. Convert it to a float."
        )
    if not 0 <= float(value) <= upper or math.isinf(value):
        wanted = "at least 0" if math.isinf(upper) else "0 to 1; divide percentages by 100"
        raise ValueError(f"`{what}` has the value {value!r} for {key!r}. Expected {wanted}.")
    return int(value) if isinstance(value, numbers.Integral) else float(value)
