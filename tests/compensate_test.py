"""Compensation: closed forms of the fit, layers as linear maps, and what it does for merges."""

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


# --- the fit ------------------------------------------------------------------------------------


def independent_fit(features, residual, ridge):
    """The normal equations of the centred problem, solved by NumPy."""
    f, r = features.astype("float64"), residual.astype("float64")
    fc, rc = f - f.mean(0), r - r.mean(0)
    strength = ridge * (fc**2).sum() / fc.shape[1]
    solution = np.linalg.solve(fc.T @ fc + strength * np.eye(f.shape[1]), fc.T @ rc)
    return solution, r.mean(0) - f.mean(0) @ solution


@pytest.mark.parametrize("shape", [(40, 7), (12, 12), (9, 30)])
@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_fit_solves_the_ridge_problem_in_either_form(shape, ridge):
    rng = np.random.default_rng(0)
    features = (rng.normal(size=shape) + 2.0).astype("float32")
    residual = rng.normal(size=(shape[0], 4)).astype("float32")
    solution, intercept = linear.fit(features, residual, ridge)
    expected = independent_fit(features, residual, ridge)
    np.testing.assert_allclose(solution, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(intercept, expected[1], rtol=1e-5, atol=1e-6)


def test_primal_and_dual_agree():
    """As many samples as features, and one more of either: the same map up to that one."""
    rng = np.random.default_rng(0)
    features, residual = rng.normal(size=(20, 20)), rng.normal(size=(20, 3))
    primal = linear.fit(features, residual, 0.1)
    # A feature that is always zero makes the dual form the smaller one; it changes the scale.
    wide = np.concatenate([features, np.zeros((20, 1))], axis=1)
    dual = linear.fit(wide, residual, 0.1 * 21 / 20)
    np.testing.assert_allclose(dual[0][:20], primal[0], rtol=1e-8)
    np.testing.assert_allclose(dual[0][20], 0.0, atol=1e-12)
    np.testing.assert_allclose(dual[1], primal[1], rtol=1e-8)


def test_fit_finds_an_exact_linear_map():
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(200, 6)) + 1.0, rng.normal(size=(6, 2))
    solution, intercept = linear.fit(features, features @ truth + [3.0, -1.0], 1e-9)
    np.testing.assert_allclose(solution, truth, atol=1e-6)
    np.testing.assert_allclose(intercept, [3.0, -1.0], atol=1e-5)


def test_one_feature_in_closed_form():
    """Cov / (var + ridge var) for one feature: the penalty is relative to the mean square."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    solution, intercept = linear.fit(x, 2 * x + 1, 1.0)
    np.testing.assert_allclose(solution, [[1.0]])
    np.testing.assert_allclose(intercept, [1 + 1.5])


def test_constant_features_leave_the_mean_to_the_intercept():
    residual = np.array([[1.0, 4.0], [3.0, 8.0]])
    solution, intercept = linear.fit(np.ones((2, 3)), residual, 1e-3)
    np.testing.assert_array_equal(solution, np.zeros((3, 2)))
    np.testing.assert_allclose(intercept, [2.0, 6.0])


def test_equal_features_share_the_map():
    """With a duplicate there is no unique solution but the ridge's, which is symmetric."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(50, 1))
    solution, _ = linear.fit(np.concatenate([one, one], axis=1), 3 * one, 1e-6)
    np.testing.assert_allclose(solution, [[1.5], [1.5]], rtol=1e-4)


def held_out_problem(count, features, noise, seed=0):
    """Rows of so many samples, whose residuals are a linear map of few features, and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, features)) + 1.0
    truth = np.zeros((features, 2))
    truth[:3] = np.random.default_rng(9).normal(size=(3, 2))
    return x, x @ truth + noise * rng.normal(size=(count, 2)), truth


def test_held_out_samples_choose_a_weak_penalty_where_there_is_no_noise():
    x, residual, truth = held_out_problem(400, 12, 0.0)
    solution, intercept = linear.fit_held_out(x, residual, np.arange(400))
    np.testing.assert_allclose(solution, truth, atol=5e-3)
    np.testing.assert_allclose(intercept, [0.0, 0.0], atol=2e-2)


@pytest.mark.parametrize("features", [60, 100, 300])
def test_held_out_samples_keep_noise_from_being_fitted(features):
    """With as many features as samples a weak penalty makes what is fitted worse than nothing."""
    x, residual, _ = held_out_problem(100, features, 3.0)
    fresh, wanted, _ = held_out_problem(500, features, 3.0, seed=1)

    def error(solution, intercept):
        return np.mean((wanted - fresh @ solution - intercept) ** 2)

    nothing = np.mean((wanted - residual.mean(0)) ** 2)
    assert error(*linear.fit_held_out(x, residual, np.arange(100))) < 1.05 * nothing
    assert error(*linear.fit(x, residual, 1e-3)) > 1.2 * nothing


def test_rows_of_one_sample_are_held_out_together():
    """Noise that all rows of a sample share can be fitted from rows of its, and from no others'."""
    x, residual, _ = held_out_problem(40, 60, 3.0)
    rows = np.repeat(np.arange(40), 6)
    near = x[rows] + 1e-3 * np.random.default_rng(3).normal(size=(240, 60))
    together, _ = linear.fit_held_out(near, residual[rows], rows)
    apart, _ = linear.fit_held_out(near, residual[rows], np.arange(240))
    assert np.linalg.norm(together) < 0.5 * np.linalg.norm(apart)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_samples_to_hold_one_out_change_the_mean_alone(count):
    x, residual, _ = held_out_problem(count, 5, 0.0)
    solution, intercept = linear.fit_held_out(x, residual, np.arange(count))
    np.testing.assert_array_equal(solution, np.zeros((5, 2)))
    np.testing.assert_allclose(intercept, residual.mean(0))


