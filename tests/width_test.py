"""Own width and donor methods: no combination costs more than its originals, rules kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tfmot_pam
from tests.groupings import AB, A, B, aligned, masks_in, only, path, paths_for, request
from tests.random_models import family
from tests.small_nets import conv_net, dense_net
from tests.tiers import regular
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.juxtapose import juxtapose
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import select
from tfmot_pam.merging.donor import donor_method
from tfmot_pam.merging.regroup import regroup


def test_the_most_relevant_channels_enter_for_the_tasks_that_have_room():
    alignment = aligned(dense_net(0, (3,)), dense_net(1, (2,)))
    space = only(alignment)
    # All five are needed by both; both value the last ones most, and task 1 has room for two.
    paths = {(space, 0): path([], 5), (space, 1): path([], 5)}
    found = masks_in(alignment, regroup(request(alignment, paths), "pam", 1, "own"), space)
    assert found == [0, 0, A, AB, AB]
    paths[space, 1].order[:] = [2, 3, 4, 0, 1]
    # By mean places 1.5, 2.5, 1, 2, 3.
    found = masks_in(alignment, regroup(request(alignment, paths), "pam", 1, "own"), space)
    assert found == [0, AB, 0, A, AB]
    union = masks_in(alignment, regroup(request(alignment, paths), "pam", 1), space)
    assert union == [AB] * 5


def test_enough_room_takes_nothing_away():
    alignment = aligned(dense_net(0, (3,)), dense_net(1, (2,)))
    wanted = [A, AB, A, B, 0]
    grouping = regroup(request(alignment, paths_for((only(alignment), wanted))), "pam", 1, "own")
    assert masks_in(alignment, grouping, only(alignment)) == wanted


# Of the five networks of the last seed a layer is demoted before the one that feeds it.
@pytest.mark.parametrize(
    ("seed", "method"),
    [
        (5, "pam"),
        *(
            pytest.param(seed, method, marks=pytest.mark.slow)
            for seed, method in [
                *[(5, "random"), (5, "shared")],
                *itertools.product([1, 6], ["pam", "shared"]),
                (0, "pam"),
                (0, "pam-paper"),
                (0, "random"),
                (7, "pam-paper"),
            ]
        ),
    ],
)
def test_no_combination_costs_more_than_its_originals(seed, method):
    """On random networks; what a task cannot share it keeps, so costs can be equal."""
    found = family(seed)
    x = np.random.default_rng(seed).normal(size=(64, *found.x.shape[1:])).astype("float32")
    separate = tfmot_pam.merge(found.models, x, method="separate", verbose=0)
    merged = tfmot_pam.merge(found.models, x, method=method, width="own", min_group=1, verbose=0)
    for chosen in tfmot_pam.combinations(merged):
        whole = tfmot_pam.cost(separate, chosen).macs
        assert tfmot_pam.cost(merged, chosen).macs <= whole, chosen


def test_a_donors_trunk_is_the_donors_network():
    models = {"a": conv_net(0, (8, 10)), "b": conv_net(1, (6, 4))}
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    merged = tfmot_pam.merge(models, x, method=donor_method("a", lambda p, n: 1.0, "t"), verbose=0)
    alone = models["a"].predict(x, verbose=0)
    np.testing.assert_allclose(merged.predict(x, verbose=0)["a"], alone, atol=1e-5)
    assert tfmot_pam.cost(merged, "a").macs == tfmot_pam.cost(models["a"]).macs
    trunk = tfmot_pam.cost(models["a"]).macs - 30
    assert tfmot_pam.cost(merged, ("a", "b")).macs == trunk + 2 * 30
    assert merged.merge_plan.method == "t"


def test_a_mixed_start_gives_every_task_its_own_width():
    models = {"a": dense_net(0, (8, 8)), "b": dense_net(1, (6, 4))}
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    mixed = donor_method("a", lambda p, n: 1.0 if p == 0 else 0.5, "mixed")
    merged = tfmot_pam.merge(models, x, method=mixed, verbose=0)
    groups = [dict(space.groups) for space in merged.merge_plan.spaces]
    # The first layer is the donor's; above it 4 shared channels, and what is left of each width.
    assert groups[0] == {("a", "b"): {"a": tuple(range(8))}}
    assert groups[1] == {("a", "b"): {"a": (0, 1, 2, 3)}, ("a",): {"a": (4, 5, 6, 7)}}
    assert merged.merge_plan.spaces[1].dropped == {"b": (0, 1, 2, 3)}
    wider = tfmot_pam.merge(
        models, x, method=donor_method("b", lambda p, n: 0.5, "mixed"), verbose=0
    )
    assert dict(wider.merge_plan.spaces[1].groups) == {
        ("a", "b"): {"b": (0, 1)},
        ("a",): {"a": (0, 1, 2, 3, 4, 5)},
        ("b",): {"b": (2, 3)},
    }


# --- juxtaposed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", regular(range(12), 2))
def test_networks_side_by_side_compute_what_they_computed(seed):
    found = family(100 + seed)
    networks = [read(model) for model in found.models.values()]
    named = [
        network.replace(outputs={task: network.outputs})
        for task, network in zip(found.models, networks, strict=True)
    ]
    together = juxtapose(named, tuple(found.models))
    outputs = emit(together).predict(found.x, verbose=0)
    for task, model in found.models.items():
        expected = model.predict(found.x, verbose=0)
        np.testing.assert_allclose(outputs[task], expected, atol=1e-5)
        alone = tfmot_pam.cost(model).macs
        assert tfmot_pam.cost(emit(select(together, [task]))).macs == alone
        assert {
            layer.tasks for layer in select(together, [task]).layers.values() if layer.tasks
        } == {(task,)}


def test_a_merged_network_beside_a_single_one():
    models = {task: dense_net(k, name=task) for k, task in enumerate("abc")}
    pair = tfmot_pam.merge({t: models[t] for t in "ab"}, method="shared", verbose=0)
    together = juxtapose([read(pair), read(models["c"])], ("a", "b", "c"))
    model = emit(together)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    outputs = model.predict(x, verbose=0)
    np.testing.assert_allclose(outputs["b"], pair.predict(x, verbose=0)["b"], atol=1e-6)
    np.testing.assert_allclose(outputs["c"], models["c"].predict(x, verbose=0), atol=1e-6)
    costs = {c: tfmot_pam.cost(model, c).macs for c in tfmot_pam.combinations(model)}
    assert costs["a", "b", "c"] == costs["a", "b"] + costs["c",]


@pytest.mark.parametrize(
    ("networks", "tasks", "message"),
    [
        ((dense_net(0, name="a"), dense_net(1, name="b")), ("a", "c"), "Expected each of"),
        (
            (dense_net(0, name="a"), dense_net(1, name="b", inputs=5)),
            ("a", "b"),
            "inputs of different shapes",
        ),
    ],
)
def test_networks_that_cannot_stand_side_by_side(networks, tasks, message):
    with pytest.raises(ValueError, match=message):
        juxtapose([read(network) for network in networks], tasks)
