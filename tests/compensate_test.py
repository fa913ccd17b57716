"""Compensation: what it makes up for in merges."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import (
    all_outputs,
    assert_same_weights,
    conv_net,
    dense_net,
    images,
    outputs_of,
    vectors,
)
from tfmot_pam.closed_form import linear
from tfmot_pam.closed_form.compensate import Compensation, choose_samples
from tfmot_pam.graph.reader import read

layers = keras.layers


def merge(models, x, **options):
    """A merge of all channels: what compensation makes up for is then what the groups cut."""
    return tfmot_pam.merge(models, x, verbose=0, width="union", **options)


def logits():
    return [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(3, name="head")]


def plain(width, position):
    return [layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{position}")]


def normalised(width, position):
    return [
        layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{position}"),
        layers.BatchNormalization(name=f"bn{position}"),
        layers.ReLU(name=f"relu{position}"),
    ]


def normalised_with_bias(width, position):
    first, *others = normalised(width, position)
    return [layers.Conv2D(width, 3, padding="same", name=first.name), *others]


def without_bias(width, position):
    return [
        layers.Conv2D(
            width, 3, padding="same", use_bias=False, activation="relu", name=f"conv{position}"
        )
    ]


def depthwise_separable(width, position):
    return [
        layers.DepthwiseConv2D(3, padding="same", use_bias=position == 1, name=f"depth{position}"),
        layers.BatchNormalization(name=f"norm{position}"),
        layers.ReLU(name=f"active{position}"),
        *plain(width, position),
    ]


def separable(width, position):
    if position == 0:
        return plain(width, position)
    return [layers.SeparableConv2D(width, 3, activation="relu", name=f"conv{position}")]


def transposed(width, position):
    return [
        layers.Conv2DTranspose(width, 2, strides=2, activation="relu", name=f"conv{position}"),
        layers.MaxPooling2D(name=f"pool{position}"),
    ]


def bias_of(layer):
    return any("bias" in weight.path.rsplit("/", 1)[-1] for weight in layer.weights)


def pair_of(block, widths=((10, 12), (12, 10))):
    return {
        task: conv_net(seed, widths[seed], logits, block)
        for seed, task in enumerate(("zebra", "ant"))
    }


def error_of(merged, models, x):
    """The largest root mean squared error of a task, as a share of its outputs' deviation."""
    found = all_outputs(merged, x)
    shares = []
    for task, model in models.items():
        expected = outputs_of(model, x)
        error = np.sqrt(np.mean((found[task] - expected) ** 2))
        shares.append(error / np.std(expected - expected.mean(axis=0)))
    return max(shares)


def before_and_after(models, x, held_out):
    """The errors of a merge without and with compensation, on inputs that the fit has not seen."""
    cut = merge(models, x, share=0.4, compensation=False)
    assert cut.merge_plan.shared == pytest.approx(0.4, abs=0.1)
    merged = merge(models, x, plan=cut.merge_plan)
    return error_of(cut, models, held_out), error_of(merged, models, held_out)


# Random kernels differ by backend; with JAX's, the cut of the one with the mark loses nothing.
@pytest.mark.parametrize(
    "block",
    [
        plain,
        normalised,
        pytest.param(normalised_with_bias, marks=pytest.mark.slow),
        pytest.param(without_bias, marks=pytest.mark.slow),
        pytest.param(depthwise_separable, marks=pytest.mark.tensorflow),
        separable,
    ],
)
def test_it_brings_merged_outputs_back_to_the_originals(block):
    before, after = before_and_after(pair_of(block), images(192), images(128, seed=7))
    assert before > 1.0  # The outputs say nothing any more.
    assert after < 0.4
    assert after < before / 5


def test_depthwise_channels_are_fitted_one_by_one():
    rng = np.random.default_rng(0)
    channels, multiplier = linear._CHANNELS + 3, 2
    keras_layer = layers.DepthwiseConv2D(
        3, padding="same", depth_multiplier=multiplier, bias_initializer="normal", name="depth"
    )
    inputs = keras.Input((5, 4, channels))
    model = keras.Model(inputs, keras_layer(inputs))
    x = rng.normal(size=(40, 5, 4, channels)).astype("float32")
    x[..., 7] = 0.0  # nothing to fit
    layer = read(model).layers["depth"]
    places = linear.sample_places(len(x), (5, 4), 300, rng)

    def patches_of(own):
        return linear.patches(layer, x[..., own], places)

    found = linear.depthwise_pre_activation(layer, len(places), patches_of)
    np.testing.assert_allclose(
        found, model.predict(x, verbose=0)[tuple(places.T)], rtol=0, atol=1e-5
    )
    residual = rng.normal(size=found.shape)
    change, intercept = linear.fit_depthwise(layer, patches_of, residual, 1e-2)
    assert change.shape == layer.weights["kernel"].shape
    features = linear.patches(layer, x, places)
    for channel in range(channels):
        outputs = slice(channel * multiplier, (channel + 1) * multiplier)
        kernel, offset = linear.fit(features[:, :, channel], residual[:, outputs], 1e-2)
        np.testing.assert_allclose(change[:, :, channel].reshape(9, -1), kernel, atol=1e-6)
        np.testing.assert_allclose(intercept[outputs], offset, atol=1e-6)


