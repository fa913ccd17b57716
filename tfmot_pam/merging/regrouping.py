"""`regroup`: other task sets for the channels of a model that is merged already."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.closed_form.compensate import Compensation, compensate, compensation_options
from tfmot_pam.graph.arguments import check_seed
from tfmot_pam.graph.channels import Space, build_channel_graph
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.generation import same_generation
from tfmot_pam.graph.network import Network, iterate_tensors
from tfmot_pam.graph.reader import check_model, read
from tfmot_pam.graph.selection import network_heads, select
from tfmot_pam.graph.task_sets import reached_tasks, tasks_of_nodes
from tfmot_pam.merging.alignment import alone
from tfmot_pam.merging.assemble import assemble_anew
from tfmot_pam.merging.building import IrregularLayout
from tfmot_pam.merging.calibration import calibration_samples
from tfmot_pam.merging.fusing import places_of_channels
from tfmot_pam.merging.grouping import Grouping, mask_of, tasks_of

TaskSets = Mapping[str, Sequence[Collection[str]]]


@same_generation("model")
def channel_task_sets(model: keras.Model) -> dict[str, list[tuple[str, ...]]]:
    """The task set of every channel of a merged model, as `regroup` takes them.

    Use it to see which tasks need which channel, and as what to change before `regroup`.

    Args:
        model: A model with several tasks that `merge` made, whatever was done to it since.

    Returns:
        For each layer whose channels can be taken apart the task set of each of its channels, in
        the order of its kernel's. In a model that `merge` made those of one layer are the same:
        it holds one group. Layers that write the same channels, such as those of a residual
        stream, stand there under the first one's name; those of heads are left out.

    Raises:
        TypeError: the model is not a functional Keras model.
        ValueError: it has fewer than two tasks.

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> def model(classes):
    ...     return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden"),
    ...                              keras.layers.Dense(classes)])
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> models = {"digit": model(10), "speaker": model(6)}
    >>> merged = tfmot_pam.merge(models, x, method="shared", width="union", verbose=0)
    >>> tfmot_pam.channel_task_sets(merged)["hidden_shared"][:2]
    [('digit', 'speaker'), ('digit', 'speaker')]
    """
    channels = _Channels(model)
    return {
        space.writers[0]: [channels.names(mask) for mask in channels.masks[space.channels]]
        for space in channels.free
    }


@same_generation("model")
def regroup(
    model: keras.Model,
    task_sets: TaskSets,
    data: Any = None,
    *,
    fuse: Mapping[str, Sequence[Collection[int]]] | None = None,
    samples: int = 1024,
    compensation: bool | Compensation = True,
    seed: int = 0,
) -> keras.Model:
    """Gives the channels of a merged model smaller task sets, and writes it in groups anew.

    Use it on a model that was merged, and maybe trained and pruned since: a shared channel becomes
    one that some of its tasks keep to themselves, or goes; channels that are alike become one.
    Every combination of tasks then computes only what is left to it. Channels that leave a group
    make one of their own.

    Args:
        model: A model with several tasks that `merge` made, whatever was done to it since.
        task_sets: For some layers, the task set of each channel, in the form and the order of
            `channel_task_sets`: a part of what it is, and the empty set where the channel goes.
            Layers that are left out stay as they are.
        data: Inputs of the training split, as in `merge`; what the cuts take away is then fitted
            back in closed form. None leaves the weights that stay as they are.
        fuse: For some layers, sets of channels that become one, by their places: whoever read one
            of them reads their mean, or with data what comes closest to all. They need the same
            task set.
        samples: Calibration samples that are drawn per task.
        compensation: False leaves the weights as they are with data, too; or a `Compensation`
            with its options.
        seed: Seed of everything random.

    Returns:
        A model like `merge`'s. Where no set has changed it computes the same to the last bit.

    Raises:
        TypeError: the model is not a functional Keras model, or `task_sets` or `fuse` not a dict of
            lists.
        ValueError: it has fewer than two tasks, there is no such layer, sets are missing or too
            many, a set holds other tasks than the channel has, a task would be left with nothing to
            read, or channels that should become one cannot.

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> def model(classes):
    ...     return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden"),
    ...                              keras.layers.Dense(classes)])
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> models = {"digit": model(10), "speaker": model(6)}
    >>> merged = tfmot_pam.merge(models, x, method="shared", width="union", verbose=0)
    >>> sets = tfmot_pam.channel_task_sets(merged)
    >>> sets["hidden_shared"][:3] = [("digit",), ("speaker",), ()]
    >>> smaller = tfmot_pam.regroup(merged, sets, x)
    >>> tfmot_pam.cost(merged, "digit").macs, tfmot_pam.cost(smaller, "digit").macs
    (144, 108)
    """
    check_seed(seed)
    fit = compensation_options(compensation, seed)
    channels = _Channels(model)
    alignment, before = channels.alignment, channels.network
    try:
        masks = _checked(task_sets, channels)
        grouping = Grouping((masks,), _fused(fuse, masks, channels))
        assembly = assemble_anew(alignment, grouping)
    except IrregularLayout as error:
        raise ValueError(
            f"'{error.node}' combines channels that would have different task sets. Expected the "
            "same ones there. Give the channels of the layers before it the same sets."
        ) from error
    network = _with_task_sets(assembly.network, before)
    if data is not None and fit is not None:
        apart = [select(before, [task]) for task in alignment.tasks]
        by_task = dict.fromkeys(alignment.tasks, model)
        calibration = calibration_samples(by_task, apart, data, samples, seed)
        network = compensate(network, assembly.origins, [before], calibration.inputs, fit)
    return emit(network)


class _Channels:
    """The channels of a merged model, and which tasks need each."""

    def __init__(self, model: keras.Model):
        check_model(model, "`model`")
        self.network = read(model)
        tasks = tuple(network_heads(self.network))
        if len(tasks) < 2:
            raise ValueError(
                f"The model '{model.name}' has the tasks {list(tasks)}. Expected two or more, as "
                "merge() makes it. To remove channels of a single one, use prune_channels()."
            )
        graph = build_channel_graph(self.network)
        self.alignment = alone(tasks, graph)
        needed = tasks_of_nodes(self.network)
        self.masks = np.zeros(len(graph.space_of), int)
        for tensor, labels in graph.labels.items():
            self.masks[labels] |= needed[tensor.node]
        outputs = {
            label for t in iterate_tensors(self.network.outputs) for label in graph.labels[t]
        }
        self.free = [
            space
            for space in graph.spaces
            if not space.given and space.frozen is None and outputs.isdisjoint(space.channels)
        ]

    def names(self, mask: int) -> tuple[str, ...]:
        return tuple(self.alignment.tasks[t] for t in tasks_of(mask))

    def of(self, layer: Any, argument: str) -> Space:
        """The channels that a layer writes, if they can be taken apart."""
        for space in self.free:
            if layer in space.writers:
                return space
        known = [space.writers[0] for space in self.free]
        for space in self.alignment.graphs[0].spaces:
            if layer in space.writers and space.frozen:
                raise ValueError(
                    f"The channels of '{layer}' stay together: {space.frozen}. Expected layers "
                    f"among {known}. Leave it out."
                )
        raise ValueError(
            f"`{argument}` has an entry for {layer!r}. Expected layers among {known}. Use the "
            "names that channel_task_sets(model) returns."
        )


def _with_task_sets(network: Network, before: Network) -> Network:
    """The network with the tasks of the layers that it has made, where `before` had them, too."""
    reached = reached_tasks(network)
    return network.replace(
        layers={
            name: dataclasses.replace(layer, tasks=reached[name])
            if layer.tasks or (name in before.layers and before.layers[name].tasks)
            else layer
            for name, layer in network.layers.items()
        }
    )


def _checked(task_sets: Any, channels: _Channels) -> np.ndarray:
    """The task set of each channel of the network, as a mask."""
    if not isinstance(task_sets, Mapping):
        raise TypeError(
            "`task_sets` must be a dict of lists of task sets by layer. Received: "
            f"{task_sets!r} of type {type(task_sets).__name__}. Change what "
            "channel_task_sets(model) returns."
        )
    masks, given = channels.masks.copy(), dict[str, str]()
    for layer, sets in task_sets.items():
        space = channels.of(layer, "task_sets")
        other = given.setdefault(space.writers[0], layer)
        if other != layer:
            raise ValueError(
                f"'{other}' and '{layer}' write the same channels, and both received task sets. "
                "Expected them once. Leave one of them out."
            )
        masks[space.channels] = _masks(layer, sets, channels, channels.masks[space.channels])
    return masks


def _fused(fuse: Any, masks: np.ndarray, channels: _Channels) -> tuple[np.ndarray] | None:
    """A number for each channel of the network, the same for those that become one."""
    if fuse is None:
        return None
    if not isinstance(fuse, Mapping):
        raise TypeError(
            f"`fuse` must be a dict of lists of sets of channels by layer. Received: {fuse!r} of "
            f"type {type(fuse).__name__}. Pass such as {{'conv1_shared': [(0, 3)]}}."
        )
    numbers = np.arange(len(masks))
    places = places_of_channels(channels.alignment)[0]
    for layer, sets in fuse.items():
        own = channels.of(layer, "fuse").channels
        taken: set[int] = set()
        if not isinstance(sets, Sequence) or isinstance(sets, str):
            raise TypeError(
                f"`fuse` has {sets!r} of type {type(sets).__name__} for '{layer}'. Expected a list "
                "of sets of channels. Pass such as [(0, 3), (1, 4)]."
            )
        for wanted in sets:
            found = _places(layer, wanted, len(own), taken)
            taken |= set(found)
            together = own[found]
            if len(set(masks[together].tolist())) > 1:
                different = [channels.names(mask) for mask in masks[together].tolist()]
                raise ValueError(
                    f"The channels {found} of '{layer}' have the task sets {different}. Expected "
                    "the same one for channels that become one. Give it to them in `task_sets`."
                )
            if len(set(places[together].tolist())) > 1:
                raise ValueError(
                    f"The channels {found} of '{layer}' are not all read by the same layers. "
                    "Expected channels of the same tensors. Fuse others."
                )
            numbers[together] = together.min()
    return (numbers,)


def _places(layer: str, wanted: Any, width: int, taken: Collection[int]) -> list[int]:
    """The channels of one set, after they were found to be some of the layer's."""
    named = isinstance(wanted, Collection) and not isinstance(wanted, (str, Mapping))
    found = list(wanted) if named else []
    whole = all(isinstance(j, (int, np.integer)) and 0 <= j < width for j in found)
    if not whole or len(set(found)) < max(len(found), 2) or not set(found).isdisjoint(taken):
        raise ValueError(
            f"`fuse` has the set {wanted!r} for '{layer}'. Expected two channels or more out of 0 "
            f"to {width - 1}, each in one set only. Pass such as [(0, 3), (1, 4)]."
        )
    return sorted(int(j) for j in found)


