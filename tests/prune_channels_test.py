"""`prune_channels`, `UpdatePruningStep` and `strip_pruning`: TFMOT's pattern for whole channels."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.gated_nets import constant, data, schedules, tfmot, trained, two_heads, widths
from tests.small_nets import dense_net
from tests.surgery_test import assert_same_outputs
from tfmot_pam.graph.generation import is_tf_keras
from tfmot_pam.graph.reader import read
from tfmot_pam.pruning.callbacks import scalars
from tfmot_pam.pruning.costs import WidthCosts
from tfmot_pam.pruning.gates import remove_gates
from tfmot_pam.pruning.importance import IMPORTANCES
from tfmot_pam.pruning.schedules import Ramp

ROOT = pathlib.Path(__file__).resolve().parents[1]


# --- the calling pattern ------------------------------------------------------------------------


@pytest.mark.parametrize("importance", sorted(n for n, f in IMPORTANCES.items() if not f.inputs))
def test_every_importance_prunes_while_training(importance):
    gated = trained(tfmot_pam.prune_channels(two_heads(), constant(), importance))
    small = tfmot_pam.strip_pruning(gated)
    left = {name: width for name, width in widths(small).items() if name not in ("a", "b")}
    assert sum(left.values()) == 12
    assert_same_outputs(gated, small, data()[0])
    assert isinstance(small, keras.Model)
    assert not isinstance(small, type(gated))


def test_polynomial_decay_removes_what_it_says_when_it_says():
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(np.mean(self.model.gates.mask)))

    schedule = schedules.PolynomialDecay(0.0, 0.75, begin_step=2, end_step=6, frequency=2)
    gated = tfmot_pam.prune_channels(two_heads(), schedule, "magnitude")
    trained(gated, callbacks=[tfmot_pam.UpdatePruningStep(), Watch()])
    for step, left in enumerate(seen):
        asked = [float(schedule(s)[1]) for s in range(step + 1) if bool(schedule(s)[0])]
        expected = 24 - int(np.ceil(24 * max(asked, default=0.0) - 1e-6))
        assert round(24 * left) == expected


def test_a_users_own_schedule():
    class AtOnce(schedules.PruningSchedule):
        def __call__(self, step):
            return step == 4, 0.5

        def get_config(self):
            return {"class_name": "AtOnce", "config": {}}

    gated = trained(tfmot_pam.prune_channels(two_heads(), AtOnce(), "taylor"))
    assert float(np.sum(gated.gates.mask)) == 12


def test_gates_of_one_change_nothing():
    model, (x, _) = two_heads(), data()
    assert_same_outputs(tfmot_pam.prune_channels(model, constant()), model, x, 1e-6)


def test_what_is_off_stays_off():
    gated = tfmot_pam.prune_channels(two_heads(), constant(), "random")
    trained(gated)
    before = np.array(gated.gates.mask)
    gated.gates.mask.assign(before)
    trained(gated)
    assert np.all(np.array(gated.gates.mask) <= before)


def test_steps_go_on_over_several_fits():
    schedule, callback = constant(begin=12), tfmot_pam.UpdatePruningStep()
    gated = tfmot_pam.prune_channels(two_heads(), schedule, "magnitude")
    trained(gated, callbacks=[callback])
    assert np.all(np.array(gated.gates.mask) == 1)
    trained(gated, callbacks=[callback])
    assert np.sum(np.array(gated.gates.mask)) == 12


def test_single_models_and_further_merging():
    models = {"p": dense_net(0, name="p"), "q": dense_net(1, name="q")}
    small = {
        task: tfmot_pam.strip_pruning(tfmot_pam.prune_channels(model, 0.3, "magnitude"))
        for task, model in models.items()
    }
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    merged = tfmot_pam.merge(small, x, method="separate", verbose=0)
    for task, model in small.items():
        np.testing.assert_allclose(merged(x)[task], model(x), atol=1e-5)
    twice = tfmot_pam.strip_pruning(tfmot_pam.prune_channels(merged, 0.3, "random"))
    assert tfmot_pam.cost(twice).macs < tfmot_pam.cost(merged).macs


def test_fine_tune_prunes_on_the_way():
    model, (x, _) = two_heads(), data()
    teachers = {task: tfmot_pam.select_tasks(model, task) for task in ("a", "b")}
    gated = tfmot_pam.prune_channels(model, constant(), "taylor")
    options = {"epochs": 1, "batch_size": 8, "verbose": 0}
    tuned = tfmot_pam.fine_tune(
        gated, x, teachers, callbacks=[tfmot_pam.UpdatePruningStep()], **options
    )
    small = tfmot_pam.strip_pruning(tuned)
    assert np.sum(np.array(tuned.gates.mask)) == 12
    assert np.all(np.array(gated.gates.mask) == 1)
    assert_same_outputs(tuned, small, x)


def test_gated_models_are_saved_and_loaded_in_a_fresh_process(tmp_path):
    gated = trained(tfmot_pam.prune_channels(two_heads(), constant(), "taylor"))
    gated.save(tmp_path / "gated.keras")
    small = tfmot_pam.strip_pruning(gated)
    x = data()[0]
    np.savez(tmp_path / "expected.npz", x=x, **small.predict(x, verbose=0))
    program = f"""
