"""Tests of tfmot_pam.merging.targets."""

from __future__ import annotations

import numpy as np
import pytest

from tfmot_pam.merging.targets import Targets, encode_labels, targets_from_outputs

CLASSES = np.array([2, 0, 1, 2, 0, 5])


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        CLASSES.astype(np.uint8),
        CLASSES[:, None],
        np.eye(6)[CLASSES],
        np.eye(6, dtype=int)[CLASSES],
    ],
    ids=["int", "uint8", "column", "one-hot float", "one-hot int"],
)
def test_class_forms_are_the_same_classes(labels):
    targets = encode_labels(labels, "t")
    assert targets.kind == "classes"
    assert targets.values.dtype == np.int64
    np.testing.assert_array_equal(targets.values, CLASSES)


def test_class_matrix_is_one_hot_over_the_classes_present():
    matrix = encode_labels(CLASSES, "t").matrix()
    np.testing.assert_array_equal(matrix, np.eye(6)[CLASSES][:, [0, 1, 2, 5]])


@pytest.mark.parametrize(
    "labels",
    [
        [[0, 1], [1, 1], [0, 0]],
        [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]],
        [[-1, 1], [1, 1], [-1, -1]],
        [[-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]],
        [[False, True], [True, True], [False, False]],
    ],
)
def test_binary_matrices_become_zeros_and_ones(labels):
    targets = encode_labels(np.array(labels), "t")
    assert targets.kind == "binary"
    np.testing.assert_array_equal(targets.values, [[0, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize("labels", [[-1, 1, -1], [0.0, 1.0, 0.0], [[-1.0], [1.0], [-1.0]]])
def test_a_single_binary_label(labels):
    targets = encode_labels(np.array(labels), "t")
    assert targets.kind == "binary"
    np.testing.assert_array_equal(targets.values, [[0], [1], [0]])


@pytest.mark.parametrize(
    "labels", [[0.5, 2.0, -1.0], [[0.5], [2.0], [-1.0]], [[0.5, 1.0], [2.0, 0.0], [0.0, 7.0]]]
)
def test_real_values_stay(labels):
    targets = encode_labels(np.array(labels, np.float32), "t")
    assert targets.kind == "real"
    assert targets.values.dtype == np.float64
    np.testing.assert_array_equal(targets.matrix(), np.reshape(labels, (3, -1)))


@pytest.mark.parametrize("extra", [(), (1,)])
def test_dense_class_maps_become_class_frequencies(extra):
    maps = np.array([[[0, 0], [0, 7]], [[7, 7], [7, 7]], [[0, 3], [3, 7]]])
    targets = encode_labels(maps.reshape(3, 2, 2, *extra), "t")
    assert targets.kind == "real"
    np.testing.assert_allclose(targets.values, [[0.75, 0, 0.25], [0, 0, 1], [0.25, 0.5, 0.25]])


def test_dense_one_hot_equals_its_class_map():
    maps = np.random.default_rng(0).integers(0, 3, (5, 4, 4))
    from_maps = encode_labels(maps, "t").values
    np.testing.assert_allclose(encode_labels(np.eye(3)[maps], "t").values, from_maps)
    sequence = np.eye(3)[maps.reshape(5, 16)]
    np.testing.assert_allclose(encode_labels(sequence, "t").values, from_maps)


def test_dense_real_targets_become_means_and_lose_constant_columns():
    dense = np.random.default_rng(0).normal(size=(5, 4, 4, 3))
    dense[..., 1] = 2.0
    values = encode_labels(dense, "t").values
    np.testing.assert_allclose(values, dense.mean(axis=(1, 2))[:, [0, 2]])
    depth = encode_labels(dense[..., :1], "t").values
    np.testing.assert_allclose(depth, dense[..., 0].mean(axis=(1, 2))[:, None])


def test_subset_and_shuffle_keep_rows_together_and_the_original_unchanged():
    values = np.arange(20.0).reshape(10, 2)
    targets = Targets("real", values.copy())
    np.testing.assert_array_equal(targets.subset(np.array([3, 1])).values, values[[3, 1]])
    shuffled = targets.shuffled(np.random.default_rng(0)).values
    assert not np.array_equal(shuffled, values)
    np.testing.assert_array_equal(shuffled[np.argsort(shuffled[:, 0])], values)
    np.testing.assert_array_equal(targets.values, values)
    assert len(targets) == 10


def test_discrete_passes_labels_and_refuses_real_targets():
    targets = encode_labels(CLASSES, "t")
    assert targets.discrete() is targets
    with pytest.raises(ValueError, match="real-valued targets.*'kde'.*estimator='gaussian'"):
        Targets("real", np.ones((3, 1))).discrete()


def test_softmax_outputs_become_logits_up_to_a_constant():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    outputs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = targets_from_outputs(outputs, "softmax", "t")
    assert targets.kind == "real"
    np.testing.assert_allclose(targets.values, logits - logits.mean(axis=1, keepdims=True))
    labels = targets_from_outputs(outputs, "softmax", "t", discrete=True)
    np.testing.assert_array_equal(labels.values, logits.argmax(axis=1))


def test_sigmoid_outputs_become_logits_and_saturated_ones_stay_finite():
    logits = np.array([[-1.0, 3.0], [0.5, -2.0], [2.0, 0.1]])
    outputs = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(targets_from_outputs(outputs, "sigmoid", "t").values, logits)
    labels = targets_from_outputs(outputs, "sigmoid", "t", discrete=True)
    np.testing.assert_array_equal(labels.values, logits > 0)
    assert np.isfinite(targets_from_outputs(np.array([0.0, 1.0]), "sigmoid", "t").values).all()


def test_linear_and_dense_outputs():
    outputs = np.random.default_rng(0).normal(size=(6, 3, 3, 2))
    values = targets_from_outputs(outputs, "linear", "t").values
    np.testing.assert_allclose(values, outputs.mean(axis=(1, 2)))


def test_constant_outputs_are_left_out():
    outputs = np.array([[0.1, 1.0, 3.0], [0.7, 1.0, 2.0]])
    values = targets_from_outputs(outputs, "linear", "t").values
    np.testing.assert_array_equal(values, outputs[:, [0, 2]])


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.array([]), r"shape \(0,\).*at least one sample"),
        (np.array([np.nan, np.nan]), "No label of the task 'eyes' counts in 2 samples"),
        (np.array([0.0, np.inf]), "'eyes' with infinite entries"),
        (np.array([3, 3, 3]), "all labels of task 'eyes' constant over the 3 samples.*Stratify"),
        (np.eye(4)[[1, 1]], "all labels of task 'eyes' constant"),
        (np.array([[0, 1, 1], [1, 1, 1], [1, 1, 1]]), r"labels \[1, 2\] of task 'eyes' constant"),
        (np.array([[0.5, 1.0], [0.2, 1.0]]), r"labels \[1\] of task 'eyes' constant"),
        (np.full((3, 2, 2), 4), "all labels of task 'eyes' constant"),
        (np.array([-2, 1, 1]), "all labels of task 'eyes' constant over the 2 samples"),
    ],
)
def test_bad_labels_are_refused(labels, match):
    with pytest.raises(ValueError, match=match):
        encode_labels(labels, "eyes")


def test_labels_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="'eyes' of dtype <U3.*Encode them"):
        encode_labels(np.array(["cat", "dog"]), "eyes")


@pytest.mark.parametrize(
    ("outputs", "kind", "discrete", "match"),
    [
        (np.ones((3, 2)), "tanh", False, "kind 'tanh' for task 'eyes'.*softmax"),
        (np.ones((3, 2)), "linear", False, "all labels of task 'eyes' constant"),
        (np.eye(3, 2), "linear", True, "linear outputs.*estimator='gaussian'"),
        (np.full((3, 2, 2), 0.5), "softmax", True, r"softmax outputs of shape \(3, 2, 2\)"),
        (np.array([[np.nan], [1.0]]), "linear", False, "outputs of task 'eyes' with NaN"),
    ],
)
def test_bad_outputs_are_refused(outputs, kind, discrete, match):
    with pytest.raises(ValueError, match=match):
        targets_from_outputs(outputs, kind, "eyes", discrete=discrete)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'text'.*expected one of"):
        Targets("text", np.ones(3))
