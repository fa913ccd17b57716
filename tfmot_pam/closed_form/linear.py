"""Layers as linear maps on sampled places: the form in which their weights are fitted.

A mixing layer's pre-activation at one output place is a product of its features there (the patch
that a convolution reads) and a matrix of weights. Compensation fits that matrix.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.linalg

from tfmot_pam.graph.network import Layer, MaybeNone
from tfmot_pam.graph.registry import computes_like
from tfmot_pam.graph.rules import is_keras_class

_CHANNELS = 64  # of a depthwise convolution that are computed at once
_PATCH_BYTES = 1 << 27  # of its channels that are read at once
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of a penalty that held-out samples choose
_FOLDS = 4  # one in so many samples is held out


@dataclasses.dataclass(frozen=True)
class LinearForm:
    """How one kind of layer is written as features times a matrix.

    Args:
        read: `(layer, x, places) -> [places, ...]`, what is read of inputs x at sampled places:
            copied and no more, so that batches joined are the same as all samples at once.
        features: `(layer, what is read) -> [places, features]`.
        matrices: The names of the weights that, side by side, are the matrix; their last axis runs
            over outputs.
        grid: `(layer, x shape) -> ` the sizes of the output's spatial axes.
        whole: Whether the outputs stay together and are not the layer's channels, as those that
            the gates of a recurrent layer read.
    """

    read: Callable[[Layer, np.ndarray, np.ndarray], np.ndarray]
    features: Callable[[Layer, np.ndarray], np.ndarray]
    matrices: tuple[str, ...]
    grid: Callable[[Layer, tuple[int, ...]], tuple[int, ...]]
    whole: bool = False


def sample_places(
    samples: int, grid: tuple[int, ...], count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` places `[count, 1 + axes]` (sample, then grid position); all where there are fewer.

    Every sample gets about the same number of places.
    """
    total = samples * int(np.prod(grid, dtype=np.int64))
    flat: np.ndarray
    if total <= count:
        flat = np.arange(total)
    else:
        flat = np.sort(rng.choice(total, size=count, replace=False))
    return np.stack(np.unravel_index(flat, (samples, *grid)), axis=1)


