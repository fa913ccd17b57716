"""Gates: factors on channels where layers read them, so that a zero is the channel removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmot_pam.graph.channels import ChannelGraph, known_rule
from tfmot_pam.graph.following import follow_channels
from tfmot_pam.graph.network import Layer, Network, Node, Tensor, map_tensors, unique_name
from tfmot_pam.graph.slicing import with_scaled_rows
from tfmot_pam.graph.task_sets import tasks_of_nodes
from tfmot_pam.pruning.channels import PrunableChannels, PrunableSpace
from tfmot_pam.pruning.settings import PruningSettings

# VIBNet's starting values: a mean near 1 and hardly any noise (Dai et al., ICML 2018, section 5).
_MEAN_SPREAD = 0.01
_LOG_VARIANCE = -9.0


@keras.saving.register_keras_serializable(package="tfmot_pam")
class ChannelGates(keras.layers.Layer):
    """The gates of all prunable channels of a network; called wherever some of them are read.

    `prune_channels` puts it into a model and `strip_pruning` takes it out again.

    Args:
        groups: `[name, tasks, start, stop]` of each group of channels.
        places: For each place that it is called at, the channel of every position of the last
            axis, or -1 where a position has no gate.
        sizes: Positions in space of each group, which weigh the divergence of stochastic gates.
        tasks: The model's tasks.
        settings: How the model is pruned.
        stochastic: Whether gates are random while training (VIBNet).
        **kwargs: Keras layer arguments.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Any]],
        places: Mapping[str, Sequence[int]],
        sizes: Sequence[float],
        tasks: Sequence[str],
        settings: PruningSettings | Mapping[str, Any],
        stochastic: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.settings: PruningSettings = (
            keras.saving.deserialize_keras_object(settings)
            if isinstance(settings, Mapping)
            else settings
        )
        self.groups = [[name, list(of), start, stop] for name, of, start, stop in groups]
        self.places = {name: [int(p) for p in found] for name, found in places.items()}
        self.sizes = [float(size) for size in sizes]
        self.tasks = list(tasks)
        self.stochastic = stochastic
        self.noise = keras.random.SeedGenerator(self.settings.seed)
        self.supports_masking = True

    @property
    def channels(self) -> int:
        """The number of prunable channels."""
        return self.groups[-1][3]

    def build(self, input_shape: Any = None) -> None:
        def state(name: str, shape: tuple[int, ...], initializer: str = "zeros") -> Any:
            return self.add_weight(
                shape=shape, initializer=initializer, trainable=False, name=name, dtype="float32"
            )

        count, tasks = self.channels, len(self.tasks)
        self.mask = state("mask", (count,), "ones")
        # Squared gradients of each task, and the gradient of all, over the observed batches.
        self.observed = state("observed", (tasks + 1, count))
        self.observed_batches = state("observed_batches", ())
        self.average = state("average", (tasks + 1, count))
        self.averaged = state("averaged", ())
        self.starting_losses = state("starting_losses", (tasks,))
        self.observing = state("observing", ())
        if self.stochastic:
            self.mean = self.add_weight(
                shape=(count,),
                initializer=keras.initializers.RandomNormal(
                    1.0, _MEAN_SPREAD, seed=self.settings.seed
                ),
                name="mean",
                dtype="float32",
            )
            self.log_variance = self.add_weight(
                shape=(count,),
                initializer=keras.initializers.RandomNormal(
                    _LOG_VARIANCE, _MEAN_SPREAD, seed=self.settings.seed
                ),
                name="log_variance",
                dtype="float32",
            )

    def call(self, inputs: Any, place: str, training: bool | None = None) -> Any:
        index = np.array(self.places[place])
        gates = ops.convert_to_tensor(self.mask)
        if self.stochastic:
            gates = gates * self.mean
            if place == next(iter(self.places)):
                self.add_loss(self.settings.kl_weight * self.divergence())
        if self.stochastic and training:
            batch = ops.shape(inputs)[0]
            noise = keras.random.normal((batch, self.channels), seed=self.noise)
            gates = gates + self.mask * ops.exp(0.5 * self.log_variance) * noise
        gates = ops.pad(gates, [(0, 0)] * (len(gates.shape) - 1) + [(0, 1)], constant_values=1.0)
        gates = ops.take(gates, index % (self.channels + 1), axis=-1)
        if len(gates.shape) > 1:
            gates = ops.reshape(gates, (-1, *(1,) * (len(inputs.shape) - 2), len(index)))
        return inputs * ops.cast(gates, inputs.dtype)

    def observe(self, gradients: Any) -> None:
        """Adds squares and sum of each task's gradients by the gates, `[tasks, channels]`."""
        total = ops.sum(gradients, axis=0, keepdims=True)
        self.observed.assign_add(ops.concatenate([ops.square(gradients), total]))
        self.observed_batches.assign_add(self.observing)

    def divergence(self) -> Any:
        """1/2 sum_j size_j log(1 + mu_j^2 / sigma_j^2) over the channels that are left."""
        sizes = np.repeat(self.sizes, [stop - start for _, _, start, stop in self.groups])
        ratio = ops.square(self.mean) * ops.exp(-self.log_variance)
        return 0.5 * ops.sum(ops.convert_to_tensor(sizes, "float32") * self.mask * ops.log1p(ratio))

    def compute_output_spec(self, inputs: Any, place: str, training: bool | None = None) -> Any:
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "groups": self.groups,
            "places": self.places,
            "sizes": self.sizes,
            "tasks": self.tasks,
            "settings": self.settings,
            "stochastic": self.stochastic,
        }


