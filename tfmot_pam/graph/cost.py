"""What a network costs: multiply-accumulates, the paper's FLOPs, parameters."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Sequence

import keras

from tfmot_pam.graph.channels import rule_of
from tfmot_pam.graph.generation import read_model
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.rules import Call, call_of
from tfmot_pam.graph.selection import select, sums_by_combination, task_names
from tfmot_pam.graph.sizes import InputShape, is_of_open_size, sized
from tfmot_pam.graph.task_sets import tasks_of_layers, tasks_of_nodes

# Weights that the paper's parameter counts include: kernels, not biases or statistics.
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """The cost of one call of a layer, per sample.

    Args:
        name: The node's name.
        kind: The layer's class.
        tasks: The tasks that need it, None where the model does not say.
        macs: Multiply-accumulate operations.
        flops: Operations in the paper's convention, 2 macs - outputs.
        parameters: Weights of all kinds; 0 for repeated calls of a layer.
        kernel_parameters: Weights without biases and normalisation.
    """

    name: str
    kind: str
    tasks: tuple[str, ...] | None
    macs: int
    flops: int
    parameters: int
    kernel_parameters: int


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """The cost of a network per sample: totals, per layer, and what could not be counted.

    Args:
        per_layer: One entry a node that has parameters or operations.
        unsupported: For each node whose operations are not counted, the reason.
    """

    per_layer: tuple[LayerCost, ...]
    unsupported: dict[str, str]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.per_layer)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.per_layer)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.per_layer)

    @property
    def kernel_parameters(self) -> int:
        return sum(layer.kernel_parameters for layer in self.per_layer)


def network_cost(network: Network) -> NetworkCost:
    """Counts a network's cost layer by layer, from the rules of the channel graph."""
    layers, unsupported, counted = [], {}, set()
    calls = network.calls()
    for node in network.nodes:
        macs, outputs, reason = operations(call_of(network, node, calls))
        if reason is not None:
            unsupported[node.name] = reason
        weights = {} if node.layer in counted else network.layer_of(node).weights
        counted.add(node.layer)
        sizes = {name: math.prod(weight.shape) for name, weight in weights.items()}
        cost = LayerCost(
            name=node.name,
            kind=network.layer_of(node).kind,
            tasks=network.layer_of(node).tasks,
            macs=macs,
            flops=2 * macs - outputs,
            parameters=sum(sizes.values()),
            kernel_parameters=sum(size for name, size in sizes.items() if _is_kernel(name)),
        )
        if cost.macs or cost.parameters:
            layers.append(cost)
    return NetworkCost(tuple(layers), unsupported)


@dataclasses.dataclass(frozen=True)
class Totals:
    """What one combination of tasks costs per sample, as `LayerCost` counts it."""

    macs: int
    flops: int
    parameters: int


def combination_totals(network: Network) -> dict[tuple[str, ...], Totals]:
    """What the smallest network of every combination costs, without making it."""
    tasks, needed = task_names(network), tasks_of_nodes(network)
    costs = network_cost(network).per_layer
    macs = sums_by_combination(tasks, needed, {cost.name: cost.macs for cost in costs})
    flops = sums_by_combination(tasks, needed, {cost.name: cost.flops for cost in costs})
    # The first call of a layer counts its weights, which any of its calls needs.
    weights = {network.node(cost.name).layer: cost.parameters for cost in reversed(costs)}
    parameters = sums_by_combination(tasks, tasks_of_layers(network), weights)
    return {
        chosen: Totals(int(macs[chosen]), int(flops[chosen]), int(parameters[chosen]))
        for chosen in macs
    }


def _is_kernel(name: str) -> bool:
    # Repeated names within a layer are numbered: kernel, kernel_1, ...
    return re.sub(r"_\d+$", "", name) in _KERNELS


def operations(call: Call) -> tuple[int, int, str | None]:
    """Multiply-accumulates and outputs of one call, and why they are not counted, or None."""
    layer = call.layer
    if issubclass(layer.cls, keras.layers.InputLayer):
        return 0, 0, None
    rule = rule_of(call)
    if rule is None:
        return 0, 0, f"there is no rule for {layer.kind}"
    if rule.macs is None:
        reason = f"the rule of {layer.kind} counts no operations"
        return 0, 0, reason if rule.role == "mixing" else None
    if call.config.get("data_format") == "channels_first":
        return 0, 0, "its data format is channels_first"
    if is_of_open_size(call):
        shapes = (*call.in_shapes, call.out_shape)
        return 0, 0, f"the sizes of its input or output are not fixed: {shapes}"
    counted = rule.macs(call)
    return counted.macs, counted.outputs, None


def warn_of_uncounted(network: Network) -> None:
    """Warns of layers with weights that no rule counts: to a budget they cost nothing."""
    uncounted = [network.node(name) for name in network_cost(network).unsupported]
    found = {
        node.layer: network.layer_of(node).kind
        for node in uncounted
        if network.layer_of(node).weights
    }
    if found:
        warnings.warn(
            f"What these layers compute is not counted: {found}. A budget or price in "
            "multiply-accumulates takes it for nothing. Give their class a rule that counts it, "
            "with tfmot_pam.register_layer_rule, if it is much.",
            stacklevel=3,
        )


def cost(
    model: keras.Model,
    tasks: Sequence[str] | str | None = None,
    *,
    input_shape: InputShape | None = None,
) -> NetworkCost:
    """Counts what a model, or one combination of its tasks, costs per sample.

    Normalisation, activations and pooling count no operations; layers that are not understood are
    listed, never silently 0.

    Source: FLOPs as in PAM (He et al., KDD 2021, section 5): a convolution costs
    (2 k_h k_w C_in - 1) H W C_out, a dense layer (2 n_in - 1) n_out, nothing else counts.

    Args:
        model: Any functional or sequential model, Keras 3 or tf_keras.
        tasks: Names of the tasks that run, for a model whose outputs are a dict by task.
        input_shape: The shape of the input, without the samples' axis, of a model that takes
            images or sequences of any size; of several inputs a dict by name.

    Returns:
        The cost: `.macs`, `.flops` (paper's convention), `.parameters`, `.kernel_parameters`,
        `.per_layer` and `.unsupported`.

    Raises:
        TypeError: `model` is no functional or sequential Keras model.
        ValueError: it is not built, a task is unknown, or the model takes any size and no
            `input_shape` that fits is given.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((4,))
    >>> tfmot_pam.cost(keras.Model(x, keras.layers.Dense(3)(x))).macs
    12
    """
    network = sized(read_model(model), input_shape)
    return network_cost(network if tasks is None else select(network, tasks))