def padding_before(layer: Layer, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """The zeros that a convolution adds before and after each spatial axis."""
    config = layer.config
    result = []
    for size, kernel, stride, dilation in zip(
        sizes, config["kernel_size"], config["strides"], _dilation(config), strict=True
    ):
        span = (kernel - 1) * dilation + 1
        if config["padding"] == "same":
            outputs = -(-size // stride)
            added = max((outputs - 1) * stride + span - size, 0)
            result.append((added // 2, added - added // 2))
        elif config["padding"] == "causal":
            result.append((span - 1, 0))
        else:
            result.append((0, 0))
    return result


def _dilation(config: Mapping[str, Any]) -> tuple[int, ...]:
    return config.get("dilation_rate") or (1,) * len(config["kernel_size"])


def _conv_grid(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    config, sizes = layer.config, shape[1:-1]
    padded = [
        size + sum(added) for size, added in zip(sizes, padding_before(layer, sizes), strict=True)
    ]
    return tuple(
        (size - (kernel - 1) * dilation - 1) // stride + 1
        for size, kernel, stride, dilation in zip(
            padded, config["kernel_size"], config["strides"], _dilation(config), strict=True
        )
    )


def patches(layer: Layer, x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What a convolution reads at some places: `[places, kernel positions, channels]`."""
    config = layer.config
    added = padding_before(layer, x.shape[1:-1])
    result = []
    for offset in itertools.product(*(range(size) for size in config["kernel_size"])):
        index, inside = [places[:, 0]], np.ones(len(places), bool)
        for axis, step in enumerate(offset):
            where = places[:, axis + 1] * config["strides"][axis]
            where = where + step * _dilation(config)[axis] - added[axis][0]
            inside &= (where >= 0) & (where < x.shape[axis + 1])
            index.append(np.clip(where, 0, x.shape[axis + 1] - 1))
        # Gathering from the unpadded tensor saves a padded copy of all samples.
        result.append(x[tuple(index)] * inside[:, None].astype(x.dtype))
    return np.stack(result, axis=1)


def _rows(layer: Layer, x: np.ndarray, places: np.ndarray) -> np.ndarray:
    del layer
    return x[tuple(places.T)]


def _flat(layer: Layer, read: np.ndarray) -> np.ndarray:
    del layer
    return read.reshape(len(read), math.prod(read.shape[1:]))


def _separable_features(layer: Layer, read: np.ndarray) -> np.ndarray:
    kernel = layer.weights["depthwise_kernel"]
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    middle = np.einsum("pkc,kcm->pcm", read, kernel, optimize=True)
    return middle.reshape(len(read), -1)


def _inner_grid(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    del layer
    return tuple(shape[1:-1])


_CONV = LinearForm(patches, _flat, ("kernel",), _conv_grid)
_DENSE = LinearForm(_rows, _flat, ("kernel",), _inner_grid)
_SEPARABLE = LinearForm(patches, _separable_features, ("pointwise_kernel",), _conv_grid)
# What a recurrent layer makes of its input at each step, before the state comes in.
_RECURRENT = dataclasses.replace(_DENSE, whole=True)

LINEAR_FORMS: Mapping[str, LinearForm] = MappingProxyType(
    {
        "Conv1D": _CONV,
        "Conv2D": _CONV,
        "Conv3D": _CONV,
        "Dense": _DENSE,
        "SeparableConv1D": _SEPARABLE,
        "SeparableConv2D": _SEPARABLE,
        "LSTM": _RECURRENT,
        "GRU": _RECURRENT,
        "SimpleRNN": _RECURRENT,
        "Bidirectional": dataclasses.replace(_RECURRENT, matrices=("kernel", "kernel_1")),
    }
)


def linear_form(layer: Layer) -> LinearForm | None:
    """The form in which a layer is fitted, None where there is none."""
    form = LINEAR_FORMS.get(computes_like(layer))
    if form is None:
        return None
    known = {*layer.weights, *layer.config}
    missing = [name for name in (*form.matrices, "activation") if name not in known]
    if missing and not is_keras_class(layer.cls):
        raise ValueError(
            f"The layer '{layer.name}' of class {layer.kind} is registered to compute like "
            f"{computes_like(layer)}, but has no {missing}. Expected weights and entries of its "
            "configuration by the names that those of Keras have. Name them so, or leave `like` "
            "out."
        )
    if not form.whole:
        return form
    # Convolutional recurrent layers have kernels of more axes; without biases means cannot move.
    plain = all(name in layer.weights and layer.weights[name].ndim == 2 for name in form.matrices)
    return form if plain and bias(form, layer) is not None else None


def matrix(form: LinearForm, layer: Layer) -> np.ndarray:
    """The layer's weights as `[features, outputs]`."""
    kernels = [layer.weights[name] for name in form.matrices]
    return np.concatenate([kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels], axis=1)


def bias(form: LinearForm, layer: Layer) -> np.ndarray | MaybeNone:
    """What is added to features times matrix, `[outputs]`; None where nothing is."""
    names = [_bias_of(name) for name in form.matrices]
    if any(name not in layer.weights for name in names):
        return None
    found = [layer.weights[name] for name in names]
    # A GRU has a second row, which belongs to the state.
    return np.concatenate([value.reshape(-1, value.shape[-1])[0] for value in found])


def changed(
    form: LinearForm, layer: Layer, change: np.ndarray, intercept: np.ndarray | None = None
) -> Layer:
    """The layer with something added to its matrix, and to its bias.

    Args:
        form: The layer's form.
        layer: The layer.
        change: `[features, outputs]`.
        intercept: `[outputs]`; None leaves the bias.
    """
    weights, start = dict(layer.weights), 0
    for name in form.matrices:
        kernel = weights[name]
        own = slice(start, start + kernel.shape[-1])
        start = own.stop
        weights[name] = (kernel + change[:, own].reshape(kernel.shape)).astype(kernel.dtype)
        if intercept is not None:
            added = weights[_bias_of(name)].astype(np.float64)
            added.reshape(-1, added.shape[-1])[0] += intercept[own]
            weights[_bias_of(name)] = added.astype(weights[_bias_of(name)].dtype)
    return dataclasses.replace(layer, weights=weights)


def _bias_of(matrix_name: str) -> str:
    return matrix_name.removeprefix("pointwise_").replace("kernel", "bias")


def pre_activation(form: LinearForm, layer: Layer, read: np.ndarray) -> np.ndarray:
    """What the layer makes of what it reads, before its activation: `[places, outputs]`."""
    result, added = form.features(layer, read) @ matrix(form, layer), bias(form, layer)
    return result if added is None else result + added


class _Regression:
    """Least squares of `residual` on `features` with an intercept, for penalties to come.

    The system is made once: in the primal or the dual form, whichever is smaller.
    """

    def __init__(self, features: np.ndarray, residual: np.ndarray):
        n, p = features.shape
        # Single precision is enough for large systems, whose ridge is far above its rounding.
        precision = np.float64 if min(n, p) <= 1536 else np.float32
        self._mean = features.mean(axis=0, dtype=np.float64)
        self._offset = residual.mean(axis=0, dtype=np.float64)
        centred = (features - self._mean).astype(precision)
        target = (residual - self._offset).astype(precision)
        self._scale = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64)) / p
        self._dual = None if p <= n else centred
        self._system = centred.T @ centred if p <= n else centred @ centred.T
        self._right = centred.T @ target if p <= n else target

    def solve(self, ridge: float) -> tuple[np.ndarray, np.ndarray]:
        """`D [p, outputs]` and `b [outputs]` at a relative strength of the penalty."""
        if self._scale == 0.0:
            return np.zeros((len(self._mean), len(self._offset))), self._offset
        system = self._system.copy()
        system[np.diag_indices(len(system))] += ridge * self._scale
        solution = _solve(system, self._right)
        if self._dual is not None:
            solution = self._dual.T @ solution
        return solution, self._offset - self._mean @ solution


def fit(features: np.ndarray, residual: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge least squares of `residual` on `features` with an intercept.

    Minimises |F D + b - R|^2 + lambda |D|^2, lambda = ridge x the mean squared feature x samples.

    Args:
        features: `[n, p]`.
        residual: `[n, outputs]`.
        ridge: Relative strength of the penalty.

    Returns:
        `D [p, outputs]` and `b [outputs]`.
    """
    return _Regression(features, residual).solve(ridge)


def fit_held_out(
    features: np.ndarray, residual: np.ndarray, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`fit` with the strength of the penalty that does best on samples that it has not seen.

    A dense layer behind a flattened map has as many features as there are samples: a weak penalty
    fits their noise, and what a layer had learned is lost.

    Args:
        features: `[n, p]`.
        residual: `[n, outputs]`.
        samples: The sample that each row comes from, `[n]`; rows of one sample are not apart.

    Returns:
        `D [p, outputs]` and `b [outputs]`; D is 0 where nothing that is fitted holds elsewhere.
    """
    _, order = np.unique(samples, return_inverse=True)
    held = order % _FOLDS == _FOLDS - 1
    constant = np.zeros((features.shape[1], residual.shape[1])), residual.mean(axis=0, dtype=float)
    if not held.any():
        return constant

    regression = _Regression(features[~held], residual[~held])

    def error(strength: float) -> float:
        change, intercept = regression.solve(strength)
        return _mean_square(residual[held] - features[held] @ change - intercept)

    errors = {strength: error(strength) for strength in _STRENGTHS}
    best = min(errors, key=errors.__getitem__)
    if errors[best] >= _mean_square(residual[held] - residual[~held].mean(axis=0)):
        return constant
    return fit(features, residual, best)


def _mean_square(values: np.ndarray) -> float:
    return float(np.mean(np.square(values), dtype=np.float64))


# What a depthwise convolution reads at some places, by a slice of its channels.
PatchesOf = Callable[[slice], np.ndarray]


def depthwise_pre_activation(layer: Layer, places: int, patches_of: PatchesOf) -> np.ndarray:
    """What a depthwise convolution computes at so many places, `[places, outputs]`."""
    kernel = _by_channel(layer)
    result = np.empty((places, kernel.shape[0] * kernel.shape[2]), np.float32)
    for own, outputs, found in _depthwise_blocks(layer, places, patches_of):
        computed = np.einsum("pkc,ckm->pcm", found, kernel[own])
        result[:, outputs] = computed.reshape(places, -1)
    return result + layer.weights["bias"] if "bias" in layer.weights else result


def fit_depthwise(
    layer: Layer, patches_of: PatchesOf, residual: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """`fit` for every channel of a depthwise convolution by itself.

    Args:
        layer: The convolution.
        patches_of: What some of its channels read at the places that are fitted,
            `[places, kernel positions, channels]`.
        residual: What is missing there, `[places, outputs]`.
        ridge: Relative strength of the penalty.

    Returns:
        What is to be added to the kernel, in its shape, and the intercepts `[outputs]`.
    """
    channels, positions, multiplier = _by_channel(layer).shape
    change = np.empty((positions, channels, multiplier))
    intercept = np.empty(channels * multiplier)
    for own, outputs, found in _depthwise_blocks(layer, len(residual), patches_of):
        # Products of what is not contiguous take twice as long.
        features = np.ascontiguousarray(found.transpose(2, 1, 0), np.float64)
        target = residual[:, outputs].reshape(len(residual), -1, multiplier).transpose(1, 0, 2)
        mean, offset = features.mean(axis=2), target.mean(axis=1)
        features -= mean[:, :, None]
        system = features @ features.transpose(0, 2, 1)
        scale = np.trace(system, axis1=1, axis2=2) / positions
        # A channel without any variation is left alone.
        diagonal = np.where(scale > 0.0, ridge * scale, 1.0)
        system[:, np.arange(positions), np.arange(positions)] += diagonal[:, None]
        solution = np.linalg.solve(system, features @ (target - offset[:, None]))
        change[:, own] = solution.transpose(1, 0, 2)
        intercept[outputs] = (offset - np.einsum("cp,cpm->cm", mean, solution)).ravel()
    return change.reshape(layer.weights["kernel"].shape), intercept


def _by_channel(layer: Layer) -> np.ndarray:
    """A depthwise kernel as `[channels, kernel positions, multiplier]`."""
    kernel = layer.weights["kernel"]
    return kernel.reshape(-1, *kernel.shape[-2:]).transpose(1, 0, 2)


def _depthwise_blocks(
    layer: Layer, places: int, patches_of: PatchesOf
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Channels that are computed at once, their outputs, and the patches that they read.

    Many of these blocks' patches are read at a time: for each of them the samples may have to be
    run anew.
    """
    channels, positions, multiplier = _by_channel(layer).shape
    most = max(_PATCH_BYTES // (4 * places * positions) // _CHANNELS, 1) * _CHANNELS
    for first in range(0, channels, most):
        found = patches_of(slice(first, min(first + most, channels)))
        for start in range(0, found.shape[2], _CHANNELS):
            block = np.ascontiguousarray(found[:, :, start : start + _CHANNELS])
            own = slice(first + start, first + start + block.shape[2])
            yield own, slice(own.start * multiplier, own.stop * multiplier), block


def _solve(system: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=False, check_finite=False)
    except np.linalg.LinAlgError:
        # Rounding made a nearly singular system indefinite: the least squares solution exists.
        return scipy.linalg.lstsq(system, right, check_finite=False)[0]
    return scipy.linalg.cho_solve(factor, right, check_finite=False)