def test_layers_without_a_closed_form_get_the_right_mean():
    before, after = before_and_after(pair_of(transposed), images(192), images(128, seed=7))
    assert after < before / 5


def test_dense_networks():
    models = {
        task: dense_net(seed, (16, 14), 3, None, inputs=16)
        for seed, task in enumerate(("zebra", "ant"))
    }
    x, held_out = (images(n, s, (4, 4, 1)).reshape(n, 16) for n, s in ((300, 0), (200, 3)))
    before, after = before_and_after(models, x, held_out)
    assert after < before / 2


def test_nothing_changes_where_nothing_was_cut():
    for block in (normalised, depthwise_separable):
        models = pair_of(block, ((5, 6), (6, 4)))
        x = images(48)
        for method in ("separate", "shared"):
            plain_merge = merge(models, x, method=method, compensation=False)
            assert_same_weights(merge(models, x, method=method), plain_merge)


def test_a_cut_that_is_a_multiple_is_made_good_exactly():
    """Task b's first channel is twice a's second one: it can be left out and replaced."""
    kernel = np.random.default_rng(0).normal(size=(6, 3))
    models = {}
    for task, columns in (("a", [0, 1, 2]), ("b", [1, 0, 2])):
        x = keras.Input((6,), name="vector")
        h = layers.Dense(3, activation="relu", name="fc")(x)
        models[task] = keras.Model(x, layers.Dense(2, name=f"out_{task}")(h))
        times = {"a": 1.0, "b": 2.0}[task]
        models[task].get_layer("fc").set_weights([times * kernel[:, columns], np.zeros(3)])
    x = vectors(400)
    cut = merge(models, x, method="shared", compensation=False)
    space = cut.merge_plan.spaces[0]
    # All of b's channels are dropped: a's stand for them.
    plan = dataclasses.replace(
        cut.merge_plan,
        spaces=(
            dataclasses.replace(
                space, groups=((("a", "b"), {"a": (0, 1, 2)}),), dropped={"b": (0, 1, 2)}
            ),
        ),
    )
    options = Compensation(ridge=1e-8)
    merged = merge(models, x, plan=plan, compensation=options)
    assert merged.get_layer("fc_shared").layer.units == 3
    held_out = vectors(100, seed=1)
    for task, value in all_outputs(merged, held_out).items():
        np.testing.assert_allclose(value, outputs_of(models[task], held_out), atol=1e-4)
    without = merge(models, x, plan=plan, compensation=False)
    assert error_of(without, models, held_out) > 0.5


def test_the_options_take_effect():
    models, x = pair_of(plain, ((5, 6), (6, 5))), images(64)
    cut = merge(models, x, rho=0.2, min_group=1, compensation=False)
    first = merge(models, x, plan=cut.merge_plan)
    assert_same_weights(merge(models, x, plan=cut.merge_plan, compensation=Compensation()), first)
    strong = merge(models, x, plan=cut.merge_plan, compensation=Compensation(ridge=1e9))
    for old, new in zip(cut.weights, strong.weights, strict=True):
        if old.path.endswith("kernel"):
            np.testing.assert_allclose(new, old, atol=1e-5)
    for other in (Compensation(places=300), Compensation(ridge=0.1), Compensation(seed=5)):
        found = merge(models, x, plan=cut.merge_plan, compensation=other)
        same = [np.array_equal(a, b) for a, b in zip(first.weights, found.weights, strict=True)]
        # All places fit without drawing, so that the seed alone changes nothing here.
        assert all(same) == (other == Compensation(seed=5))


def test_layers_without_bias_get_one_only_where_something_was_cut():
    models, x = pair_of(without_bias, ((5, 6), (6, 5))), images(64)
    whole = merge(models, x, method="separate")
    assert not any(bias_of(layer) for layer in whole.layers if layer.name.startswith("conv"))
    cut = merge(models, x, rho=0.3, min_group=1)
    kept = [layer for layer in cut.layers if layer.name.startswith("conv1")]
    assert all(bias_of(layer) for layer in kept)
    # A saved model holds the new bias.
    config = keras.models.clone_model(cut).get_layer(kept[0].name).layer.get_config()
    assert config["use_bias"] is True


def test_batch_norm_takes_the_intercept_in_its_mean():
    models, x = pair_of(normalised, ((5, 6), (6, 5))), images(96)
    cut = merge(models, x, rho=0.3, min_group=1, compensation=False)
    merged = merge(models, x, plan=cut.merge_plan)
    assert [w.path for w in merged.weights] == [w.path for w in cut.weights]
    changed = set()
    for old, new in zip(cut.weights, merged.weights, strict=True):
        if not np.array_equal(old, new):
            changed.add(old.path.rsplit("/", 1)[-1])
    assert changed == {"kernel", "moving_mean", "bias"}  # The bias is the heads'.


def test_samples_are_bounded_by_memory():
    networks = [read(conv_net(0))]
    x = images(200)
    assert choose_samples(networks, x, Compensation()) is x
    few = choose_samples(networks, x, Compensation(memory=1))
    assert len(few) == 64
    again = choose_samples(networks, x, Compensation(memory=1))
    np.testing.assert_array_equal(few[:], again[:])
    other = choose_samples(networks, x, Compensation(memory=1, seed=1))
    assert not np.array_equal(few[:], other[:])