import keras, numpy as np, tfmot_pam
gated = keras.saving.load_model({str(tmp_path / "gated.keras")!r})
found = np.load({str(tmp_path / "expected.npz")!r})
outputs = tfmot_pam.strip_pruning(gated).predict(found["x"], verbose=0)
for task in ("a", "b"):
    np.testing.assert_allclose(outputs[task], found[task], atol=1e-5)
assert bool(gated.gates.settings.schedule(3)[0])
gated.fit(found["x"], {{t: found[t] for t in ("a", "b")}}, verbose=0,
          callbacks=[tfmot_pam.UpdatePruningStep(step=8)])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_summaries_are_written(tmp_path):
    import tensorflow as tf

    gated = tfmot_pam.prune_channels(two_heads(), constant(), "magnitude")
    summaries = tfmot_pam.PruningSummaries(tmp_path)
    trained(gated, callbacks=[tfmot_pam.UpdatePruningStep(), summaries])
    (path,) = tmp_path.glob("events*")
    found = {
        value.tag: float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    prunable = remove_gates(read(gated)).prunable()
    expected = scalars(prunable, WidthCosts(prunable), np.array(gated.gates.mask) > 0)
    assert found == {f"pruning/{name}": value for name, value in expected.items()}
    small = tfmot_pam.strip_pruning(gated)
    assert found["pruning/macs/a"] == tfmot_pam.cost(small, "a").macs


def test_the_ramp_is_tfmots_polynomial_decay():
    ours, theirs = Ramp(0.6, 40, 10), schedules.PolynomialDecay(0.0, 0.6, 0, 40, 3, 10)
    for step in range(1, 41):
        assert ours(step)[1] == pytest.approx(float(theirs(step)[1]), abs=1e-6)
        assert ours(step)[0] == bool(theirs(step)[0])


def test_tf_keras_models_come_back_as_tf_keras_models():
    model, (x, _) = tfmot_pam.to_tf_keras(two_heads()), data()
    gated = trained(tfmot_pam.prune_channels(model, constant(), "magnitude"))
    small = tfmot_pam.strip_pruning(gated)
    assert is_tf_keras(small)
    assert not is_tf_keras(gated)
    found, expected = small(x), gated(x, training=False)
    for task in ("a", "b"):
        np.testing.assert_allclose(found[task], expected[task], atol=1e-5)
    sparse = tfmot_pam.prune_low_magnitude(small)  # Channels first, then weights.
    assert sparse.count_params() > 0


def test_models_for_quantisation_are_refused():
    tf_keras_model = tfmot_pam.to_tf_keras(dense_net(0))
    quantised = tfmot.quantization.keras.quantize_model(tf_keras_model)
    with pytest.raises((TypeError, ValueError), match="wrapped in TFMOT's Quantize"):
        tfmot_pam.prune_channels(quantised, 0.5, "magnitude")


# --- bad input ----------------------------------------------------------------------------------


def frozen_model():
    x = keras.Input((4, 4))
    h = layers.LSTM(3, return_sequences=True)(x)
    return keras.Model(x, layers.Dense(2)(layers.LayerNormalization()(h)))


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (two_heads, {"pruning_schedule": "fast"}, TypeError, "must be a TFMOT PruningSchedule"),
        (two_heads, {"pruning_schedule": lambda step: 0.5}, TypeError, "PruningSchedule, such as"),
        (two_heads, {"pruning_schedule": lambda step: (True, 7)}, ValueError, "fraction 7.0"),
        (two_heads, {"pruning_schedule": 1.5}, ValueError, "fraction above 0 and below 1"),
        (two_heads, {"pruning_schedule": 0.5}, ValueError, "learnt while the model trains"),
        (two_heads, {"importance": "luck"}, ValueError, "Expected one of.*taylor"),
        (two_heads, {"importance": 3}, TypeError, "must be a name or a callable"),
        (two_heads, {"measure": "joules"}, ValueError, "Received measure='joules'"),
        (two_heads, {"measure": ("c",)}, ValueError, r"Unknown tasks: \['c'\]"),
        (two_heads, {"usage": {("a",): 0.5}}, ValueError, "sum to 0.5; they must sum to 1"),
        (two_heads, {"usage": {("c",): 1.0}}, ValueError, "every combination must be"),
        (two_heads, {"scope": "local"}, ValueError, "Unknown `scope`"),
        (two_heads, {"min_channels": 0}, ValueError, "`min_channels` must be"),
        (two_heads, {"kl_weight": -1.0}, ValueError, "`kl_weight` must be"),
        (
            two_heads,
            {"pruning_schedule": constant(0.9), "min_channels": 8},
            ValueError,
            "at most .* can go: every layer keeps 8",
        ),
        (frozen_model, {}, ValueError, "Nothing of the model.*its state reads all channels"),
        (lambda: "model.keras", {}, TypeError, "must be a keras.Model"),
        (
            two_heads,
            {"pruning_schedule": 0.5, "importance": "reconstruction"},
            ValueError,
            "Received no data",
        ),
        (two_heads, {"importance": "reconstruction"}, ValueError, "removes channels at once"),
        (
            lambda: tfmot_pam.prune_channels(two_heads(), constant()),
            {},
            ValueError,
            "has gates already",
        ),
    ],
)
def test_bad_arguments_are_explained(model, arguments, error, message):
    with pytest.raises(error, match=message):
        tfmot_pam.prune_channels(model(), **{"pruning_schedule": constant(), **arguments})


