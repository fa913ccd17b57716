"""What makes a network unfit for files: heads never trained, loops, ranges never learned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tfmot_pam.graph.network import Network


def check_heads(
    network: Network, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> None:
    """Finds heads that cannot have been trained.

    Args:
        network: What `network_of` read.
        inputs: Inputs by name, each of shape `(n, ...)`.
        outputs: The model's outputs for them, by head.

    Raises:
        ValueError: A task's output is the same for all inputs.

    Warns:
        UserWarning: The bias of a task's last layer is zero throughout, as when it was made.
    """
    from tfmot_pam.graph.selection import network_heads

    varied = any((array != array[:1]).any() for array in inputs.values())
    for task, values in outputs.items():
        if varied and np.ptp(values, axis=0).max() == 0:
            raise ValueError(
                f"The output for '{task}' is the same for all {len(values)} inputs, so its head "
                "has not been trained, or has died. Train the model first."
            )
    tensors = {h: t for own in network_heads(network).values() for h, t in own.items()}
    for task, tensor in tensors.items():
        node = network.node(tensor.node)
        while not network.layer_of(node).weights and len(node.inputs) == 1:
            node = network.node(node.inputs[0].node)
        bias = network.layer_of(node).weights.get("bias")
        if bias is not None and not bias.any():
            warnings.warn(
                f"The bias of '{node.layer}', the last layer of task '{task}', is zero "
                "throughout. It looks as if this head has not been trained.",
                stacklevel=4,
            )


def check_loops(network: Network) -> None:
    """Raises if ranges of activations cannot be learned because a layer is a loop in TFLite.

    Args:
        network: What `network_of` read.

    Raises:
        ValueError: There is a recurrent layer that is not unrolled, on which the converter's
            calibration ends the whole process.
    """
    loops = [layer.name for layer in network.layers.values() if _is_loop(layer.config)]
    if loops:
        raise ValueError(
            f"Quantisation with representative data does not reach into loops. Received: the "
            f"recurrent layers {loops}. Expected none, or unrolled ones. Build them with "
            "unroll=True, or take quantization='dynamic'."
        )


def _is_loop(config: Any) -> bool:
    """Whether a layer's configuration, or that of a layer in it, is of a loop over time."""
    if not isinstance(config, Mapping):
        return False
    return config.get("unroll") is False or any(map(_is_loop, config.values()))


def check_ranges(model: Any) -> None:
    """Raises if a model prepared for quantisation aware training has not been trained since.

    Args:
        model: A model that `is_quantization_aware`.

    Raises:
        ValueError: All of its ranges are those that TFMOT begins with.
    """
    from tfmot_pam.graph.tf_keras.wrappers import has_learned_ranges

    if not has_learned_ranges(model):
        raise ValueError(
            f"Model '{model.name}' has not been trained since quantize_model(): all ranges of its "
            "weights and activations are the -6 to 6 that TFMOT begins with. Compile it, and fit "
            "it on the training split; it learns the ranges there."
        )
