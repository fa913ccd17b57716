"""What calls of layers cost, by kind: multiply-accumulates and outputs per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tfmot_pam.graph.rules import Call, Cost


def conv_cost(call: Call) -> Cost:
    """A convolution, in blocks of channels or not."""
    outputs = math.prod(call.out_shape[1:])
    kernel = math.prod(call.config["kernel_size"])
    return Cost(kernel * (call.in_shape[-1] // call.config.get("groups", 1)) * outputs, outputs)


def transposed_cost(call: Call) -> Cost:
    """A transposed convolution: every input is spread over a kernel."""
    kernel = math.prod(call.config["kernel_size"])
    macs = kernel * math.prod(call.in_shape[1:]) * call.out_shape[-1]
    return Cost(macs, math.prod(call.out_shape[1:]))


def dense_cost(call: Call) -> Cost:
    """A dense layer, at every place of its input."""
    outputs = math.prod(call.out_shape[1:])
    return Cost(call.in_shape[-1] * outputs, outputs)


def depthwise_cost(call: Call) -> Cost:
    """A depthwise convolution."""
    outputs = math.prod(call.out_shape[1:])
    return Cost(math.prod(call.config["kernel_size"]) * outputs, outputs)


def separable_cost(call: Call) -> Cost:
    """A depthwise convolution and a pointwise one."""
    places, width = math.prod(call.out_shape[1:-1]), call.out_shape[-1]
    middle = call.in_shape[-1] * call.config["depth_multiplier"]
    kernel = math.prod(call.config["kernel_size"])
    return Cost(places * middle * (kernel + width), places * (middle + width))


_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}


def recurrent_cost(call: Call) -> Cost:
    """LSTM, GRU and SimpleRNN."""
    return _steps_cost(call.layer.kind, call.config["units"], call.in_shape[-1], call.in_shape[1])


def _steps_cost(kind: str, units: int, width: int, steps: int) -> Cost:
    """What all steps of a recurrent layer or cell cost that reads `width` features."""
    outputs = steps * units * _GATES.get(kind, 1)
    return Cost((width + units) * outputs, outputs)


def cells_cost(call: Call) -> Cost:
    """An RNN of cells that are written out in it."""
    width, costs = call.in_shape[-1], []
    for cell in cells_of(call):
        units = cell["config"]["units"]
        costs.append(_steps_cost(cell["class_name"], units, width, call.in_shape[1]))
        width = units
    return Cost(sum(cost.macs for cost in costs), sum(cost.outputs for cost in costs))


def cells_of(call: Call) -> list[Mapping[str, Any]]:
    """The cells that an RNN calls at each step, one after the other, written out."""
    cell = call.config["cell"]
    return cell["config"]["cells"] if cell["class_name"] == "StackedRNNCells" else [cell]


def conv_lstm_cost(call: Call) -> Cost:
    """A ConvLSTM: four convolutions of the input, and four of the state."""
    kernel, filters = call.config["kernel_size"], call.config["filters"]
    places = math.prod(call.out_shape[-1 - len(kernel) : -1])
    outputs = call.in_shape[1] * places * filters * 4
    return Cost(math.prod(kernel) * (call.in_shape[-1] + filters) * outputs, outputs)
