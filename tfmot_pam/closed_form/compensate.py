"""Compensation: what cuts in a network took away is fitted back, in closed form.

Layer by layer from the input on, with what the cut network really computes below, every kept
channel's original pre-activation is fitted from all inputs that its group may read. The solution
is sought near the trained weights: minimise |(W0 + D) x + b - z|^2 + lambda |D|^2. Where nothing
was cut the residual is zero and so is the change. Unless it is given, lambda is what does best on
samples that the fit has not seen, for every layer by itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from tfmot_pam.closed_form import linear
from tfmot_pam.closed_form.fused import Affine, affine_of, fitted_norm, joint_targets, norm_behind
from tfmot_pam.closed_form.sampled import Sampled, mean_outputs
from tfmot_pam.graph.arguments import check_number, check_seed, check_whole
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.inputs import count, lazy_rows
from tfmot_pam.graph.network import Layer, Network, Node
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.graph.runner import Made, Stepper, peak_floats
from tfmot_pam.graph.slicing import Origin

# Residuals below this share of the target are rounding, not a cut.
_ROUNDING = 1e-5

_LEAST_SAMPLES = 64
_KEPT = 4  # times the memory that is asked for, before activations are computed anew

_DEPTHWISE_RIDGE = 1e-3  # a kernel has few features, and many places

# Kernels that no closed form fits here: transposed and grouped convolutions.
_BIAS_ONLY = frozenset(
    f"Conv{rank}{kind}" for rank in ("1D", "2D", "3D") for kind in ("", "Transpose")
)

# Places and the pre-activations there, by the number of an original and its node.
Known = MutableMapping[tuple[int, str], tuple[np.ndarray, np.ndarray]]
# The originals that a node's channels come from, each with its node; pre-activations at places.
_Owners = Mapping[int, str]
_Compute = Callable[[Layer, Sampled], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Compensation:
    """How compensation is computed.

    Args:
        places: Output places per layer that are fitted.
        ridge: Strength of the pull towards the trained weights, relative to the mean squared
            feature; None chooses it for every layer, by samples that are held out.
        memory: Bytes that the activations of all networks may take. As many samples are taken as
            that allows, and at least 64, of whose activations up to four times as much is kept;
            what does not fit is computed anew when it is needed.
        seed: Seed of the choice of samples and places.

    Raises:
        TypeError: one of them is no number.
        ValueError: one of them is out of range.
    """

    places: int = 4096
    ridge: float | None = None
    memory: int = 1 << 30
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("places", self.places)
        check_whole("memory", self.memory)
        check_seed(self.seed)
        if self.ridge is not None:
            check_number(
                "ridge",
                self.ridge,
                "at least 0",
                lambda ridge: 0 <= ridge < math.inf,
                "Leave it out: it is then chosen for every layer.",
            )


def compensation_options(value: Any, seed: int) -> Compensation | None:
    """How weights are compensated, by what the user said; None where they are not.

    Args:
        value: True or False, or the options.
        seed: Seed of the options where there are none.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, (bool, np.bool_, Compensation)):
        raise TypeError(
            "`compensation` must be True, False or a tfmot_pam.Compensation. Received: "
            f"{value!r} of type {type(value).__name__}. Leave it out for True."
        )
    if isinstance(value, Compensation):
        return value
    return Compensation(seed=seed) if value else None


def compensate(
    network: Network,
    origins: Mapping[str, Origin],
    originals: Sequence[Network],
    x: Inputs,
    options: Compensation,
    progress: Callable[[float], None] = lambda fraction: None,
    *,
    known: Known | None = None,
    own: np.ndarray | None = None,
    made: Made | None = None,
) -> Network:
    """Refits the weights of a cut network to the original networks' pre-activations.

    Args:
        network: The network that was put together from others, or cut out of one.
        origins: By node, where its weights come from.
        originals: The networks that they come from.
        x: Calibration inputs `[samples, ...]`, from the training split; of several a dict by
            name.
        options: See `Compensation`.
        progress: Called with the share of the work done, 0 to 1.
        known: Keeps what the originals compute on these inputs, for further networks that are cut
            out of them.
        own: Whether the inputs are of each original's data, `[samples, originals]`: a channel that
            several became is fitted to each on its own. None where all are of all.
        made: Layers of the originals, see `Made`.

    Returns:
        The same network with other weights; layers without a bias get one, or their batch
        normalisation takes the intercept.
    """
    fitting = _Fitting(network, originals, x, options, known, own, made)
    for done, node in enumerate(network.nodes):
        if node.name in origins:
            fitting.refit(node, origins[node.name])
        progress((done + 1) / len(network.nodes))
    layers = {name: fitting.cut.layer(name) for name in network.layers}
    return network.replace(layers=layers)


def choose_samples(networks: list[Network], x: Inputs, options: Compensation) -> Inputs:
    """As many samples as the activations' memory allows, at least 64."""
    chosen = _chosen_samples(networks, count(x), options)
    return x if chosen is None else lazy_rows(x, chosen)


