"""Tests of the error measures and of the comparison; running files is tested with the export."""

import numpy as np
import pytest

from tflite_export import verify


@pytest.mark.parametrize(
    ("measure", "expected"),
    [(verify.largest_error, 0.5 / 4), (verify.max_abs_error, 0.5), (verify.rms_error, 0.1)],
)
def test_measures(measure, expected):
    values = np.array([3.0, -4.0])
    assert measure(values + np.array([0.0, 0.5]), values) == pytest.approx(expected)
    assert measure(values, values) == 0
    assert np.isnan(measure(values * np.nan, values))


def test_largest_error_is_absolute_for_small_outputs():
    assert verify.largest_error(np.array([0.3]), np.array([0.1])) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        ({"digit": np.array([1.0, 2.2])}, r"on 'digit'.*over 2 inputs is 0\.1.*difference 0\.2\)"),
        ({"digit": np.array([1.0, np.nan])}, "on 'digit'.*is nan"),
        ({"digit": np.zeros((2, 1))}, r"shape \(2, 1\), expected \(2,\)"),
        ({"output_0": np.zeros(2)}, r"outputs \['output_0'\]; expected \['digit'\]"),
    ],
)
def test_disagreement_is_an_error(actual, message):
    expected = {"digit": np.array([1.0, 2.0])}
    with pytest.raises(ValueError, match=message):
        verify.check_outputs("digit.tflite", actual, expected, verify.largest_error, 0.05)
