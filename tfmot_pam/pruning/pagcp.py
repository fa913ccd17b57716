"""PAGCP's rating: the loss of each task, measured as a layer loses its weakest channels.

The layers are visited one by one, the weakest channels of each switched off in steps, and every
task's outputs compared with what they were. A channel is rated by the largest relative error of
any task at the step that takes it away, so all channels rated up to a tolerance can go in their
layer without any task losing more.

Source: PAGCP (Ye et al., T-PAMI 2023), section 3: a measured, per-task tolerance decides each
layer's ratio. Rated here from the unpruned network for every layer, not one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from tfmot_pam.graph.calling import predicted
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.heads import Inputs
from tfmot_pam.graph.inputs import count, rows
from tfmot_pam.pruning.channels import PrunableChannels
from tfmot_pam.pruning.gates import ChannelGates, insert_gates
from tfmot_pam.pruning.outputs import before_activation, relative_errors
from tfmot_pam.pruning.settings import PruningSettings

_SAMPLES = 256
_STEPS = 8


def rate(prunable: PrunableChannels, strength: np.ndarray, x: Inputs) -> np.ndarray:
    """Rates every prunable channel by the measured loss of the tasks.

    Args:
        prunable: The network and its prunable channels.
        strength: How strong each channel is within its group; the weakest go first. `[channels]`.
        x: Calibration inputs `[samples, ...]`, from the training split.

    Returns:
        For each channel the largest relative squared error of a task's outputs once it and all
        weaker channels of its group are gone, `[channels]`.
    """
    step = max(1, count(x) // _SAMPLES)
    x = rows(x, slice(None, _SAMPLES * step, step))
    network, _ = before_activation(insert_gates(prunable, PruningSettings()))
    gated = emit(network, wrap=False)
    gates = next(layer for layer in gated.layers if isinstance(layer, ChannelGates))
    mask = np.ones(len(prunable), "float32")
    whole = _outputs(gated, x)
    result = np.zeros(len(prunable))
    for group in prunable.groups:
        order = group.start + np.argsort(strength[group.slice], kind="stable")
        error = 0.0
        for gone, taken in _steps(order):
            mask[gone] = 0.0
            gates.mask.assign(mask)
            error = max(error, *relative_errors(_outputs(gated, x), whole))
            result[taken] = error
        mask[order] = 1.0
    return result


def _outputs(model: keras.Model, x: Inputs) -> list[np.ndarray]:
    """All outputs of a model that is run many times, one after the other."""
    return keras.tree.flatten(predicted(model, x, batch_size=64))


def _steps(order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All channels gone after each step, and those that it takes."""
    done = 0
    for end in np.unique(np.ceil(np.linspace(0, len(order), _STEPS + 1)[1:]).astype(int)).tolist():
        yield order[:end], order[done:end]
        done = end