def _chosen_samples(
    networks: list[Network], samples: int, options: Compensation
) -> np.ndarray | None:
    """The numbers of the samples that are taken; None for all."""
    floats = sum(peak_floats(network) for network in networks)
    most = max(_LEAST_SAMPLES, options.memory // (4 * max(floats, 1)))
    if samples <= most:
        return None
    rng = np.random.default_rng(options.seed)
    return np.sort(rng.choice(samples, size=most, replace=False))


class _Fitting:
    """The cut network and the originals, run side by side."""

    def __init__(
        self,
        network: Network,
        networks: Sequence[Network],
        x: Inputs,
        options: Compensation,
        known: Known | None,
        own: np.ndarray | None,
        made: Made | None,
    ):
        chosen = _chosen_samples([network, *networks], count(x), options)
        x = x if chosen is None else lazy_rows(x, chosen)
        self.own = own if own is None or chosen is None else own[chosen]
        self.network = network
        self.networks = networks
        self.options = options
        self.known = known
        self.rng = np.random.default_rng(options.seed)
        floats = [peak_floats(each) for each in (network, *networks)]
        memory = _KEPT * options.memory
        shares = [memory * own / max(sum(floats), 1) for own in floats]
        self.cut = Stepper(network, x, memory=shares[0])
        self.originals = [
            Stepper(each, x, memory=share, made=made)
            for each, share in zip(networks, shares[1:], strict=True)
        ]
        self.readers = network.readers()
        self.readers_of = [each.readers() for each in networks]

    def refit(self, node: Node, origin: Origin) -> None:
        layer = self.cut.layer(node.layer)
        nets = [k for k in sorted(origin.columns.owners()) if k >= 0]
        owners = {k: name for k in nets if (name := origin.nodes[k]) is not None}
        if not owners or not layer.weights or len(owners) < len(nets):
            return
        form, kind = linear.linear_form(layer), computes_like(layer)
        if form is not None and origin.role == "mixing":
            self._refit_mixing(form, node, layer, origin, owners)
        elif kind.startswith("DepthwiseConv"):
            self._refit_depthwise(node, layer, origin, owners)
        elif kind == "BatchNormalization" and origin.columns.fused:
            self._refit_norm(node, layer, origin, owners)
        elif "bias" in layer.weights and kind in _BIAS_ONLY:
            self._refit_bias(node, layer, origin, owners)

    def _places(self, form: linear.LinearForm, node: Node, layer: Layer) -> np.ndarray:
        """The output places of a layer that are fitted."""
        shape = self.cut.shape(node.name)
        grid = form.grid(layer, shape)
        return linear.sample_places(shape[0], grid, self.options.places, self.rng)

    def _wanted(
        self,
        origin: Origin,
        owners: _Owners,
        places: np.ndarray,
        compute: _Compute,
        behind: bool = True,
    ) -> np.ndarray:
        """What the originals compute at some places, for the channels that are left.

        Channels that became one are compared behind the batch norms that follow, if `behind`.
        """
        wanted = np.empty((len(places), len(origin.columns)), np.float32)

        @functools.cache
        def computed(k: int) -> np.ndarray:
            return self._computed((k, owners[k]), places, compute)

        for k in owners:
            own = origin.columns.nets == k
            if own.any():
                wanted[:, own] = computed(k)[:, origin.columns.positions[own]]
        if not origin.columns.fused:
            return wanted
        norms = {}
        if behind:
            norms = {
                k: norm_behind(self.networks[k], self.readers_of[k], name)
                for k, name in owners.items()
            }
        affine: dict[int, Affine] = {}
        if None not in norms.values():
            affine = {k: affine_of(norm) for k, norm in norms.items() if norm is not None}
        return joint_targets(
            origin.columns,
            wanted,
            computed,
            affine,
            None if self.own is None else self.own[places[:, 0]],
        )

    def _computed(self, key: tuple[int, str], places: np.ndarray, compute: _Compute) -> np.ndarray:
        if self.known is not None and key in self.known:
            # Networks that lack a layer, or leave less memory for samples, see other places.
            before, found = self.known[key]
            if np.array_equal(before, places):
                return found
        k, name = key
        layer = self.networks[k].layer_of(self.networks[k].node(name))
        found = compute(layer, Sampled(self.originals[k], name, places))
        if self.known is not None:
            self.known[key] = places, found
        return found

    def _refit_mixing(
        self, form: linear.LinearForm, node: Node, layer: Layer, origin: Origin, owners: _Owners
    ) -> None:
        places = self._places(form, node, layer)

        def compute(original: Layer, sampled: Sampled) -> np.ndarray:
            return linear.pre_activation(form, original, sampled.read(form, original))

        if form.whole:  # of one network, as recurrent layers are never put together
            wanted = self._computed(next(iter(owners.items())), places, compute)
        else:
            wanted = self._wanted(origin, owners, places, compute)
        features = form.features(layer, Sampled(self.cut, node.name, places).read(form, layer))
        residual = wanted - features @ linear.matrix(form, layer)
        bias = linear.bias(form, layer)
        if bias is not None:
            residual -= bias
        if _negligible(residual, wanted):
            return
        if self.options.ridge is None:
            change, intercept = linear.fit_held_out(features, residual, places[:, 0])
        else:
            change, intercept = linear.fit(features, residual, self.options.ridge)
        if form.whole:
            self.cut.change(linear.changed(form, layer, change, intercept))
        else:
            self._shift(node, linear.changed(form, layer, change), intercept)

    def _refit_depthwise(self, node: Node, layer: Layer, origin: Origin, owners: _Owners) -> None:
        """Depthwise kernels are fitted channel by channel."""
        places = self._places(linear.LINEAR_FORMS["Conv2D"], node, layer)

        def compute(layer: Layer, sampled: Sampled) -> np.ndarray:
            return linear.depthwise_pre_activation(layer, len(places), sampled.patches(layer))

        patches_of = Sampled(self.cut, node.name, places).patches(layer)
        wanted = self._wanted(origin, owners, places, compute)
        residual = wanted - linear.depthwise_pre_activation(layer, len(places), patches_of)
        if _negligible(residual, wanted):
            return
        ridge = _DEPTHWISE_RIDGE if self.options.ridge is None else self.options.ridge
        change, intercept = linear.fit_depthwise(layer, patches_of, residual, ridge)
        kernel = layer.weights["kernel"]
        weights = {**layer.weights, "kernel": (kernel + change).astype(kernel.dtype)}
        self._shift(node, dataclasses.replace(layer, weights=weights), intercept)

    def _refit_norm(self, node: Node, layer: Layer, origin: Origin, owners: _Owners) -> None:
        """A batch norm of channels that several became is fitted to what theirs yield."""
        places = self._places(linear.LINEAR_FORMS["Dense"], node, layer)

        def read(sampled: Sampled) -> np.ndarray:
            return sampled.read(linear.LINEAR_FORMS["Dense"], layer)

        def compute(original: Layer, sampled: Sampled) -> np.ndarray:
            scale, offset = affine_of(original)
            return read(sampled) * scale + offset

        wanted = self._wanted(origin, owners, places, compute, behind=False)
        x = read(Sampled(self.cut, node.name, places))
        scale, offset = affine_of(layer)
        if not _negligible(wanted - (x * scale + offset), wanted):
            weights = fitted_norm(layer, origin.columns, x, wanted)
            self.cut.change(dataclasses.replace(layer, weights=weights))

    def _refit_bias(self, node: Node, layer: Layer, origin: Origin, owners: _Owners) -> None:
        """Layers without a closed form get the right mean, channel by channel."""
        reached = mean_outputs(layer, self.cut, node.name)
        wanted, means = np.empty(len(origin.columns)), {}
        for k, name in owners.items():
            own = origin.columns.nets == k
            original = self.networks[k].layer_of(self.networks[k].node(name))
            found = mean_outputs(original, self.originals[k], name)
            wanted[own] = found[origin.columns.positions[own]]
            means[k] = found
        if origin.columns.fused:
            columns = origin.columns
            wanted = joint_targets(columns, wanted[None], lambda k: means[k][None], {}, None)[0]
        if not _negligible(wanted - reached, wanted):
            self._shift(node, layer, wanted - reached)

    def _shift(self, node: Node, layer: Layer, intercept: np.ndarray) -> None:
        """Adds an intercept to a layer: to its bias, its batch norm's mean, or a new bias."""
        norm = self._following_norm(node)
        if "bias" in layer.weights:
            bias = layer.weights["bias"]
            weights = {**layer.weights, "bias": (bias + intercept).astype(bias.dtype)}
            self.cut.change(dataclasses.replace(layer, weights=weights))
        elif norm is not None:
            # The mean moves with the input, so statistics may be estimated again later on.
            self.cut.change(layer)
            mean = norm.weights["moving_mean"]
            weights = {**norm.weights, "moving_mean": (mean - intercept).astype(mean.dtype)}
            self.cut.change(dataclasses.replace(norm, weights=weights))
        else:
            kernel = next(iter(layer.weights.values()))
            weights = {**layer.weights, "bias": intercept.astype(kernel.dtype)}
            config = {**layer.config, "use_bias": True}
            self.cut.change(dataclasses.replace(layer, config=config, weights=weights))

    def _following_norm(self, node: Node) -> Layer | None:
        found = norm_behind(self.network, self.readers, node.name)
        return None if found is None else self.cut.layer(found.name)


def _negligible(residual: np.ndarray, wanted: np.ndarray) -> bool:
    return float(np.abs(residual).max()) <= _ROUNDING * (float(np.abs(wanted).max()) + 1e-30)
