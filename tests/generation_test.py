"""tf_keras models at every door: what comes back is of the generation that went in."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers

import tflite_export
import tfmot_pam
from tests import small_nets
from tfmot_pam.graph.generation import as_keras, is_tf_keras
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

X = small_nets.images(96)


def pair(seed: int, task: str):
    head = [layers.GlobalAveragePooling2D(name=f"pool_{task}"), layers.Dense(3 + seed, name=task)]
    model = small_nets.conv_net(seed, head=lambda: head)
    return model, tfmot_pam.to_tf_keras(model)


@pytest.fixture(scope="module")
def both():
    """The same two networks in both Kerases, by task."""
    pairs = {task: pair(seed, task) for seed, task in enumerate(("digit", "speaker"))}
    return [{task: found[k] for task, found in pairs.items()} for k in range(2)]


@pytest.fixture(scope="module")
def merged(both):
    return [tfmot_pam.merge(models, X, share=0.5, verbose=0) for models in both]


def outputs(model, x=X[:4]):
    return {task: np.array(value) for task, value in model(x, training=False).items()}


def assert_same_outputs(one, other):
    first, second = outputs(one), outputs(other)
    assert list(first) == list(second)
    for task, value in first.items():
        np.testing.assert_allclose(second[task], value, atol=1e-5)


def test_merge(merged):
    ours, theirs = merged
    assert is_tf_keras(theirs)
    assert not is_tf_keras(ours)
    assert_same_outputs(ours, theirs)
    for one, other in zip(ours.merge_plan.spaces, theirs.merge_plan.spaces, strict=True):
        assert one.groups == other.groups
    assert {type(layer).__name__ for layer in theirs.layers} <= {
        *("InputLayer", "Conv2D", "ReLU", "Concatenate", "GlobalAveragePooling2D", "Dense")
    }


def test_merge_takes_lists(both):
    found = tfmot_pam.merge(list(both[1].values()), X, method="separate", verbose=0)
    assert is_tf_keras(found)
    assert list(found.output) == ["digit", "speaker"]


def test_plans_replay_in_the_other_generation(both, merged):
    plan = merged[0].merge_plan
    assert_same_outputs(merged[0], tfmot_pam.merge(both[1], X, plan=plan, verbose=0))


def test_select_tasks(merged):
    found = tfmot_pam.select_tasks(merged[1], "speaker")
    assert is_tf_keras(found)
    assert_same_outputs(tfmot_pam.select_tasks(merged[0], "speaker"), found)


def test_combinations_cost_and_report(both, merged):
    ours, theirs = merged
    assert tfmot_pam.combinations(theirs) == tfmot_pam.combinations(ours)
    for tasks in tfmot_pam.combinations(ours):
        assert tfmot_pam.cost(theirs, tasks) == tfmot_pam.cost(ours, tasks)
    wanted = tfmot_pam.report(ours, originals=both[0]).to_json()
    assert tfmot_pam.report(theirs, originals=both[1]).to_json() == wanted


def test_saved_models_are_still_reported_by_task(merged, tmp_path):
    merged[1].save(tmp_path / "merged.keras")
    loaded = tf_keras.models.load_model(tmp_path / "merged.keras")
    assert tfmot_pam.report(loaded).groups == tfmot_pam.report(merged[0]).groups


def test_fine_tune(both, merged):
    options = {"epochs": 1, "seed": 0, "verbose": 0}
    ours = tfmot_pam.fine_tune(merged[0], X, both[0], **options)
    before = merged[1].get_weights()
    theirs = tfmot_pam.fine_tune(merged[1], X, both[1], **options)
    assert is_tf_keras(theirs)
    first, second = outputs(ours), outputs(theirs)
    for task, value in first.items():
        np.testing.assert_allclose(second[task], value, atol=1e-3)
    for one, other in zip(before, merged[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_teachers_may_be_of_the_other_generation(both, merged):
    found = tfmot_pam.fine_tune(merged[0], X, both[1], epochs=1, verbose=0)
    assert not is_tf_keras(found)


def test_export(merged, tmp_path):
    files = tflite_export.export(merged[1], tmp_path / "out", mode="files", samples=X, verbose=0)
    assert [file.tasks for file in files] == tfmot_pam.combinations(merged[0])
    assert max(file.max_abs_error for file in files) < 1e-5


def test_as_keras_leaves_everything_else(merged):
    assert as_keras(merged[0]) is merged[0]
    assert as_keras("model") == "model"
    assert isinstance(as_keras(merged[1]), keras.Model)


# --- bad input --------------------------------------------------------------------------------


def test_mixed_generations(both):
    models = {"digit": both[0]["digit"], "speaker": both[1]["speaker"]}
    for given in (models, list(models.values())):
        with pytest.raises(ValueError, match=r"`models` mixes the two generations.*from_tf_keras"):
            tfmot_pam.merge(given, X, verbose=0)


def test_subclassed_models(both):
    class Subclassed(tf_keras.Model):
        def call(self, inputs):
            return inputs

    models = {"digit": Subclassed(name="mine"), "speaker": both[1]["speaker"]}
    with pytest.raises(TypeError, match="The model of 'digit' must be a functional.*'mine'"):
        tfmot_pam.merge(models, X, verbose=0)
    for function in (tfmot_pam.cost, tfmot_pam.report, tfmot_pam.combinations):
        with pytest.raises(TypeError, match="subclassed model 'mine'"):
            function(models["digit"])


def test_wrapped_models(both):
    tfmot = import_tfmot()
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(both[1]["digit"])
    with pytest.raises(ValueError, match="The model of 'digit' must be stripped first"):
        tfmot_pam.merge({"digit": wrapped, "speaker": both[1]["speaker"]}, X, verbose=0)
    quantised = tfmot.quantization.keras.quantize_model(both[1]["digit"])
    with pytest.raises(ValueError, match="wrapped in TFMOT's Quantize"):
        tfmot_pam.cost(quantised)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("optimizer", tf_keras.optimizers.Adam()),
        ("callbacks", [tf_keras.callbacks.EarlyStopping()]),
        ("losses", {"digit": tf_keras.losses.MeanSquaredError()}),
    ],
)
def test_parts_of_the_other_keras(both, merged, argument, value):
    with pytest.raises(TypeError, match=f"`{argument}` must be of Keras 3.*Received: .*tf_keras"):
        tfmot_pam.fine_tune(merged[1], X, both[1], **{argument: value})
