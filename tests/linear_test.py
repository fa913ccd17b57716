"""Layers as linear maps, and closed forms of what is fitted to them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.small_nets import outputs_of
from tfmot_pam.closed_form import linear
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
