"""Tests of which tasks stay out of merged networks."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tfmot_pam.graph.selection import all_combinations
from tfmot_pam.pipeline import competition
from tfmot_pam.pipeline.apart import tasks_apart


def _expected(alone, apart, usage):
    """What a merged network of the other tasks and theirs side by side cost, written out."""
    together = max(cost for task, cost in alone.items() if task not in apart)
    total = 0.0
    for chosen, share in usage.items():
        own = sum(alone[task] for task in chosen if task in apart)
        total += share * (own + together * any(task not in apart for task in chosen))
    return total


@pytest.mark.parametrize(
    "costs", [(1.0, 1.0, 1.0), (0.05, 0.6, 1.1), (0.01, 0.02, 0.5, 1.0), (0.3, 0.2, 0.001, 1.0)]
)
def test_no_other_choice_costs_less(costs):
    alone = {f"t{place}": cost for place, cost in enumerate(costs)}
    combinations = all_combinations(tuple(alone))
    usage = dict.fromkeys(combinations, 1.0 / len(combinations))
    found = tasks_apart(alone)
    least = min(
        _expected(alone, apart, usage)
        for count in range(len(alone) - 1)
        for apart in itertools.combinations(alone, count)
    )
    assert _expected(alone, found, usage) == pytest.approx(least)


def test_two_tasks_are_never_taken_apart():
    assert tasks_apart({"digit": 1e-6, "speaker": 1.0}) == ()


def test_a_task_that_never_runs_without_the_others_costs_least_in_their_network():
    alone = {"activity": 0.05, "subject": 0.6, "height": 1.1}
    assert tasks_apart(alone) == ("activity",)
    assert tasks_apart(alone, {("activity", "subject", "height"): 1.0}) == ()


def test_tasks_that_run_alone_stay_alone():
    alone = {"a": 0.8, "b": 0.9, "c": 1.0}
    usage = {("a",): 0.98, ("b", "c"): 0.02}
    assert tasks_apart(alone) == ()
    assert tasks_apart(alone, usage) == ("a",)


# --- in a compression ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compressed():
    """Three tasks, of which the easy one is taken out of what is merged."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype("float32")
    sums = {"easy": x[:, 0], "first": x[:, :3].sum(1), "second": x[:, :4].sum(1)}
    labels = {task: (values > 0).astype("int64") for task, values in sums.items()}
    models = {}
    for place, task in enumerate(labels):
        keras.utils.set_random_seed(place)
        inputs = keras.Input((6,), name="vector")
        h = layers.Dense(16, activation="relu", name="hidden")(inputs)
        head = layers.Dense(2, activation="softmax", name=task)
        models[task] = keras.Model(inputs, head(h), name=task)
        models[task].compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        models[task].fit(x, labels[task], epochs=30, verbose=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(competition, "tasks_apart", lambda alone, usage: ("easy",))
        options = {"target": 0.7, "effort": 3, "verbose": 0, "seed": 0}
        result = tfmot_pam.compress(models, (x, labels), 0.3, **options)
    return models, (x, labels), result


@pytest.mark.slow
def test_a_task_that_stays_out_is_served_by_its_own_pruned_network(compressed):
    _, (x, _), result = compressed
    separate, late = result.arms
    assert set(late.rounds) == {("first", "second"), ("easy",)}
    assert late.rounds["easy",] == separate.rounds["easy",]
    assert late.macs["easy",] == separate.macs["easy",]
    assert late.macs["easy", "first"] == late.macs["easy",] + late.macs["first",]
    own, beside = separate.model.predict(x, verbose=0), late.model.predict(x, verbose=0)
    np.testing.assert_allclose(beside["easy"], own["easy"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_epochs_of_a_network_that_two_arms_have_count_once(compressed):
    *_, result = compressed
    separate, late = result.arms
    own = sum(row.epochs for row in late.rounds["first", "second"])
    assert result.epochs == separate.epochs + own + result.trial_epochs
    assert late.epochs > own


@pytest.mark.slow
def test_no_start_is_made_of_a_task_that_stays_out(compressed):
    *_, result = compressed
    assert set(result.probes) == {
        f"late-{kind}-{task}" for kind in ("trunk", "mixed") for task in ("first", "second")
    }


@pytest.mark.slow
def test_the_verdict_names_what_stays_alone(compressed):
    *_, result = compressed
    late = result.arms[1]
    assert f"'{late.start}' with ['easy'] alone" in result.verdict


@pytest.mark.slow
def test_starts_of_networks_that_are_found_need_no_trial(compressed):
    models, data, _ = compressed
    parts = tuple(tfmot_pam.ArmPart((task,), pruned=True) for task in models)
    arm = tfmot_pam.Arm("own", lambda tasks: [tfmot_pam.ArmStart(n, parts) for n in ("a", "b")])
    options = {"arms": ["separate", arm], "target": 0.6, "effort": 2, "verbose": 0, "seed": 0}
    result = tfmot_pam.compress(models, data, 0.5, **options)
    assert result.probes == {"a": 0.0, "b": 0.0}
    assert result.trial_epochs == 0
    separate, own = result.arms
    assert own.macs == separate.macs
