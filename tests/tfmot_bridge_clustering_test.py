"""Weights clustered by TFMOT in merged models: trained, stripped, exported, run, measured."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tfmot_bridge_models import (
    HEADS,
    check_export,
    kernels,
    most_values,
    stored_kernels,
    treated,
    zeros,
)


def check_clusters(model, count, folder) -> list[np.ndarray]:
    """Counts the values in the layers and in the file; the file's kernels."""
    assert max(len(np.unique(kernel)) for kernel in kernels(model).values()) <= count
    stored = stored_kernels(check_export(model, folder))
    assert len(stored) == len(kernels(model))
    # Normalisation is folded into the filters, so that each channel has values of its own.
    assert most_values(stored) <= count
    return stored


@HEADS
@pytest.mark.slow
def test_clusters(heads, tmp_path):
    check_clusters(treated("clusters", heads), 8, tmp_path / "out")


@HEADS
@pytest.mark.slow
def test_clusters_that_keep_zeros(heads, tmp_path):
    model = treated("sparse clusters", heads)
    before = kernels(treated("half", heads))
    for name, kernel in kernels(model).items():
        assert (kernel[before[name] == 0] == 0).all()
    stored = check_clusters(model, 9, tmp_path / "out")
    assert min(zeros(kernel) for kernel in stored) > 0.49
