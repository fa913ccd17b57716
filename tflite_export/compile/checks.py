"""Files and lowered networks held against what Keras computes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tflite_export import verify
from tflite_export.compile import subnetworks
from tflite_export.compile.quantization import Quantization

if TYPE_CHECKING:
    import keras

_LOWERED_TOLERANCE = 1e-5
# How far Keras may itself be off, in float32, where a file may be further off than usual; and how
# much further from the exact outputs than Keras is the file may be.
_MOST_ROUNDING, _ROUNDS_ALIKE = 1e-3, 2.0


@dataclasses.dataclass(frozen=True)
class Checks:
    """What every signature is held against.

    Args:
        scheme: How its numbers are stored, with the error that this may make.
        heads: The heads of each task.
        inputs: Samples by input.
        expected: What Keras computes for them, by head.
        exact: The same in double precision; called where a file is further off than usual.
    """

    scheme: Quantization
    heads: Mapping[str, Sequence[str]]
    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    exact: Callable[[], Mapping[str, np.ndarray]]

    def unchanged(self, network: keras.Model) -> bool:
        """Whether a lowered network's outputs are within 1e-5 of what they were."""
        outputs = subnetworks.keras_outputs(network, self.inputs)
        return all(
            verify.largest_error(values, self.expected[task]) <= _LOWERED_TOLERANCE
            for task, values in outputs.items()
        )

    def agreement(
        self, path: pathlib.Path, signature: str, tasks: Sequence[str]
    ) -> dict[str, verify.Agreement]:
        """Runs a signature of a file; raises ValueError where it is too far from Keras."""
        inputs = self.inputs
        if len(inputs) > 1:
            # A combination takes those that its tasks need.
            own = verify.describe_file(path)[signature]["inputs"]
            inputs = {name: inputs[name] for name in own}
        actual = verify.run_file(path, inputs, signature)
        expected = {head: self.expected[head] for task in tasks for head in self.heads[task]}
        measure, tolerance = self.scheme.measure, self.scheme.tolerance
        excused = [head for head in expected if self._only_rounds(actual.get(head), head)]
        return verify.check_outputs(path.name, actual, expected, measure, tolerance, excused)

    def _only_rounds(self, actual: np.ndarray | None, head: str) -> bool:
        """Whether a float32 output is beyond the tolerance, and as near the exact one as Keras's.

        Some networks, such as deep ones with random weights, enlarge rounding errors so much that
        float32 is off by more than the tolerance, however the layers are computed.
        """
        expected, measure = self.expected[head], verify.largest_error
        if self.scheme.measure is not measure or actual is None or actual.shape != expected.shape:
            return False
        if measure(actual, expected) <= self.scheme.tolerance:
            return False
        try:
            exact = self.exact()[head]
        except Exception:  # whatever a layer cannot do in double precision
            return False
        own = measure(expected, exact)
        return own <= _MOST_ROUNDING and measure(actual, exact) <= _ROUNDS_ALIKE * own