# --- layers as linear maps ----------------------------------------------------------------------

PRE_ACTIVATIONS = {
    "dense": (lambda: layers.Dense(5), (6,)),
    "dense on rows": (lambda: layers.Dense(5), (4, 6)),
    "dense on images": (lambda: layers.Dense(5, use_bias=False), (3, 4, 6)),
    "conv1d causal": (lambda: layers.Conv1D(4, 3, padding="causal"), (9, 3)),
    "conv1d causal dilated": (
        lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
        (9, 3),
    ),
    "conv1d causal strided": (lambda: layers.Conv1D(4, 3, padding="causal", strides=2), (9, 3)),
    "conv1d same strided": (lambda: layers.Conv1D(4, 4, padding="same", strides=3), (10, 3)),
    "conv3d": (
        lambda: layers.Conv3D(4, (2, 3, 1), padding="same", strides=(1, 2, 1)),
        (4, 5, 3, 2),
    ),
    "conv3d valid": (lambda: layers.Conv3D(4, 2), (4, 5, 3, 2)),
    "conv2d 1x1 strided": (lambda: layers.Conv2D(4, 1, strides=2), (5, 6, 3)),
    "conv2d without bias": (lambda: layers.Conv2D(4, 3, use_bias=False), (5, 6, 3)),
    "separable1d": (lambda: layers.SeparableConv1D(4, 3, padding="same"), (7, 3)),
    "separable2d": (lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2), (6, 6, 3)),
    "separable2d strided": (
        lambda: layers.SeparableConv2D(4, 3, strides=2, padding="same", use_bias=False),
        (7, 7, 3),
    ),
}
for _padding in ("same", "valid"):
    for _size in ((6, 7), (7, 9)):
        for _kernel, _strides, _dilation in (
            (3, 1, 1),
            ((3, 2), 1, 1),
            ((2, 4), (2, 3), 1),
            (3, 2, 1),
            (5, 3, 1),
            (3, 1, 2),
            ((2, 3), 1, (3, 2)),
        ):
            _name = f"conv2d {_padding} {_size} {_kernel} {_strides} {_dilation}"
            PRE_ACTIVATIONS[_name] = (
                lambda p=_padding, k=_kernel, s=_strides, d=_dilation: layers.Conv2D(
                    4, k, padding=p, strides=s, dilation_rate=d
                ),
                (*_size, 3),
            )


def layer_in_network(make, shape, seed=0):
    """A layer with random weights and biases: as Keras sees it, and as data."""
    x = keras.Input(shape)
    layer = make()
    model = keras.Model(x, layer(x))
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model, read(model).layers[layer.name]


@pytest.mark.parametrize("case", PRE_ACTIVATIONS)
def test_pre_activations_equal_the_keras_layer(case):
    make, shape = PRE_ACTIVATIONS[case]
    model, layer = layer_in_network(make, shape)
    x = np.random.default_rng(1).normal(size=(3, *shape)).astype("float32")
    expected = outputs_of(model, x)
    form = linear.LINEAR_FORMS[layer.kind]
    grid = form.grid(layer, x.shape)
    assert grid == expected.shape[1:-1]
    places = linear.sample_places(3, grid, 10**6, np.random.default_rng(0))
    assert len(places) == np.prod(expected.shape[:-1])
    found = linear.pre_activation(form, layer, form.read(layer, x, places))
    np.testing.assert_allclose(found, expected[tuple(places.T)], rtol=1e-4, atol=1e-4)


def test_the_activation_is_left_out():
    model, layer = layer_in_network(lambda: layers.Dense(4, activation="relu"), (3,))
    x = np.random.default_rng(1).normal(size=(8, 3)).astype("float32")
    form = linear.LINEAR_FORMS["Dense"]
    places = linear.sample_places(8, (), 100, np.random.default_rng(0))
    found = linear.pre_activation(form, layer, form.read(layer, x, places))
    assert found.min() < 0
    np.testing.assert_allclose(np.maximum(found, 0), outputs_of(model, x), rtol=1e-5, atol=1e-6)


def test_sampled_places_are_different_and_spread_over_the_samples():
    places = linear.sample_places(50, (8, 6), 600, np.random.default_rng(0))
    assert places.shape == (600, 3)
    assert len(np.unique(places, axis=0)) == 600
    assert (places.min(axis=0) >= 0).all()
    assert (places.max(axis=0) == [49, 7, 5]).all()
    assert len(np.unique(places[:, 0])) == 50
    every = linear.sample_places(5, (2, 3), 1000, np.random.default_rng(0))
    assert len(np.unique(every, axis=0)) == len(every) == 30


# --- merges -------------------------------------------------------------------------------------


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
