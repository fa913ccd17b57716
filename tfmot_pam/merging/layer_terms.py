"""Layers of several networks side by side: second moments of their inputs, and their weights."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy.linalg

from tfmot_pam.closed_form import linear
from tfmot_pam.closed_form.compensate import Compensation, choose_samples
from tfmot_pam.closed_form.fused import affine_of, norm_behind
from tfmot_pam.closed_form.sampled import Sampled
from tfmot_pam.graph.channels import known_rule
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.network import Layer, Tensor
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.graph.rules import Call
from tfmot_pam.graph.runner import Stepper
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.matching import Members

_PLACES, _PER_FEATURE = 4096, 2
_RIDGE = 1e-6  # of the mean squared input: keeps moments of few samples regular


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """One layer of several networks, with inputs that correspond.

    Args:
        moments: For each network the second moments of its inputs, the constant 1 last, in units of
            the mean variance of a channel that the layer writes.
        weights: For each network the incoming weights of the channels of the space that it writes,
            the bias last: `[parts, inputs, channels]`. Several parts are several positions of a
            channel.
    """

    moments: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Layer:
    """What one network's layer reads, and how it weighs it.

    Args:
        features: `[places, features]`.
        weights: `[parts, features, outputs]`; parts are added up.
        bias: `[outputs]`, of each part.
    """

    features: np.ndarray
    weights: np.ndarray
    bias: np.ndarray


class LayerTerms:
    """Reads the layers of the common trunk one after the other, from the input on.

    Args:
        alignment: The aligned networks.
        inputs: For each network, inputs of its task.
        seed: Seed of the choice of samples and places.
    """

    def __init__(self, alignment: Alignment, inputs: Sequence[Inputs], seed: int):
        self.alignment = alignment
        self.rng = np.random.default_rng(seed)
        networks, options = list(alignment.networks), Compensation(seed=seed)
        chosen = {id(x): choose_samples(networks, x, options) for x in inputs}
        self.inputs = [chosen[id(x)] for x in inputs]
        self.steppers = [Stepper(n, x) for n, x in zip(networks, self.inputs, strict=True)]
        # The first network on the others' inputs: what it does to them all will read.
        self.firsts = {id(self.inputs[0]): self.steppers[0]}
        self.readers = [network.readers() for network in networks]
        self.numbers = self._numbers()

    def _numbers(self) -> list[np.ndarray]:
        """A number for each channel of each network, the same for those that correspond."""
        sizes = [len(graph.space_of) for graph in self.alignment.graphs]
        starts = np.cumsum([0, *sizes])
        numbers = [start + np.arange(size) for start, size in zip(starts, sizes, strict=False)]
        if self.alignment.identical is not None:
            numbers = [-1 - own for own in self.alignment.identical]
        for space in self.alignment.spaces:
            if space.given and len(set(space.widths)) == 1:
                for own, channels in zip(numbers, space.channels, strict=True):
                    own[channels] = starts[-1] + space.channels[0]
        return numbers

    def match(self, index: int, classes: Sequence[Members]) -> None:
        """Takes channels of a space for the same from now on."""
        channels = self.alignment.spaces[index].channels
        for members in classes:
            lead, first = members[0]
            number = self.numbers[lead][channels[lead][first]]
            for k, channel in members[1:]:
                self.numbers[k][channels[k][channel]] = number

    def of(self, names: Sequence[str], index: int) -> list[Term]:
        """The term of corresponding nodes for a space that they write, or none.

        There is none for layers without weights, and where no inputs correspond.
        """
        calls = [self.alignment.call(k, name) for k, name in enumerate(names)]
        if not all(is_weighed(call) for call in calls):
            return []
        moments, weights, variances = [], [], []
        keys = [self._keys(k, call) for k, call in enumerate(calls)]
        common = sorted(set.intersection(*(set(own) for own in keys)))
        if not common:
            return []
        for k, call in enumerate(calls):
            places = self._places(k, call)
            own = _read(call, Sampled(self.steppers[k], call.node.name, places), self.rng)
            position = {key: number for number, key in enumerate(keys[k])}
            chosen = np.array([position[key] for key in common])
            seen = own.features[:, chosen]
            if k and self._reads_input(k, call):
                first = Sampled(self._first_on(k), calls[0].node.name, places)
                position = {key: number for number, key in enumerate(keys[0])}
                order = [position[key] for key in common]
                seen = _read(calls[0], first, self.rng).features[:, order]
            moment, matrices, variance = _on(seen, chosen, self._folded(k, call, own))
            moments.append(moment)
            variances.append(variance)
            weights.append(self._by_channel(k, call, matrices, index))
        level = max(float(np.mean(variances)), 1e-30)
        return [Term(tuple(moment / level for moment in moments), tuple(weights))]

    def _keys(self, k: int, call: Call) -> list[tuple[int, int]]:
        """The features of a layer, each by the number of its channel and its rank among those."""
        positions = _channels_of_features(call)
        if positions is None:
            return [(0, feature) for feature in range(int(np.prod(call.config["kernel_size"])))]
        labels = self.alignment.graphs[k].labels[call.node.inputs[0]]
        times: Counter = Counter()
        keys = []
        for number in self.numbers[k][labels[positions]].tolist():
            keys.append((number, times[number]))
            times[number] += 1
        return keys

    def _places(self, k: int, call: Call) -> np.ndarray:
        """The output places of a layer at which its inputs are looked at."""
        shape = self.steppers[k].shape(call.node.name)
        grid = _form(call).grid(call.layer, shape)
        positions = _channels_of_features(call)
        wanted = max(_PLACES, 0 if positions is None else _PER_FEATURE * len(positions))
        return linear.sample_places(shape[0], grid, wanted, self.rng)

    def _reads_input(self, k: int, call: Call) -> bool:
        graph = self.alignment.graphs[k]
        return all(graph.spaces[index].given for index in graph.spaces_of(call.node.inputs[0]))

    def _first_on(self, k: int) -> Stepper:
        x = self.inputs[k]
        if id(x) not in self.firsts:
            self.firsts[id(x)] = Stepper(self.alignment.networks[0], x)
        return self.firsts[id(x)]

    def _folded(self, k: int, call: Call, own: _Layer) -> _Layer:
        """The layer together with the batch norm that follows it."""
        norm = norm_behind(self.alignment.networks[k], self.readers[k], call.node.name)
        if norm is None:
            return own
        scale, offset = affine_of(norm)
        bias = own.bias * scale + offset / len(own.weights)
        return dataclasses.replace(own, weights=own.weights * scale, bias=bias)

    def _by_channel(self, k: int, call: Call, matrices: np.ndarray, index: int) -> np.ndarray:
        """Matrices `[parts, inputs, outputs]` with a column for each channel of a space.

        The second output of a channel is a part more, and so on. Channels that the layer does not
        write have weights of 0.
        """
        channels = self.alignment.spaces[index].channels[k]
        labels = self.alignment.graphs[k].labels[Tensor(call.node.name)]
        columns = np.searchsorted(channels, labels)
        ranks, times = np.zeros(len(labels), int), Counter[int]()
        for place, label in enumerate(labels.tolist()):
            ranks[place] = times[label]
            times[label] += 1
        parts, rows, _ = matrices.shape
        result = np.zeros((ranks.max() + 1, parts, rows, len(channels)))
        inside = np.isin(labels, channels)
        for rank in range(len(result)):
            chosen = inside & (ranks == rank)
            result[rank][..., columns[chosen]] = matrices[..., chosen]
        return result.reshape(-1, rows, len(channels))


def _on(seen: np.ndarray, chosen: np.ndarray, own: _Layer) -> tuple[np.ndarray, np.ndarray, float]:
    """A layer on the inputs that correspond to other networks'.

    Args:
        seen: These inputs, `[places, inputs]`.
        chosen: Which of the layer's features they are.
        own: The layer.

    Returns:
        Their second moments with the constant 1, the weights and the bias that come closest to the
        layer on them, `[parts, inputs + 1, outputs]`, and the mean variance of its outputs.
    """
    seen = np.column_stack([seen, np.ones(len(seen))]).astype(float)
    moment = seen.T @ seen / len(seen)
    moment[np.diag_indices(len(moment))] += _RIDGE * np.trace(moment) / len(moment)
    computed = [own.features @ part for part in own.weights]
    variance = float(sum(part.var(axis=0).mean() for part in computed))
    exact = len(chosen) == own.features.shape[1] and np.allclose(
        seen[:, :-1], own.features[:, chosen], rtol=1e-5, atol=1e-6
    )
    if exact:
        matrices = own.weights[:, chosen]
    else:
        cross = [seen.T @ part / len(seen) for part in computed]
        matrices = np.stack([scipy.linalg.solve(moment, part, assume_a="pos") for part in cross])
    bias = np.zeros((len(matrices), 1, len(own.bias)))
    bias[:] = own.bias
    if exact:
        matrices = np.concatenate([matrices, bias], axis=1)
    else:
        matrices[:, -1:] += bias
    return moment, matrices, variance


def _form(call: Call) -> linear.LinearForm:
    """How a layer's inputs are read."""
    if computes_like(call.layer).startswith("DepthwiseConv"):
        return linear.LINEAR_FORMS["Conv2D"]
    return linear.linear_form(call.layer) or linear.LINEAR_FORMS["Dense"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Kernel:
    """The one weight that leads from the inputs of a layer to its outputs, and its axes."""

    weight: np.ndarray
    inputs: int
    outputs: int
    fanout: int


def _kernel(call: Call) -> _Kernel | None:
    rule = known_rule(call)
    if rule.role != "mixing" or rule.frozen is not None:
        return None
    found = [
        _Kernel(call.layer.weights[name], axes.inputs, axes.outputs, axes.fanout(call.config))
        for name, axes in rule.weights.items()
        if axes.inputs is not None and axes.outputs is not None and name in call.layer.weights
    ]
    return found[0] if len(found) == 1 else None


def is_weighed(call: Call) -> bool:
    """Whether a layer has weights by which its channels can be compared."""
    return computes_like(call.layer).startswith("DepthwiseConv") or _kernel(call) is not None


def _channels_of_features(call: Call) -> np.ndarray | None:
    """For each feature of a layer the position of its channel on the layer's input axis.

    None for depthwise convolutions, whose features are places of the kernel.
    """
    kernel, size = _kernel(call), call.in_shape[-1]
    if kernel is None:
        return None
    if linear.linear_form(call.layer) is None:
        return np.arange(size)
    shape = np.ones(kernel.weight.ndim, int)
    shape[kernel.inputs] = -1
    positions = np.repeat(np.arange(size), kernel.fanout).reshape(shape)
    spread = np.broadcast_to(positions, kernel.weight.shape)
    return np.moveaxis(spread, kernel.outputs, -1)[..., 0].ravel()


def _read(call: Call, sampled: Sampled, rng: np.random.Generator) -> _Layer:
    """What a layer reads at sampled places, and its weights."""
    layer, kernel = call.layer, _kernel(call)
    form = linear.linear_form(layer)
    if kernel is None:
        return _read_depthwise(layer, sampled, rng)
    if form is not None:
        features = form.features(layer, sampled.read(form, layer))
        weights, bias = linear.matrix(form, layer)[None], linear.bias(form, layer)
    else:
        # Transposed convolutions and the like: inputs as they are, a part for each kernel place.
        parts = np.moveaxis(kernel.weight, (kernel.inputs, kernel.outputs), (-2, -1))
        features = sampled.read(linear.LINEAR_FORMS["Dense"], layer)
        weights, bias = parts.reshape(-1, *parts.shape[-2:]), layer.weights.get("bias")
        bias = None if bias is None else bias / len(weights)
    if bias is None:
        bias = np.zeros(weights.shape[-1])
    return _Layer(features, weights.astype(float), bias.astype(float))


def _read_depthwise(layer: Layer, sampled: Sampled, rng: np.random.Generator) -> _Layer:
    """The patches of all channels one under the other, of which some are taken."""
    kernel = layer.weights["kernel"]
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    patches = sampled.patches(layer)(slice(0, kernel.shape[1]))
    rows = patches.swapaxes(1, 2).reshape(-1, kernel.shape[0])
    if len(rows) > _PLACES:
        rows = rows[np.sort(rng.choice(len(rows), _PLACES, replace=False))]
    bias = layer.weights.get("bias", np.zeros(kernel.shape[1] * kernel.shape[2]))
    weights = kernel.reshape(1, kernel.shape[0], -1).astype(float)
    return _Layer(rows, weights, bias.astype(float))
