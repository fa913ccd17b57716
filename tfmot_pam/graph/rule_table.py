"""The built-in layer rules: one entry per kind of layer, one small function per idea."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tfmot_pam.graph import rule_costs
from tfmot_pam.graph.network import Shape, iterate_tensors
from tfmot_pam.graph.rules import Axes, Call, LayerRule, written_by_keras
from tfmot_pam.graph.space_rules import SPACE_RULES, with_sizes
from tfmot_pam.graph.whole_rules import WHOLE_RULES

# Activations that write every channel from that channel alone. Others, and users' own functions,
# may read all channels, so what they write is left as it is.
ELEMENTWISE_ACTIVATIONS = frozenset(
    "linear relu relu6 elu selu celu gelu silu swish hard_silu hard_swish sigmoid hard_sigmoid "
    "log_sigmoid sparse_sigmoid tanh hard_tanh tanh_shrink hard_shrink soft_shrink softplus "
    "softsign squareplus sparse_plus leaky_relu mish exponential threshold".split()
)


def activation_name(config: Mapping[str, Any]) -> str:
    """The name of a layer's activation; a serialised function or layer gives its own name."""
    activation = config.get("activation")
    if isinstance(activation, Mapping):
        inner = activation.get("config")
        return inner if isinstance(inner, str) else str(activation.get("class_name"))
    if callable(activation):
        # A user's function may be called relu and compute something else.
        return f"function {getattr(activation, '__name__', activation)}"
    return "linear" if activation is None else str(activation)


def activation_reason(config: Mapping[str, Any]) -> str | None:
    """Why a layer's activation keeps its channels together, or None."""
    name = activation_name(config)
    if name.lower() in ELEMENTWISE_ACTIVATIONS:
        return None
    return f"its activation {name} may read other channels"


# --- checks: why a call cannot be taken apart by channels -----------------------------------


def _last_axis(call: Call) -> str | None:
    if call.config.get("data_format") == "channels_first":
        return "its data format is channels_first"
    return None


def _layer_checks(call: Call) -> str | None:
    if call.calls > 1:
        return f"the layer is called {call.calls} times"
    return _last_axis(call)


def _activation_check(call: Call) -> str | None:
    return activation_reason(call.config)


def _filter_check(call: Call) -> str | None:
    return activation_reason(call.config) or _layer_checks(call)


def _cells_check(call: Call) -> str | None:
    others = [cell["class_name"] for cell in rule_costs.cells_of(call) if not _is_keras_cell(cell)]
    return f"how its cells {others} read channels is not known" if others else _layer_checks(call)


def _is_keras_cell(cell: Mapping[str, Any]) -> bool:
    kinds = ("LSTMCell", "GRUCell", "SimpleRNNCell")
    return cell["class_name"] in kinds and written_by_keras(cell)


def _noise_check(call: Call) -> str | None:
    shape = call.config.get("noise_shape")
    if shape is not None and shape[-1] not in (None, 1):
        return f"its noise shape {tuple(shape)} fixes the number of channels"
    return None


def _norm_check(call: Call) -> str | None:
    axis = call.config.get("axis", -1)
    axes = [axis] if isinstance(axis, int) else list(axis or ())
    rank = len(call.in_shape)
    if [a % rank for a in axes] != [rank - 1]:
        return f"it normalises along axis {axis}, not along the channels"
    return _layer_checks(call)


def _softmax_check(call: Call) -> str | None:
    axis = call.config.get("axis", -1)
    axes = [axis] if isinstance(axis, int) else list(axis)
    if any(a % len(call.in_shape) == len(call.in_shape) - 1 for a in axes):
        return "it normalises over the channels"
    return None


def _prelu_check(call: Call) -> str | None:
    shared = call.config.get("shared_axes") or ()
    if (len(call.in_shape) - 1) in shared:
        return "its slope is shared by the channels"
    return _layer_checks(call)


def _reduction_check(call: Call) -> str | None:
    axis, rank = call.config.get("axis"), len(call.in_shape)
    axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    if any(a % rank == rank - 1 for a in axes):
        return "it reduces over the channels"
    return None


def _scalar_check(call: Call) -> str | None:
    scale, offset = call.config.get("scale"), call.config.get("offset")
    if any(np.size(value) > 1 for value in (scale, offset) if value is not None):
        return "it scales every channel by a value of its own"
    return _last_axis(call)


def _binary_check(call: Call) -> str | None:
    """Free operations on two operands: tensors of equal width, or a tensor and a number."""
    operands = (*call.node.args, *call.node.kwargs.values())
    if any(not any(iterate_tensors(value)) and np.size(value) > 1 for value in operands):
        return "it combines channels with an array of constants"
    ranks = {len(shape) for shape in call.in_shapes}
    if len(ranks) > 1:
        return "its operands have different ranks"
    return None


# --- sources: the input position each output position of a channelwise layer comes from ------


def _spatial(shape: Shape) -> int:
    return math.prod(shape[1:-1])