def insert_gates(
    prunable: PrunableChannels, settings: PruningSettings, stochastic: bool = False
) -> Network:
    """The network with a gate on every tensor that a mixing layer reads.

    Args:
        prunable: The network and its prunable channels.
        settings: How it is pruned.
        stochastic: Whether the gates are VIBNet's.

    Returns:
        The gated network, which computes the same as long as all gates are 1.
    """
    network, places = prunable.network, prunable.reading_places()
    layer = _gates_layer(prunable, settings, stochastic, places)
    nodes: list[Node] = []
    gated: dict[Tensor, Tensor] = {}
    for node in network.nodes:
        if prunable.graph.roles[node.name] == "mixing":
            node = dataclasses.replace(
                node, args=map_tensors(node.args, lambda tensor: gated.get(tensor, tensor))
            )
        nodes.append(node)
        for tensor in node.outputs:
            if tensor in places:
                name = f"{layer.name}@{len(gated)}" if gated else layer.name
                nodes.append(
                    Node(
                        name,
                        layer.name,
                        (tensor,),
                        {"place": _place(tensor)},
                        (network.shape(tensor),),
                    )
                )
                gated[tensor] = Tensor(name)
    layers = {**network.layers, layer.name: layer}
    return network.replace(layers=layers, nodes=tuple(nodes))


def _gates_layer(
    prunable: PrunableChannels,
    settings: PruningSettings,
    stochastic: bool,
    places: Mapping[Tensor, np.ndarray],
) -> Layer:
    sizes, network = np.ones(len(prunable.groups)), settings.sized(prunable).network
    for tensor, positions in places.items():
        area = int(np.prod([size or 1 for size in network.shape(tensor)[1:-1]]))
        for index, group in enumerate(prunable.groups):
            if np.any((positions >= group.start) & (positions < group.stop)):
                sizes[index] = max(sizes[index], area)
    name = unique_name("channel_gates", prunable.network.layers)
    config = {
        "groups": [[g.name, list(g.tasks), g.start, g.stop] for g in prunable.groups],
        "places": {_place(tensor): found.tolist() for tensor, found in places.items()},
        "sizes": sizes.tolist(),
        "tasks": list(prunable.tasks),
        "settings": settings,
        "stochastic": stochastic,
    }
    return Layer(name, ChannelGates, config, {})


def _place(tensor: Tensor) -> str:
    return f"{tensor.node}:{tensor.index}"