def test_missing_callback_is_named():
    gated = tfmot_pam.prune_channels(two_heads(), constant())
    with pytest.raises(ValueError, match=r"tfmot_pam.UpdatePruningStep\(\)"):
        trained(gated, callbacks=[])
    with pytest.raises(ValueError, match="TFMOT's callback of that name does not work"):
        trained(gated, callbacks=[keras.callbacks.TerminateOnNaN()])


def test_callbacks_refuse_other_models():
    model, (x, y) = two_heads(), data()
    model.compile("sgd", {"a": "mse", "b": "mse"})
    for callback in (tfmot_pam.UpdatePruningStep(), tfmot_pam.PruningSummaries("unused")):
        with pytest.raises(ValueError, match=r"Received: the model"):
            model.fit(x, y, verbose=0, callbacks=[callback])


def test_stripping_a_model_without_gates_is_refused():
    with pytest.raises(ValueError, match="has no gates"):
        tfmot_pam.strip_pruning(two_heads())


def test_importances_must_return_a_number_a_channel():
    for wrong in (lambda e: np.ones(3), lambda e: np.full(len(e.prunable), np.nan)):
        with pytest.raises(ValueError, match="Expected one number for each of the 24"):
            tfmot_pam.prune_channels(two_heads(), 0.5, wrong)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": "x", "widths": {}, "removed": {}}', '{"format": 1}']
)
def test_damaged_histories_are_refused(text):
    with pytest.raises(ValueError, match="pruning history"):
        tfmot_pam.PruningHistory.from_json(text)


def test_a_history_of_another_model_is_refused():
    history = tfmot_pam.PruningHistory({"fc0": 9}, {"fc0": (1,)})
    with pytest.raises(ValueError, match=r"has no layers \['fc0'\], or they have other widths"):
        history.apply(dense_net(0))
