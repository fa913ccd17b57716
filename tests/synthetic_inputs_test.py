"""Inputs drawn where there is no data, with the statistics that a model's first layers know."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfmot_pam.data import input_statistics, synthetic_inputs


def test_synthetic_inputs_have_the_wanted_moments():
    drawn = synthetic_inputs((3,), samples=4000, mean=[0.0, 5.0, 9.0], std=[1.0, 2.0, 0.5], seed=1)
    np.testing.assert_allclose(drawn.mean(axis=0), [0, 5, 9], atol=0.15)
    np.testing.assert_allclose(drawn.std(axis=0), [1, 2, 0.5], rtol=0.05)
    np.testing.assert_array_equal(
        drawn,
        synthetic_inputs((3,), samples=4000, mean=[0.0, 5.0, 9.0], std=[1.0, 2.0, 0.5], seed=1),
    )
    as_bytes = synthetic_inputs((3,), mean=127.5, std=200.0, dtype="uint8")
    assert as_bytes.dtype == np.uint8
    assert {as_bytes.min(), as_bytes.max()} == {0, 255}


@pytest.mark.parametrize(
    ("layers", "mean", "std"),
    [
        ([], 0.0, 1.0),
        ([keras.layers.Rescaling(1 / 255)], 127.5, 73.612),
        ([keras.layers.Rescaling(1 / 127.5, offset=-1.0)], 127.5, 73.612),
        (
            [keras.layers.Normalization(mean=[1.0, 2.0], variance=[4.0, 9.0])],
            [1.0, 2.0],
            [2.0, 3.0],
        ),
        (
            [
                keras.layers.Rescaling(1 / 255),
                keras.layers.Normalization(mean=[0.4, 0.5], variance=[0.04, 0.01]),
            ],
            [102.0, 127.5],
            [51.0, 25.5],
        ),
        (
            [
                keras.layers.BatchNormalization(
                    moving_mean_initializer=keras.initializers.Constant(3.0),
                    moving_variance_initializer=keras.initializers.Constant(4.0),
                )
            ],
            3.0,
            2.0,
        ),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_input_statistics_invert_the_first_layers(layers, mean, std, nested):
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(3)])
    if nested:
        outer = keras.Input((2,))
        model = keras.Model(outer, keras.layers.Activation("relu")(model(outer)))
    found_mean, found_std = input_statistics(model)
    np.testing.assert_allclose(np.broadcast_to(found_mean, (1, 2))[0], np.broadcast_to(mean, 2))
    np.testing.assert_allclose(
        np.broadcast_to(found_std, (1, 2))[0], np.broadcast_to(std, 2), rtol=1e-4
    )