def gates_of(network: Network) -> Layer | None:
    """The gates of a network, or None."""
    return next((f for f in network.layers.values() if issubclass(f.cls, ChannelGates)), None)


@dataclasses.dataclass(frozen=True, eq=False)
class Ungated:
    """A gated network without its gates.

    Args:
        graph: The channel graph of the network that is left.
        numbers: For each gate, the number of its channel in the graph.
        mask: Whether each gate is open.
        gates: The layer that was taken out.
    """

    graph: ChannelGraph
    numbers: np.ndarray
    mask: np.ndarray
    gates: Layer

    @property
    def keep(self) -> np.ndarray:
        """Whether each channel of the graph is on."""
        result = np.ones(len(self.graph.space_of), bool)
        result[self.numbers] = self.mask
        return result

    def prunable(self) -> PrunableChannels:
        """The network's prunable channels, numbered like the gates."""
        groups = tuple(PrunableSpace(name, tuple(of), a, b) for name, of, a, b in self.groups)
        nodes = tasks_of_nodes(self.graph.network)
        tasks = tuple(self.gates.config["tasks"])
        return PrunableChannels(self.graph, tasks, groups, self.numbers, {}, nodes)

    @property
    def groups(self) -> list[list[Any]]:
        return self.gates.config["groups"]


def remove_gates(network: Network) -> Ungated:
    """Takes the gates out; what random ones multiply by goes into the layers that read it.

    Args:
        network: A gated network.

    Raises:
        ValueError: it has no gates.
    """
    gates = gates_of(network)
    if gates is None:
        raise ValueError(
            f"The model '{network.name}' has no gates. Expected a model from prune_channels(). "
            "TFMOT's own wrappers are taken off by TFMOT's strip_pruning."
        )
    aliases: dict[Tensor, Tensor] = {}
    positions: dict[Tensor, np.ndarray] = {}
    nodes = []
    for node in network.nodes:
        if node.layer == gates.name:
            (tensor,) = node.inputs
            aliases[Tensor(node.name)] = tensor
            positions[tensor] = np.array(gates.config["places"][node.kwargs["place"]])
            continue
        args = map_tensors(node.args, lambda tensor: aliases.get(tensor, tensor))
        nodes.append(dataclasses.replace(node, args=args))
    layers = {name: layer for name, layer in network.layers.items() if name != gates.name}
    plain = network.replace(layers=layers, nodes=tuple(nodes))
    graph = follow_channels(plain)
    numbers = np.zeros(len(gates.weights["mask"]), int)
    spaces = {space.name: space for space in graph.spaces}
    for name, _, start, stop in gates.config["groups"]:
        if name in spaces and spaces[name].width == stop - start:
            # Channels that no layer reads have a gate, but no place where it stands.
            numbers[start:stop] = spaces[name].channels
    for tensor, found in positions.items():
        gated = found >= 0
        numbers[found[gated]] = graph.labels[tensor][gated]
    if gates.config["stochastic"]:
        plain = _folded(graph, positions, gates.weights["mean"])
        graph = graph.of(plain)
    return Ungated(graph, numbers, gates.weights["mask"] > 0, gates)


def _folded(
    graph: ChannelGraph, positions: Mapping[Tensor, np.ndarray], mean: np.ndarray
) -> Network:
    """Multiplies the weights that read a gated tensor by the gates' means: exactly the same."""
    layers, done = dict(graph.network.layers), set()
    calls = graph.network.calls()
    for node in graph.network.nodes:
        if graph.roles[node.name] != "mixing" or node.inputs[0] not in positions:
            continue
        if node.layer in done:  # All calls of a layer read the same channels.
            continue
        done.add(node.layer)
        found = positions[node.inputs[0]]
        factors = np.where(found >= 0, mean[found], 1.0)
        call = graph.call(node, calls)
        layers[node.layer] = with_scaled_rows(known_rule(call), call, factors).layer
    return graph.network.replace(layers=layers)
