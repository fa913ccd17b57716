"""ZipIt!: greedy matching by correlation; and what holds for both methods that match channels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfmot_pam
from tests import random_models
from tests.fusing_test import FOUND, network, scaled
from tests.identities_test import assert_combinations, assert_superset_rule
from tests.permuted import in_three_orders, permuted, widths
from tests.small_nets import all_outputs, classes, conv_net, dense_net, images, outputs_of, vectors
from tfmot_pam.graph.cost import combination_totals, network_cost
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.zip import _with_room, zip_method, zipped

layers = keras.layers
BOTH = ("mtz", "zip")


def merge(models, x, method="zip", **options):
    return tfmot_pam.merge(models, x, method=method, verbose=0, **options)


@pytest.mark.parametrize("kind", FOUND)
def test_networks_in_other_orders_become_one(kind):
    x, first = images(32), network(kind)
    models = in_three_orders(first)
    model = merge(models, x)
    assert model.merge_plan.shared == 1.0
    for task, found in all_outputs(model, x).items():
        np.testing.assert_allclose(found, outputs_of(models[task], x), atol=1e-4)


@pytest.mark.parametrize("within", [True, False])
def test_clusters_are_those_of_the_mean_features(within):
    """Every step joins the two clusters whose means correlate most."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(300, 5))
    features = np.maximum(hidden @ rng.normal(size=(5, 12)) + rng.normal(size=(300, 12)), 0)
    owners = np.repeat([0, 1, 2], 4)
    found = zipped(np.cov(features.T), owners, np.zeros(12, int), 8, within)
    clusters = [[channel] for channel in range(12)]
    for _ in range(8):
        means = np.stack([features[:, own].mean(axis=1) for own in clusters])
        likeness = np.corrcoef(means)
        allowed = [
            (likeness[i, j], i, j)
            for i in range(len(clusters))
            for j in range(i + 1, len(clusters))
            if within or not {owners[c] for c in clusters[i]} & {owners[c] for c in clusters[j]}
        ]
        if not allowed:
            break
        _, i, j = max(allowed)
        clusters[i] += clusters.pop(j)
    assert found == [sorted(own) for own in clusters]
    assert within != all(len({*owners[own]}) == len(own) for own in found)


def test_channels_of_other_kinds_and_constant_ones():
    covariance = np.diag([1.0, 1.0, 0.0, 0.0]) + 0.0
    covariance[0, 1] = covariance[1, 0] = 0.9
    owners, kinds = np.array([0, 1, 0, 1]), np.zeros(4, int)
    assert zipped(covariance, owners, kinds, 2, True) == [[0, 1], [2, 3]]
    assert zipped(covariance, owners, np.array([0, 1, 0, 1]), 4, False) == [[0], [1], [2], [3]]


def test_a_task_with_room_takes_others_channels():
    # The first network's two became one, so that it has room for what only the second has.
    classes_of = [[(0, 0), (0, 1)], [(0, 2), (1, 0)], [(1, 1)], [(1, 2)]]
    one = np.zeros(3, int)
    assert _with_room(classes_of, (one, one)) == [1, 3, 3, 2]
    assert _with_room(classes_of, (one, np.zeros(4, int))) == [3, 3, 3, 2]
    # There is no room where a channel is in other tensors.
    assert _with_room(classes_of, (one, np.array([0, 1, 0]))) == [1, 3, 2, 3]


def test_channels_that_stand_twice_become_one():
    first = dense_net(0, widths=(6,))
    kernel, bias = first.get_layer("fc0").get_weights()
    kernel[:, 3:], bias[3:] = 2 * kernel[:, :3], 2 * bias[:3]
    first.get_layer("fc0").set_weights([kernel, bias])
    other, x = dense_net(1, widths=(6,)), vectors(64)
    plan = merge({"a": first, "b": other}, x, share=0.5).merge_plan
    assert [dict(found) for found in plan.spaces[0].fused] == [{"a": (i, i + 3)} for i in range(3)]
    model = merge({"a": first, "b": other}, x, share=0.5, compensation=False)
    found = all_outputs(model, x)
    np.testing.assert_allclose(found["a"], outputs_of(first, x), atol=1e-5)
    np.testing.assert_allclose(found["b"], outputs_of(other, x), atol=1e-5)
    apart = merge({"a": first, "b": other}, x, method=zip_method(within=False), share=0.5)
    assert all(len(found) == 2 for found in apart.merge_plan.spaces[0].fused)


def test_factors_undo_other_scales():
    first, x = dense_net(0, widths=(5,)), vectors(64)
    factor = np.random.default_rng(0).uniform(0.3, 3.0, 5)
    second = scaled(first, "fc0", "head", factor)
    model = merge({"a": first, "b": second}, x, compensation=False)
    for found in all_outputs(model, x).values():
        np.testing.assert_allclose(found, outputs_of(first, x), atol=1e-4)


def test_until_a_layer():
    models = {"a": conv_net(0), "b": conv_net(1)}
    found = widths(merge(models, images(32), method=zip_method(until="conv0")))
    assert (found["conv0_shared"], found["conv1_a"], found["conv1_b"]) == (8, 10, 10)
    assert "conv1_shared" not in found


# --- both methods -----------------------------------------------------------------------------


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
    for task, own in family.models.items():
        assert combination_totals(merged)[(task,)].macs <= network_cost(read(own)).macs, task


