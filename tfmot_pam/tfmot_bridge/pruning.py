"""TFMOT's magnitude pruning of single weights, and the way back from its wrappers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tfmot_pam.graph.generation import is_tf_keras
from tfmot_pam.tfmot_bridge.crossing import check_names, enter, finish, has_kernel, import_tfmot


def prune_low_magnitude(
    model: Any,
    pruning_schedule: Any = None,
    *,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: tuple[int, int] | None = None,
    pruning_policy: Any = None,
    skip: Iterable[str] = (),
) -> Any:
    """Wraps a model's kernels in TFMOT's magnitude pruning; head names stay.

    Use it as TFMOT's function of the same name: compile and fit the result with
    `tfmot.sparsity.keras.UpdatePruningStep()`, then `strip_wrappers`. It takes Keras 3 models too,
    wraps the layers whose kernels TFMOT can prune, and warns about the others instead of giving
    up. TFMOT renames the wrapped layers; with the dict outputs of a merged model the losses,
    metrics and signatures are keyed by task all the same. Remove channels first, weights second.

    Source: Zhu, Gupta (2017); `tfmot.sparsity.keras.prune_low_magnitude` does the work.

    Args:
        model: A functional or sequential model of either Keras. It is not changed.
        pruning_schedule: A `tfmot.sparsity.keras.PruningSchedule`; None: TFMOT's default, half of
            the weights from the start.
        block_size: Height and width of the blocks that are pruned together, in weights of two
            axes; layers with other kernels are left out.
        block_pooling_type: `"AVG"` or `"MAX"`, what a block is judged by.
        sparsity_m_by_n: Such as `(2, 4)`: two zeros in every four consecutive weights.
        pruning_policy: A `tfmot.sparsity.keras.PruningPolicy` to ask as well, such as
            `PruneForLatencyOnXNNPack()`; its conditions must hold.
        skip: Names of layers to leave alone.

    Returns:
        A new tf_keras model with TFMOT's wrappers, not compiled.

    Raises:
        TypeError: `model` is no functional or sequential model.
        ValueError: nothing can be pruned, the policy's conditions do not hold, `skip` names an
            unknown layer, or tf_keras lacks a layer.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((8,), name="x")
    >>> heads = {name: keras.layers.Dense(4, name=name)(x) for name in ("age", "smile")}
    >>> pruned = tfmot_pam.prune_low_magnitude(keras.Model(x, heads))
    >>> list(pruned.output)
    ['age', 'smile']
    """
    tfmot = import_tfmot()

    copied = enter(model)
    names = check_names(skip, copied)
    reasons = {
        layer.name: "it is in `skip`"
        if layer.name in names
        else _reason(layer, block_size, sparsity_m_by_n, tfmot)
        for layer in copied.layers
        if has_kernel(layer)
    }
    allowed = {name for name, reason in reasons.items() if reason is None}
    if not allowed:
        raise ValueError(
            f"Model '{copied.name}' has no layer that TFMOT can prune in this way: {reasons}. "
            "Expected at least one. Leave out `block_size`, or prune channels instead."
        )
    options = {"block_size": block_size, "block_pooling_type": block_pooling_type}
    if pruning_schedule is not None:
        options["pruning_schedule"] = pruning_schedule
    if sparsity_m_by_n is not None:
        options["sparsity_m_by_n"] = sparsity_m_by_n
    policy = _policy(allowed, pruning_policy, tfmot)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(copied, pruning_policy=policy, **options)
    left_out = {n: reason for n, reason in reasons.items() if reason and n not in names}
    return finish(pruned, model, left_out, "prune_low_magnitude()")


def _reason(
    layer: Any, block_size: tuple[int, int], m_by_n: tuple[int, int] | None, tfmot: Any
) -> str | None:
    """Why TFMOT cannot prune a layer with a kernel, or None."""
    try:
        tfmot.sparsity.keras.prune_low_magnitude(layer)
        weights = layer.get_prunable_weights()
    except ValueError:
        return f"TFMOT cannot wrap {type(layer).__name__}"
    if not weights:
        return f"TFMOT leaves the weights of {type(layer).__name__} alone"
    for shape in (tuple(weight.shape) for weight in weights):
        if m_by_n is not None and len(shape) not in (2, 4):
            return f"a pattern needs weights of two or four axes, its own have {len(shape)}"
        if m_by_n is not None and shape[-2] < m_by_n[1]:
            return f"its {shape[-2]} input channels are fewer than a pattern of {m_by_n[1]}"
        if tuple(block_size) == (1, 1):
            continue
        if len(shape) != 2:
            return f"blocks need weights of two axes, its own have {len(shape)}"
        # TFMOT drops an axis with a single block, and then fails in training.
        if any(size <= block for size, block in zip(shape, block_size, strict=True)):
            return f"its weights of shape {shape} are one block wide"
    return None


def _policy(allowed: set[str], other: Any, tfmot: Any) -> Any:
    """TFMOT's policy that prunes the layers in `allowed` that `other` allows too."""

    class Named(tfmot.sparsity.keras.PruningPolicy):
        def allow_pruning(self, layer: Any) -> bool:
            return layer.name in allowed and (other is None or other.allow_pruning(layer))

        def ensure_model_supports_pruning(self, model: Any) -> None:
            if other is not None:
                other.ensure_model_supports_pruning(model)

    return Named()


def strip_wrappers(model: Any) -> Any:
    """Takes TFMOT's pruning and clustering wrappers off a model.

    Use it after the training that `prune_low_magnitude` or `cluster_weights` prepared. Models for
    quantisation aware training keep their wrappers: `tflite_export.export` reads them.

    Args:
        model: A tf_keras model that TFMOT has wrapped. It is not changed.

    Returns:
        A new tf_keras model of plain layers under their old names, sharing no weights with
        `model`.

    Raises:
        TypeError: `model` is no tf_keras model.
        ValueError: it is wrapped for quantisation.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((8,), name="x")
    >>> model = keras.Model(x, {"age": keras.layers.Dense(4, name="age")(x)})
    >>> plain = tfmot_pam.strip_wrappers(tfmot_pam.prune_low_magnitude(model))
    >>> [layer.name for layer in plain.layers]
    ['x', 'age']
    """
    import tf_keras

    tfmot = import_tfmot()

    if not is_tf_keras(model) or not isinstance(model, tf_keras.Model):
        raise TypeError(
            f"`model` must be a tf_keras model that TFMOT has wrapped. Received: {model!r} of type "
            f"{type(model).__module__}.{type(model).__name__}. Channels that prune_channels() "
            "gated are removed by strip_pruning()."
        )
    quantized = [layer.name for layer in model.layers if "Quantize" in type(layer).__name__]
    if quantized:
        raise ValueError(
            f"`model` must not be wrapped for quantisation. Received: '{model.name}', whose layers "
            f"{quantized} are. Export it as it is: tflite_export.export(..., quantization='int8')."
        )
    # TFMOT's functions hand on the layers of their argument, so they are given a copy.
    with tfmot.sparsity.keras.prune_scope(), tfmot.clustering.keras.cluster_scope():
        copied = tf_keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    copied = tfmot.clustering.keras.strip_clustering(copied)
    return finish(enter(tfmot.sparsity.keras.strip_pruning(copied)), model, {}, "")
