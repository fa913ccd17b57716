"""Weights pruned by TFMOT in merged models: trained, stripped, exported, run, measured."""

from __future__ import annotations

import numpy as np
import pytest

import tfmot_pam
from tests.tfmot_bridge_models import (
    HEADS,
    LABELS,
    LOSS,
    SPEECH,
    X,
    check_export,
    decay,
    kernels,
    merge_trained,
    merged_model,
    prune,
    sparsity,
    stored_kernels,
    treated,
    xnnpack_model,
    zeros,
)


@HEADS
@pytest.mark.parametrize(
    ("name", "share"), [("half", 0.5), pytest.param("decay", 0.75, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_schedules(name, share, heads, tmp_path):
    model = treated(name, heads)
    assert list(kernels(model)) == list(kernels(tfmot_pam.to_tf_keras(merged_model(heads))))
    for kernel in kernels(model).values():
        assert abs(zeros(kernel) - share) <= 1 / kernel.size
    stored = [zeros(kernel) for kernel in stored_kernels(check_export(model, tmp_path / "out"))]
    assert sorted(stored) == sorted(zeros(kernel) for kernel in kernels(model).values())


def check_pattern(rows):
    """At least two zeros in every four along the last axis; TFMOT pads the last four."""
    whole = rows[..., : rows.shape[-1] // 4 * 4].reshape(-1, 4)
    assert len(whole) > 0
    assert ((whole == 0).sum(axis=1) >= 2).all()


@HEADS
@pytest.mark.slow
def test_two_of_four(heads, tmp_path):
    with pytest.warns(UserWarning, match="'conv1_.*1 input channels are fewer than a pattern of 4"):
        tfmot_pam.prune_low_magnitude(merged_model(heads), sparsity_m_by_n=(2, 4))
    model = treated("2:4", heads)
    # TFMOT counts along the input channels; groups with fewer than four hold no pattern.
    pruned = [np.moveaxis(kernel, -2, -1) for kernel in kernels(model).values()]
    pruned = [kernel for kernel in pruned if kernel.shape[-1] >= 4]
    stored = stored_kernels(check_export(model, tmp_path / "out"))
    stored = [kernel for kernel in stored if kernel.shape[-1] >= 4]
    assert len(stored) == len(pruned) > 0
    for kernel in [*pruned, *stored]:
        check_pattern(kernel)


def check_blocks(kernel, height, width):
    """Half of the blocks are zero throughout, and there are hardly any zeros elsewhere."""
    rows, columns = kernel.shape
    blocks = kernel.reshape(rows // height, height, columns // width, width).swapaxes(1, 2)
    zero = (blocks == 0).reshape(-1, height * width)
    assert abs(zero.all(axis=1).mean() - 0.5) < 0.05
    assert abs(zero.mean() - 0.5) < 0.05


@HEADS
@pytest.mark.slow
def test_blocks(heads, tmp_path):
    with pytest.warns(UserWarning, match="left out 'conv1_.*blocks need weights of two axes"):
        model = prune(merged_model(heads), block_size=(4, 2))
    for task in model.output:
        check_blocks(kernels(model)[task], 4, 2)
    stored = stored_kernels(check_export(model, tmp_path / "out"))
    stored = [kernel for kernel in stored if kernel.ndim == 2]
    assert len(stored) == heads
    for kernel in stored:
        check_blocks(kernel, 2, 4)


# --- the policy for XNNPACK -------------------------------------------------------------------


@HEADS
@pytest.mark.slow
@pytest.mark.parametrize("method", ["shared", "separate"])
def test_xnnpack_policy(method, heads, tmp_path):
    merged = merge_trained(xnnpack_model, heads, SPEECH, method=method)
    policy = sparsity.PruneForLatencyOnXNNPack()
    with pytest.warns(UserWarning, match="'depth1_.*: TFMOT leaves the weights of Depthwise"):
        model = prune(merged, decay(0.75), SPEECH, pruning_policy=policy)
    names = {name for name in kernels(model) if name.startswith(("conv2", "conv3"))}
    for name, kernel in kernels(model).items():
        assert zeros(kernel) == (0.75 if name in names else 0.0)
    stored = stored_kernels(check_export(model, tmp_path / "out", SPEECH))
    pointwise = [kernel for kernel in stored if kernel.shape[1:3] == (1, 1)]
    assert len(pointwise) == len(names)
    assert {zeros(kernel) for kernel in pointwise} == {0.75}
    entries = sum(kernel.size for kernel in pointwise)
    assert entries == sum(kernels(model)[name].size for name in names)
    assert sum(np.count_nonzero(kernel == 0) for kernel in stored) == 0.75 * entries


@pytest.mark.slow
def test_xnnpack_policy_refuses_concatenations():
    merged = merge_trained(xnnpack_model, 2, SPEECH, share=0.5)
    policy = sparsity.PruneForLatencyOnXNNPack()
    with pytest.raises(ValueError, match="Layer Concatenate is not supported"):
        tfmot_pam.prune_low_magnitude(merged, pruning_policy=policy)


@pytest.mark.slow
def test_xnnpack_policy_on_other_models():
    policy = sparsity.PruneForLatencyOnXNNPack()
    with pytest.raises(ValueError, match="Could not find `Conv2D 3x3`"):
        tfmot_pam.prune_low_magnitude(merged_model(2), pruning_policy=policy)


# --- in Keras 3 again -------------------------------------------------------------------------


@HEADS
@pytest.mark.slow
def test_sparsity_comes_back_to_keras_and_stays(heads):
    back = tfmot_pam.from_tf_keras(treated("half", heads))
    before = {w.path: np.array(w.numpy()) for w in back.trainable_weights if len(w.shape) > 1}
    back.compile("adam", {task: LOSS for task in back.output}, jit_compile=False)
    labels = {task: LABELS[task] for task in back.output}
    back.fit(X, labels, epochs=1, verbose=0, callbacks=[tfmot_pam.KeepSparsity()])
    assert np.isclose(np.mean([zeros(kernel) for kernel in before.values()]), 0.5, atol=0.02)
    for weight in back.trainable_weights:
        if len(weight.shape) > 1:
            np.testing.assert_array_equal(weight.numpy() == 0, before[weight.path] == 0)
            assert np.abs(weight.numpy() - before[weight.path]).max() > 0
    tuned = tfmot_pam.fine_tune(
        back, (X, labels), epochs=1, callbacks=[tfmot_pam.KeepSparsity()], verbose=0
    )
    assert np.mean([zeros(w) for w in tuned.get_weights() if w.ndim > 1]) > 0.45
