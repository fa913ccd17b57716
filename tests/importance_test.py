"""Importances as objects: what names stand for, and what users add."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.gated_nets import constant, data, trained, two_heads
from tests.quick_compress import QUICK, both, samples
from tests.surgery_test import assert_same_outputs
from tests.tiers import regular
from tfmot_pam.pipeline.identity import digest
from tfmot_pam.pruning.importance import IMPORTANCES


def last_first(evidence):
    """The last channels go first."""
    return np.arange(len(evidence.prunable), 0, -1.0)


last_first = keras.saving.register_keras_serializable(package="tests")(last_first)


@pytest.mark.parametrize("name", regular(["vib", "taylor", "magnitude"]))
def test_an_object_is_what_its_name_is_while_training(name):
    ways = (name, IMPORTANCES[name])
    one, other = (trained(tfmot_pam.prune_channels(two_heads(), constant(), way)) for way in ways)
    np.testing.assert_array_equal(one.gates.mask, other.gates.mask)
    assert_same_outputs(one, other, data()[0])


def test_what_it_says_that_it_needs_is_what_it_gets():
    x, seen = data()[0], []

    def score(evidence):
        seen.append(evidence)
        return last_first(evidence)

    way = tfmot_pam.Importance(score, inputs=True, refits=True)
    fitted = tfmot_pam.prune_channels(two_heads(), 0.5, way, data=x)
    np.testing.assert_array_equal(seen[0].inputs, x)
    assert seen[0].squared_gradients is None
    cut = tfmot_pam.prune_channels(two_heads(), 0.5, tfmot_pam.Importance(last_first), data=x)
    expected = two_heads().predict(x, verbose=0)
    assert _error(fitted, x, expected) < 0.9 * _error(cut, x, expected)
    with pytest.raises(ValueError, match="looks at what the layers compute"):
        tfmot_pam.prune_channels(two_heads(), 0.5, way)


def _error(gated, x, expected):
    outputs = tfmot_pam.strip_pruning(gated).predict(x, verbose=0)
    return sum(float(np.square(outputs[task] - expected[task]).sum()) for task in expected)


def test_a_saved_model_goes_on_with_it(tmp_path):
    way = tfmot_pam.Importance(last_first, gradients=True, at_once=False)
    gated = tfmot_pam.prune_channels(two_heads(), constant(), way)
    gated.save(tmp_path / "gated.keras")
    again = keras.saving.load_model(tmp_path / "gated.keras")
    assert again.gates.settings.importance == way
    np.testing.assert_array_equal(trained(again).gates.mask, trained(gated).gates.mask)
    with pytest.raises(ValueError, match="learnt while the model trains"):
        tfmot_pam.prune_channels(two_heads(), 0.5, way)


def test_importances_are_told_apart_by_all_they_say():
    one, other = (tfmot_pam.Importance(last_first, inputs=needed) for needed in (False, True))
    assert digest(one) == digest(tfmot_pam.Importance(last_first)) != digest(other)


@pytest.mark.slow
def test_a_search_takes_one():
    models = both()
    options = {**QUICK, "effort": 1, "arms": ["trunk"], "target": 0.8}
    one, other = (
        tfmot_pam.compress(models, samples(), 0.5, importance=way, **options)
        for way in ("reconstruction", IMPORTANCES["reconstruction"])
    )
    assert one.best.rounds == other.best.rounds


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"score": "taylor"}, TypeError, "Received score='taylor'.*Pass the function itself"),
        ({"gradients": 1}, TypeError, "'gradients': 1"),
        ({"refits": True}, ValueError, "Expected inputs=True"),
        ({"stochastic": True}, ValueError, "Expected at_once=False"),
    ],
)
def test_bad_importances(options, error, message):
    with pytest.raises(error, match=message):
        tfmot_pam.Importance(**{"score": last_first, **options})
