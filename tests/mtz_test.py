"""Multi-Task Zipping: one-to-one pairs of least functional difference."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmot_pam
from tests import random_models
from tests.fusing_test import FOUND, network
from tests.identities_test import assert_combinations, assert_superset_rule
from tests.permuted import in_three_orders, permuted, widths
from tests.small_nets import all_outputs, conv_net, dense_net, images, outputs_of, vectors
from tfmot_pam.graph.cost import combination_totals, network_cost
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.mtz import difference, mtz_method

layers = keras.layers


def merge(models, x, method="mtz", **options):
    return tfmot_pam.merge(models, x, method=method, verbose=0, **options)


@pytest.mark.parametrize("kind", FOUND)
def test_networks_in_other_orders_become_one(kind):
    x, first = images(32), network(kind)
    models = in_three_orders(first)
    model = merge(models, x)
    assert model.merge_plan.shared == 1.0
    for task, found in all_outputs(model, x).items():
        np.testing.assert_allclose(found, outputs_of(models[task], x), atol=1e-4)
    head = 4 * (first.layers[-1].input.shape[-1] + 1)
    assert model.count_params() == first.count_params() + 2 * head


def test_networks_of_one_origin_are_matched_through_noise():
    """Channels are found by what they do, those of a residual stream too."""
    x, first = images(64), network("residual")
    second, orders = permuted(first, 1, noise=0.1)
    plan = merge({"a": first, "b": second}, x).merge_plan
    found = {
        space.name: {pair["a"][0]: pair["b"][0] for pair in space.fused} for space in plan.spaces
    }
    right = [orders[name][b] == a for name, pairs in found.items() for a, b in pairs.items()]
    assert len(right) == 6 + 5 + 6
    assert np.mean(right) > 0.9


def moments(x: np.ndarray) -> np.ndarray:
    x = np.hstack([x, np.ones((len(x), 1))]).astype(float)
    return x.T @ x / len(x)


def test_differences_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    first, second = moments(rng.normal(size=(50, 4))), moments(2 * rng.normal(size=(50, 4)) + 1)
    one, other = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 4))
    found = difference(first, one, second, other)
    middle = first @ np.linalg.inv(first + second) @ second
    for a, b in itertools.product(range(3), range(4)):
        gaps = one[..., a] - other[..., b]
        expected = sum(0.5 * gap @ middle @ gap for gap in gaps)
        np.testing.assert_allclose(found[a, b], expected, rtol=1e-6)
        # It is what the best common weights leave of both errors.
        best = [
            np.linalg.solve(first + second, first @ p[:, a] + second @ q[:, b])
            for p, q in zip(one, other, strict=True)
        ]
        left = sum(
            0.5 * ((w - p[:, a]) @ first @ (w - p[:, a]) + (w - q[:, b]) @ second @ (w - q[:, b]))
            for w, p, q in zip(best, one, other, strict=True)
        )
        np.testing.assert_allclose(found[a, b], left, rtol=1e-6)


def test_pairs_are_the_best_of_all():
    models = {"a": dense_net(0, widths=(5,)), "b": dense_net(1, widths=(5,))}
    data = {"a": vectors(80, 1), "b": 2 * vectors(80, 2) + 0.5}
    plan = merge(models, data, samples=80).merge_plan
    (space,) = plan.spaces
    order = dict(sorted((pair["a"][0], pair["b"][0]) for pair in space.fused))
    first, second = (np.vstack(models[task].get_layer("fc0").get_weights()) for task in models)
    cost = difference(moments(data["a"]), first[None], moments(data["b"]), second[None])
    best = min(
        itertools.permutations(range(5)), key=lambda own: sum(cost[a, b] for a, b in enumerate(own))
    )
    assert tuple(order.values()) == best


def test_the_second_layer_is_matched_in_the_order_of_the_first():
    """Its weights differ by the order of what it reads, and by nothing that could be seen else."""
    first = dense_net(0, widths=(6, 6))
    second, orders = permuted(first, 1, noise=1e-4)
    space = merge({"a": first, "b": second}, vectors(64)).merge_plan.spaces[1]
    for pair in space.fused:
        assert orders["fc1"][pair["b"][0]] == pair["a"][0]


def test_a_share_takes_the_pairs_of_least_difference():
    first = dense_net(0, widths=(6,))
    second, orders = permuted(first, 1, noise=1e-5)
    weights = second.get_layer("fc0").get_weights()
    rng = np.random.default_rng(0)
    weights[0][:, 3:] += rng.normal(size=(6, 3))
    second.get_layer("fc0").set_weights(weights)
    model = merge({"a": first, "b": second}, vectors(64), share=0.5)
    (space,) = model.merge_plan.spaces
    assert {pair["b"][0] for pair in space.fused} == {0, 1, 2}
    assert all(orders["fc0"][pair["b"][0]] == pair["a"][0] for pair in space.fused)
    assert [widths(model)[f"fc0_{name}"] for name in ("shared", "a", "b")] == [3, 3, 3]


def test_other_widths_leave_channels_without_a_partner_apart():
    models = {"a": dense_net(0, widths=(6, 5)), "b": dense_net(1, widths=(4, 7))}
    found = widths(merge(models, vectors(64)))
    # Nothing of the first network alone is left that could read what it has alone below.
    sizes = {name: width for name, width in found.items() if name.startswith("fc")}
    assert sizes == {"fc0_shared": 4, "fc1_shared": 5, "fc1_b": 2}


def test_three_networks_of_other_widths_share_in_pairs_too():
    models = {name: dense_net(i, widths=(i + 4,)) for i, name in enumerate("abc")}
    found = widths(merge(models, vectors(64)))
    assert (found["fc0_shared"], found["fc0_b_c"], found["fc0_c"]) == (4, 1, 1)


def test_until_a_layer():
    models = {"a": conv_net(0), "b": conv_net(1)}
    for own, until in ((models, "conv0"), (models, "relu0")):
        found = widths(merge(own, images(32), method=mtz_method(until=until)))
        assert (found["conv0_shared"], found["conv1_a"], found["conv1_b"]) == (8, 10, 10)
        assert "conv1_shared" not in found


def test_other_preprocessing_does_not_hide_what_is_the_same():
    """The second network sees the inputs in other units; its first layer makes up for that."""
    first = conv_net(0, front=[layers.Rescaling(1.0, name="scale")])
    second, _ = permuted(first, 1, noise=1e-5)
    x = images(64)
    other = conv_net(1, front=[layers.Rescaling(4.0, name="scale")])
    weights = second.get_weights()
    other.set_weights([weights[0] / 4, *weights[1:]])
    np.testing.assert_allclose(outputs_of(other, x), outputs_of(second, x), atol=1e-5)
    model = merge({"a": first, "b": other}, x)
    for task, found in all_outputs(model, x).items():
        np.testing.assert_allclose(found, outputs_of(first, x), atol=1e-3, err_msg=task)


def test_transposed_convolutions_are_matched():
    def block(width, position):
        if position == 0:
            return [layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")]
        return [layers.Conv2DTranspose(width, 3, strides=2, padding="same", activation="relu")]

    first = conv_net(0, block=block)
    second, _ = permuted(first, 1, noise=1e-5)
    x = images(32)
    model = merge({"a": first, "b": second}, x)
    assert model.merge_plan.shared == 1.0
    for found in all_outputs(model, x).values():
        np.testing.assert_allclose(found, outputs_of(first, x), atol=1e-4)


@settings(max_examples=2)
@given(st.integers(0, 1_000_000))
def test_random_networks_keep_the_rules(seed):
    family = random_models.family(seed, tasks=2 + seed % 2)
    data = np.random.default_rng(1).normal(size=(32, *family.x.shape[1:])).astype("float32")
    model = merge(family.models, data, share=1.0 if seed % 2 else 0.5)
    assert all(np.isfinite(value).all() for value in all_outputs(model, family.x).values())
    merged = read(model)
    assert_superset_rule(merged)
    assert_combinations(merged, family.x)
    costs = combination_totals(merged)
    for task, own in family.models.items():
        assert costs[(task,)].macs <= network_cost(read(own)).macs, task


def test_a_network_with_itself_is_itself():
    first = conv_net(0)
    x = images(16)
    model = merge({"a": first, "b": keras.models.clone_model(first)}, x, samples=16)
    other = keras.models.clone_model(first)
    other.set_weights(first.get_weights())
    model = merge({"a": first, "b": other}, x, samples=16)
    for found in all_outputs(model, x).values():
        np.testing.assert_allclose(found, outputs_of(first, x), atol=1e-6)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"rho": 0.1}, {"alpha": 0.1}])
def test_thresholds_of_relevance_are_refused(options):
    models = {"a": dense_net(0), "b": dense_net(1)}
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}=0.1 with the method 'mtz'.*Pass `share`"):
        merge(models, vectors(16), **options)


def test_a_layer_that_there_is_not_is_refused():
    models = {"a": dense_net(0), "b": dense_net(1)}
    with pytest.raises(ValueError, match=r"until='nothing'.*\['vector', 'fc0', 'fc1'\]"):
        merge(models, vectors(16), method=mtz_method(until="nothing"))
    with pytest.raises(TypeError, match="`until` must be the name of a layer. Received: 3"):
        mtz_method(until=3)
