"""Models that take images or sequences of any size: counted at one, or refused clearly."""

from __future__ import annotations

import re
import warnings

import keras
import numpy as np
import pytest

import tflite_export
import tfmot_pam
from tfmot_pam.graph.emitter import with_shapes
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.sizes import sized

layers = keras.layers
OPEN = "open size.*input_shape="


def pyramid(size, width=8, classes=4) -> keras.Model:
    """Convolutions with dense layers behind them."""
    keras.utils.set_random_seed(width)
    image = keras.Input((size, size, 3), name="image")
    h = layers.Conv2D(width, 3, padding="same", activation="relu", name="conv1")(image)
    h = layers.Conv2D(width, 3, padding="same", activation="relu", name="conv2")(h)
    h = layers.Dense(16, activation="relu", name="dense")(layers.GlobalAveragePooling2D()(h))
    return keras.Model(image, layers.Dense(classes, name="head")(h))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(48, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def models():
    return {"a": pyramid(None, 8, 4), "b": pyramid(None, 6, 3)}


@pytest.fixture(scope="module")
def merged(models, x):
    return tfmot_pam.merge(models, x, min_group=1, verbose=0)


# --- counting -------------------------------------------------------------------------------------


def test_sizes_follow_from_the_input():
    one, any_size = read(pyramid(12)), read(pyramid(None))
    found = sized(any_size, (12, 12, 3))
    assert [node.shapes for node in found.nodes] == [node.shapes for node in one.nodes]
    assert [node.name for node in found.nodes] == [node.name for node in any_size.nodes]
    assert all(found.layers[name].weights is any_size.layers[name].weights for name in ("conv1",))


def test_shapes_of_what_is_fixed_stay():
    network = read(pyramid(12))
    assert [n.shapes for n in with_shapes(network).nodes] == [n.shapes for n in network.nodes]
    assert sized(network, None) is network
    assert sized(network, (12, 12, 3)) is network


def test_cost_of_any_size():
    expected = tfmot_pam.cost(pyramid(12))
    found = tfmot_pam.cost(pyramid(None), input_shape=(12, 12, 3))
    assert (found.macs, found.flops, found.parameters) == (
        expected.macs,
        expected.flops,
        expected.parameters,
    )
    assert found.unsupported == {}
    with pytest.raises(ValueError, match=OPEN):
        tfmot_pam.cost(pyramid(None))


def test_what_does_not_depend_on_the_size_is_counted_without_it():
    image = keras.Input((None, None, 3))
    h = layers.Dense(2)(layers.GlobalAveragePooling2D()(image))
    assert tfmot_pam.cost(keras.Model(image, h)).macs == 6


def test_sequences_of_any_length():
    tokens = keras.Input((None,), dtype="int32")
    h = layers.Conv1D(4, 3, padding="same")(layers.Embedding(10, 3)(tokens))
    model = keras.Model(tokens, layers.Dense(2)(layers.GlobalMaxPooling1D()(h)))
    assert tfmot_pam.cost(model, input_shape=(7,)).macs == 7 * 3 * 3 * 4 + 8


def test_several_inputs():
    left, right = (keras.Input((None, 2), name=name) for name in ("left", "right"))
    h = layers.Concatenate()([layers.Dense(3)(left), layers.Dense(4)(right)])
    model = keras.Model([left, right], h)
    shapes = {"left": (5, 2), "right": (5, 2)}
    assert tfmot_pam.cost(model, input_shape=shapes).macs == 5 * 2 * 7
    with pytest.raises(ValueError, match="a dict by name"):
        tfmot_pam.cost(model, input_shape=(5, 2))


def test_report_of_any_size(merged, models):
    with pytest.raises(ValueError, match=OPEN):
        tfmot_pam.report(merged)
    found = tfmot_pam.report(merged, originals=models, input_shape=(12, 12, 3))
    assert found.unsupported == {}
    assert found.rows[0].original_macs == tfmot_pam.cost(pyramid(12)).macs
    again = tfmot_pam.report(merged, originals=models, input_shape=(24, 24, 3))
    assert 3.5 < again.rows[0].macs / found.rows[0].macs < 4.0


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((12, 12), ValueError, "Expected the same number of sizes"),
        ((12, 12, 1), ValueError, "its own where they are fixed"),
        ((1, 12, 12, 3), ValueError, "Leave out the axis of the samples"),
        ((12, -1, 3), ValueError, "whole numbers above 0"),
        ((12, 1.5, 3), ValueError, "whole numbers above 0"),
        ({"other": (12, 12, 3)}, ValueError, re.escape("each of the inputs ['image']")),
        (12, TypeError, "a tuple of whole numbers"),
        ("12", TypeError, "a tuple of whole numbers"),
    ],
)
def test_bad_shapes(shape, error, message):
    with pytest.raises(error, match=message):
        tfmot_pam.cost(pyramid(None), input_shape=shape)