def _masks(layer: str, sets: Any, channels: _Channels, present: np.ndarray) -> list[int]:
    """The task sets of a layer's channels as masks, after they were found to be parts of these."""
    if isinstance(sets, (str, Mapping)) or not isinstance(sets, Sequence):
        raise TypeError(
            f"The task sets of '{layer}' must be a list of one a channel. Received: {sets!r} of "
            f"type {type(sets).__name__}. Change what channel_task_sets(model) returns."
        )
    if len(sets) != len(present):
        raise ValueError(
            f"'{layer}' has {len(present)} channels. Received: {len(sets)} task sets. Expected one "
            "for each, the empty set for what goes. Change what channel_task_sets(model) returns."
        )
    masks = []
    for place, (wanted, before) in enumerate(zip(sets, present.tolist(), strict=True)):
        has = channels.names(before)
        named = isinstance(wanted, Collection) and not isinstance(wanted, str)
        if not named or not set(wanted) <= set(has):
            raise ValueError(
                f"Channel {place} of '{layer}' is needed by {has}. Received the task set "
                f"{wanted!r}. Expected some of these tasks, or none: sets can shrink, not grow. "
                "To share more, merge anew."
            )
        masks.append(mask_of([channels.alignment.tasks.index(task) for task in wanted]))
    return masks