@pytest.mark.parametrize("method", BOTH)
def test_a_network_with_itself_is_itself(method):
    first, x = conv_net(0), images(16)
    other = keras.models.clone_model(first)
    other.set_weights(first.get_weights())
    model = merge({"a": first, "b": other}, x, method)
    for found in all_outputs(model, x).values():
        np.testing.assert_allclose(found, outputs_of(first, x), atol=1e-6)


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("width", ["own", "union"])
def test_no_task_gets_more_channels_than_it_had(method, width):
    models = {"a": conv_net(0, (8, 10)), "b": conv_net(1, (6, 12))}
    x = images(48)
    model = merge(models, x, method, width=width)
    costs = combination_totals(read(model))
    for task, own in models.items():
        assert costs[(task,)].macs <= network_cost(read(own)).macs
    assert costs["a", "b"].macs < sum(network_cost(read(own)).macs for own in models.values())
    plan = tfmot_pam.MergePlan.from_json(model.merge_plan.to_json())
    again = tfmot_pam.merge(models, x, plan=plan, verbose=0)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", BOTH)
def test_several_inputs(method):
    def own(seed):
        keras.utils.set_random_seed(seed)
        left, right = keras.Input((6,), name="left"), keras.Input((4,), name="right")
        h = [layers.Dense(5, "relu", name=f"d{i}")(x) for i, x in enumerate((left, right))]
        h = layers.Dense(6, "relu", name="both")(layers.Concatenate(name="join")(h))
        return keras.Model([left, right], layers.Dense(3, name="head")(h))

    x = {"left": vectors(40), "right": vectors(40, 1, 4)}
    first = own(0)
    second, _ = permuted(first, 1, noise=1e-5)
    model = merge({"a": first, "b": second}, x, method)
    assert model.merge_plan.shared == 1.0
    expected = keras.ops.convert_to_numpy(first(x))
    for found in model(x).values():
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("method", BOTH)
def test_what_cannot_be_shared_is_left_alone(method):
    """Behind a layer that every network keeps whole all channels stay as they are."""

    def own(seed):
        keras.utils.set_random_seed(seed)
        h = sequence = keras.Input((6, 2))
        h = layers.Conv1D(5, 3, activation="relu", name="conv")(h)
        h = layers.Dense(6, activation="relu", name="fc")(layers.LSTM(4, name="lstm")(h))
        return keras.Model(sequence, layers.Dense(3, name="head")(h))

    x = np.random.default_rng(0).normal(size=(32, 6, 2)).astype("float32")
    model = merge({"a": own(0), "b": own(1)}, x, method)
    found = widths(model)
    assert (found["conv_shared"], found["fc_a"], found["fc_b"]) == (5, 6, 6)
    (conv, *others) = model.merge_plan.spaces
    assert conv.fused
    assert not any(space.fused for space in others)


@pytest.mark.parametrize("method", BOTH)
def test_data_of_each_task(method):
    models = {"a": dense_net(0, widths=(5,)), "b": dense_net(1, widths=(5,))}
    x = {"a": vectors(40), "b": 2 * vectors(40, 1)}
    model = merge(models, {t: (own, classes(own, 3)) for t, own in x.items()}, method)
    assert model.get_layer("fc0_shared").output.shape[-1] == 5


def test_models_of_tf_keras():
    tf_keras = pytest.importorskip("tf_keras")

    def own(seed):
        tf_keras.utils.set_random_seed(seed)
        h = [tf_keras.layers.Dense(6, activation="relu"), tf_keras.layers.Dense(3)]
        return tf_keras.Sequential([tf_keras.Input((6,)), *h])

    model = merge({"a": own(0), "b": own(1)}, vectors(32), "mtz")
    assert isinstance(model, tf_keras.Model)
    assert set(model(vectors(4))) == {"a", "b"}


@pytest.mark.parametrize("method", BOTH)
def test_merged_models_are_reported_and_pruned(method):
    x = images(48)
    models = {"a": conv_net(0), "b": conv_net(1)}
    model = merge(models, x, method)
    report = tfmot_pam.report(model, originals=models)
    assert all(row.macs <= row.original_macs for row in report.rows)
    assert ("a", "b") in report.groups["conv0"]
    gated = tfmot_pam.prune_channels(model, 0.5, "reconstruction", data=x)
    pruned = tfmot_pam.strip_pruning(gated)
    assert all(np.isfinite(value).all() for value in all_outputs(pruned, x).values())
    assert pruned.count_params() < model.count_params()


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"rho": 0.1}, {"alpha": 0.1}])
def test_thresholds_of_relevance_are_refused(options):
    models = {"a": dense_net(0), "b": dense_net(1)}
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}=0.1 with the method 'zip'.*Pass `share`"):
        merge(models, vectors(16), **options)


def test_other_options_are_refused():
    models = {"a": dense_net(0), "b": dense_net(1)}
    with pytest.raises(ValueError, match=r"until='nothing'.*\['vector', 'fc0', 'fc1'\]"):
        merge(models, vectors(16), method=zip_method(until="nothing"))
    with pytest.raises(TypeError, match="`until` must be the name of a layer. Received: 3"):
        zip_method(until=3)
    with pytest.raises(TypeError, match="`within` must be True or False. Received: 'no'"):
        zip_method(within="no")