# --- pruning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["channels", "macs", "latency"])
def test_pruning_at_one_size_is_that_of_a_model_of_the_size(measure):
    with pytest.raises(ValueError, match=OPEN):
        tfmot_pam.prune_channels(pyramid(None), 0.4, "magnitude", measure=measure)
    options = {"measure": measure, "input_shape": (12, 12, 3)}
    small = tfmot_pam.strip_pruning(
        tfmot_pam.prune_channels(pyramid(None), 0.4, "magnitude", **options)
    )
    expected = tfmot_pam.strip_pruning(
        tfmot_pam.prune_channels(pyramid(12), 0.4, "magnitude", measure=measure)
    )
    assert small.input.shape == (None, None, None, 3)
    assert small.pruning_history.widths == expected.pruning_history.widths
    for ours, theirs in zip(small.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_parameters_are_the_same_at_any_size():
    gated = tfmot_pam.prune_channels(pyramid(None), 0.4, "magnitude", measure="parameters")
    small = tfmot_pam.strip_pruning(gated)
    assert small.count_params() <= 0.65 * pyramid(None).count_params()


def test_data_tell_the_size(x):
    gated = tfmot_pam.prune_channels(pyramid(None), 0.5, "reconstruction", data=x, measure="macs")
    small = tfmot_pam.strip_pruning(gated)
    left, whole = (tfmot_pam.cost(m, input_shape=(12, 12, 3)).macs for m in (small, pyramid(12)))
    assert left <= 0.5 * whole
    with pytest.raises(ValueError, match="Expected the same"):
        tfmot_pam.prune_channels(
            pyramid(None), 0.5, "reconstruction", data=x, input_shape=(24, 24, 3)
        )


@pytest.mark.parametrize("importance", ["taylor", "vib"])
def test_pruning_while_any_size_is_trained(importance, x, tmp_path):
    from tfmot_pam.pruning.schedules import Ramp

    options = {"measure": "macs", "input_shape": (24, 24, 3)}
    gated = tfmot_pam.prune_channels(
        pyramid(None), Ramp(0.5, end_step=4, frequency=1), importance, **options
    )
    gated.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(len(x)) % 4
    callbacks = [tfmot_pam.UpdatePruningStep(), tfmot_pam.PruningSummaries(tmp_path / "log")]
    gated.fit(x, labels, batch_size=8, epochs=2, callbacks=callbacks, verbose=0)
    gated.save(tmp_path / "gated.keras")
    again = keras.saving.load_model(tmp_path / "gated.keras")
    small = tfmot_pam.strip_pruning(again)
    left, whole = (tfmot_pam.cost(m, input_shape=(24, 24, 3)).macs for m in (small, pyramid(24)))
    assert left <= 0.5 * whole
    assert small(x[:, :8, :8]).shape == (48, 4)


# --- layers that no rule counts -------------------------------------------------------------------


class Scaled(layers.Layer):
    """A layer without a rule, with weights."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), name="scale")

    def call(self, inputs):
        return inputs * self.scale


def test_budgets_warn_of_layers_that_they_take_for_nothing():
    image = keras.Input((12, 12, 3))
    h = Scaled(name="mine")(layers.Conv2D(4, 3, activation="relu")(image))
    h = layers.Conv2D(8, 3, activation="relu")(h)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(h)))
    with pytest.warns(UserWarning, match=r"not counted: \{'mine': 'Scaled'\}"):
        tfmot_pam.prune_channels(model, 0.2, "magnitude", measure="macs")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tfmot_pam.prune_channels(model, 0.2, "magnitude", measure="channels")
        tfmot_pam.prune_channels(pyramid(12), 0.2, "magnitude", measure="macs")


# --- the whole way --------------------------------------------------------------------------------


@pytest.mark.slow
def test_compress_counts_at_the_size_of_the_data(models, x):
    options = {"arms": ["separate"], "effort": 3, "target": 0.8, "verbose": 0, "seed": 0}
    # Of classes no more than 0.9 is lost, whatever is removed.
    labels = {"a": np.arange(48) % 4, "b": np.arange(48) % 3}
    result = tfmot_pam.compress(models, (x, labels), 0.9, **options)
    assert result.best.share < 1.0
    assert result.model.inputs[0].shape == (None, None, None, 3)
    counted = tfmot_pam.cost(result.model, input_shape=(12, 12, 3)).macs
    assert counted == result.best.macs["a", "b"]
    assert set(result.model.predict(x[:, :10], verbose=0)) == {"a", "b"}


def test_files_are_of_one_size(merged, x, tmp_path):
    with pytest.raises(ValueError, match="input_shape="):
        tflite_export.export(merged, tmp_path / "none", verbose=0)
    options = {"input_shape": (12, 12, 3), "samples": x[:8], "verbose": 0}
    files = tflite_export.export(merged, tmp_path / "files", **options)
    assert len(files) == 4
    assert all(file.max_abs_error <= 1e-4 for file in files)