def _flatten_sources(call: Call, in_width: int) -> np.ndarray:
    return np.tile(np.arange(in_width), _spatial(call.in_shape))


def _depthwise_sources(call: Call, in_width: int) -> np.ndarray:
    return np.repeat(np.arange(in_width), call.config.get("depth_multiplier", 1))


def grouped_sizes(call: Call) -> tuple[int, int]:
    """Input and output channels per block of a grouped convolution."""
    groups = call.config["groups"]
    return call.in_shape[-1] // groups, call.config["filters"] // groups


def _grouped_sources(call: Call, in_width: int) -> np.ndarray:
    block_in, block_out = grouped_sizes(call)
    return np.repeat(np.arange(in_width).reshape(-1, block_in), block_out, axis=0)


def _reshape_sources(call: Call, in_width: int) -> np.ndarray:
    size, width = call.in_shape[-1], call.out_shape[-1]
    if width >= size:
        return np.tile(np.arange(in_width), width // size)
    # The inverse of flattening: a channel comes from one position a place.
    return np.arange(in_width).reshape(size // width, -1).T


def _reshape_check(call: Call) -> str | None:
    in_shape, out_shape = call.in_shape[1:], call.out_shape[1:]
    size, width = in_shape[-1], out_shape[-1]
    known = list(itertools.takewhile(lambda size: size is not None, in_shape[::-1]))
    # One size may be left to infer; where the samples' axis is one of the sizes it is that one.
    inferred = out_shape.count(None) + ("newshape" in call.config)
    if inferred < 2 and width in np.cumprod(known):
        return None
    if None in in_shape or None in out_shape:
        return "it reshapes a tensor of unknown size"
    if len(in_shape) == 1 and size % width == 0:
        return None
    return f"it reshapes the channel axis from {tuple(in_shape)} to {tuple(out_shape)}"


# --- resizing: the configuration for other widths ---------------------------------------------


def _reshape_resize(
    config: Mapping[str, Any], call: Call, in_width: int, out_width: int
) -> dict[str, Any]:
    places = (-1 if size is None else size for size in call.out_shape[1:-1])
    return with_sizes(config, (*places, out_width))


def _grouped_resize(
    config: Mapping[str, Any], call: Call, in_width: int, out_width: int
) -> dict[str, Any]:
    block_in, _ = grouped_sizes(call)
    return {**config, "groups": in_width // block_in, "filters": out_width}


# --- the table --------------------------------------------------------------------------------

_OUT = Axes(outputs=0)
_ONES = Axes(outputs=0, fill=1.0)

CONV = LayerRule(
    "mixing",
    weights={"kernel": Axes(inputs=-2, outputs=-1), "bias": _OUT},
    width="filters",
    check=_layer_checks,
    macs=rule_costs.conv_cost,
)
GROUPED_CONV = LayerRule(
    "channelwise",
    weights={"kernel": Axes(outputs=-1), "bias": _OUT},
    check=_filter_check,
    sources=_grouped_sources,
    resize=_grouped_resize,
    free=("filters", "groups"),
    macs=rule_costs.conv_cost,
)
TRANSPOSED = LayerRule(
    "mixing",
    weights={"kernel": Axes(inputs=-1, outputs=-2), "bias": _OUT},
    width="filters",
    check=_layer_checks,
    macs=rule_costs.transposed_cost,
)
DENSE = LayerRule(
    "mixing",
    weights={"kernel": Axes(inputs=0, outputs=1), "bias": _OUT},
    width="units",
    check=_layer_checks,
    macs=rule_costs.dense_cost,
)
DEPTHWISE = LayerRule(
    "channelwise",
    weights={"kernel": Axes(inputs=-2), "bias": _OUT},
    check=_filter_check,
    sources=_depthwise_sources,
    macs=rule_costs.depthwise_cost,
)
RECURRENT = LayerRule(
    "mixing",
    weights={"kernel": Axes(inputs=0)},
    frozen="its state reads all channels",
    check=_layer_checks,
    macs=rule_costs.recurrent_cost,
)
RECURRENT_CELLS = dataclasses.replace(RECURRENT, check=_cells_check, macs=rule_costs.cells_cost)
CONV_LSTM = dataclasses.replace(
    RECURRENT, weights={"kernel": Axes(inputs=-2)}, macs=rule_costs.conv_lstm_cost
)
SEPARABLE = LayerRule(
    "mixing",
    weights={
        "depthwise_kernel": Axes(inputs=-2),
        "pointwise_kernel": Axes(
            inputs=-2,
            outputs=-1,
            fanout=lambda config: config["depth_multiplier"],
            later=True,
        ),
        "bias": _OUT,
    },
    width="filters",
    check=_layer_checks,
    macs=rule_costs.separable_cost,
)
BATCH_NORM = LayerRule(
    "channelwise",
    weights={"gamma": _ONES, "beta": _OUT, "moving_mean": _OUT, "moving_variance": _ONES},
    check=_norm_check,
    free=("momentum",),
)
NORMALIZATION = LayerRule(
    "channelwise",
    weights={"mean": _OUT, "variance": _ONES},
    check=lambda call: (
        "its statistics are constants of the configuration"
        if call.config.get("mean") is not None
        else _norm_check(call)
    ),
)
KEEP = LayerRule("channelwise")
KEEP_LAST = LayerRule("channelwise", check=_last_axis)
NOISE = LayerRule("channelwise", check=_noise_check, free=("rate", "stddev", "seed"))
ACTIVATION = LayerRule("channelwise", check=_activation_check)
PRELU = LayerRule("channelwise", weights={"alpha": Axes(outputs=-1)}, check=_prelu_check)
# ConvNeXt's, whose weight has no name; InceptionResNetV2's sum of a branch and its scaled residual.
LAYER_SCALE = LayerRule(
    "channelwise",
    weights={"variable": _ONES},
    width="projection_dim",
    check=_layer_checks,
    free=("init_values",),
)
SCALED_SUM = LayerRule("join")
SOFTMAX = LayerRule("channelwise", check=_softmax_check)
FLATTEN = LayerRule("channelwise", check=_last_axis, sources=_flatten_sources)
RESHAPE = LayerRule(
    "channelwise",
    check=_reshape_check,
    sources=_reshape_sources,
    resize=_reshape_resize,
    free=("target_shape", "newshape"),
)
RESCALING = LayerRule("channelwise", check=_scalar_check)
REDUCTION = LayerRule("channelwise", check=_reduction_check)
JOIN = LayerRule("join", check=_binary_check)
CONCATENATE = LayerRule("concatenate")


def _table() -> dict[str, LayerRule]:
    table = {
        "Dense": DENSE,
        "BatchNormalization": BATCH_NORM,
        "Normalization": NORMALIZATION,
        "PReLU": PRELU,
        "LayerScale": LAYER_SCALE,
        "CustomScaleLayer": SCALED_SUM,
        "Activation": ACTIVATION,
        "Flatten": FLATTEN,
        "Reshape": RESHAPE,
        "Rescaling": RESCALING,
        "Concatenate": CONCATENATE,
        "LSTM": RECURRENT,
        "GRU": RECURRENT,
        "SimpleRNN": RECURRENT,
        "RNN": RECURRENT_CELLS,
    }
    for rank in ("1D", "2D", "3D"):
        table[f"Conv{rank}"] = CONV
        table[f"Conv{rank}Transpose"] = TRANSPOSED
        table[f"DepthwiseConv{rank}"] = DEPTHWISE
        table[f"SeparableConv{rank}"] = SEPARABLE
        table[f"ConvLSTM{rank}"] = CONV_LSTM
        for pooling in ("MaxPooling", "AveragePooling", "GlobalMaxPooling"):
            table[f"{pooling}{rank}"] = KEEP_LAST
        for layer in ("GlobalAveragePooling", "ZeroPadding", "Cropping", "UpSampling"):
            table[f"{layer}{rank}"] = KEEP_LAST
        table[f"AdaptiveAveragePooling{rank}"] = KEEP_LAST
        table[f"AdaptiveMaxPooling{rank}"] = KEEP_LAST
        table[f"SpatialDropout{rank}"] = NOISE
    for name in ("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise"):
        table[name] = NOISE
    for name in ("Resizing", "CenterCrop"):
        table[name] = KEEP_LAST
    for name in ("ReLU", "LeakyReLU", "ELU", "Identity", "ActivityRegularization"):
        table[name] = KEEP
    for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average"):
        table[name] = JOIN
    # Free operations of keras.ops. Those with two operands are listed with the joins.
    for name in ("Divide", "TrueDivide", "Power", "SquaredDifference"):
        table[name] = JOIN
    for name in ("Mean", "Max", "Min", "Sum", "Var", "Std"):
        table[name] = REDUCTION
    for name in ("Softmax", "LogSoftmax"):
        table[name] = SOFTMAX
    for name in _ELEMENTWISE_OPERATIONS:
        table.setdefault(name, KEEP)
    return {**WHOLE_RULES, **SPACE_RULES, **table}


_ELEMENTWISE_OPERATIONS = (
    "Relu Relu6 Sigmoid LogSigmoid HardSigmoid Silu Swish HardSilu HardSwish Gelu Elu Selu Celu "
    "LeakyRelu Softplus Softsign SoftShrink HardShrink TanhShrink HardTanh Squareplus SparsePlus "
    "SparseSigmoid "
    "Tanh Exp Expm1 Log Log1p Sqrt Rsqrt Square Abs Absolute Negative Reciprocal Sign Clip "
    "Floor Ceil Round Sin Cos Erf Cast Identity StopGradient Threshold"
).split()

BUILT_IN_RULES: Mapping[str, LayerRule] = MappingProxyType(_table())
