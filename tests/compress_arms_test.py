"""Arms of `compress`: where searches start, and which start they go on with."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.quick_compress import HALF, QUICK, both, model, samples
from tfmot_pam.display import Display
from tfmot_pam.pipeline.competition import Competition


@pytest.fixture(scope="module")
def models():
    return both()


def test_arms_and_methods_of_ones_own(models):
    def first_shared(request):
        """Half of the first network's channels for all tasks, and nothing else."""
        spaces = request.alignment.spaces
        return {
            index: np.repeat([3, 0, 0, 0], np.repeat([w // 2 for w in space.widths], 2))
            for index, space in enumerate(spaces)
            if not space.given
        }

    method = tfmot_pam.MergeMethod("first", first_shared, own_width=True)
    arm = tfmot_pam.Arm(
        "half", lambda tasks: [tfmot_pam.ArmStart("half", (tfmot_pam.ArmPart(tasks, method),))]
    )
    found = tfmot_pam.compress(models, samples(), 0.5, arms=[arm], target=0.3, **QUICK)
    assert found.best.name == found.best.start == "half"
    assert "add 'separate'" in found.verdict
    halves = 12 * 8 + 8 * 12
    first = found.best.rounds["sign", "sum"][0]
    assert first.macs == pytest.approx(halves + 2 * 8 * 4 / 3)


@pytest.mark.slow
def test_methods_by_which_channels_become_one_are_arms(models):
    options = {**QUICK, "arms": ["mtz", "zip"], "effort": 1}
    found = tfmot_pam.compress(models, samples(), 0.5, target=0.9, **options)
    assert {arm.name for arm in found.arms} == {"mtz", "zip"}
    # All is shared at first: each combination costs what one network does.
    single = np.mean([tfmot_pam.cost(model).macs for model in models.values()])
    for arm in found.arms:
        assert arm.rounds["sign", "sum"][0].macs == pytest.approx(single, rel=0.1)


def test_tasks_need_not_be_named_like_the_layers(models):
    x, labels = samples()
    renamed = {"one": models["sign"], "two": models["sum"]}
    data = (x, {"one": labels["sign"], "two": labels["sum"]})
    options = {**QUICK, "arms": ["shared"], "effort": 1}
    found = tfmot_pam.compress(renamed, data, 0.5, target=0.9, **options)
    assert list(found.model.output) == ["one", "two"]


def test_networks_that_cannot_be_merged_are_pruned_separately(models):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    h = layers.Dense(12, activation="tanh")(inputs)
    other = keras.Model(inputs, layers.Dense(2, activation="softmax", name="sum")(h))
    other.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    x, labels = samples()
    other.fit(x, labels["sum"], epochs=10, verbose=0)
    odd = {"sign": models["sign"], "sum": other}
    found = tfmot_pam.compress(odd, (x, labels), 0.2, target=0.7, **{**QUICK, "effort": 2})
    assert [arm.name for arm in found.arms] == ["separate"]
    assert "does not pay here" in found.verdict
    assert "no common trunk" in found.verdict
    with pytest.raises(ValueError, match="no common trunk"):
        tfmot_pam.compress(odd, (x, labels), 0.2, arms=["trunk"], **QUICK)


@pytest.mark.slow
def test_many_starts_are_tried_for_fewer_epochs_each(models):
    x, labels = samples()
    third = dict(models, third=model("sign", 3))
    data = (x, {**labels, "third": labels["sign"]})
    found = tfmot_pam.compress(
        third, data, 0.5, arms=["stem"], target=0.6, **{**QUICK, "effort": 8}
    )
    # Six starts: two heights for each of three donors.
    assert len(found.probes) == 6
    assert found.probes[found.best.start] <= 1.05 * min(found.probes.values())
    assert found.trial_epochs == 6 * 1  # of 24 each, not 2 as where starts are few
    assert len(found.best.macs) == 7


@pytest.mark.parametrize(
    ("losses", "together", "chosen"),
    [
        ({"trunk": 1.04, "mixed": 1.0}, {"trunk": 2.0, "mixed": 3.0}, "trunk"),
        ({"trunk": 1.06, "mixed": 1.0}, {"trunk": 2.0, "mixed": 3.0}, "mixed"),
        (
            {"trunk": 1.04, "other": 1.02, "mixed": 1.0},
            {"trunk": 2.0, "other": 2.05, "mixed": 3.0},
            "other",
        ),
        ({"trunk": 0.0, "mixed": 0.0}, {"trunk": 0.0, "mixed": 0.0}, "trunk"),
    ],
)
def test_of_starts_as_good_as_equal_one_that_shares_most_is_taken(
    monkeypatch, losses, together, chosen
):
    contest = Competition(None, {}, None, {}, workers=1, display=Display(""))
    contest.probes = losses
    monkeypatch.setattr(Competition, "_cost_together", lambda self, start: together[start.name])
    starts = [(HALF, tfmot_pam.ArmStart(name, ())) for name in losses]
    assert contest._choice(starts)[1].name == chosen


def test_what_a_start_costs_together_is_what_all_tasks_cost_in_its_trials_networks(
    models, monkeypatch
):
    merged = tfmot_pam.merge(models, samples(), verbose=0)
    searches = [
        SimpleNamespace(rounds=[SimpleNamespace(number=3)], model={3: network}.get)
        for network in (merged, models["sum"])
    ]
    contest = Competition(
        SimpleNamespace(measure="macs"), {}, None, {}, workers=1, display=Display("")
    )
    monkeypatch.setattr(Competition, "_trial_searches", lambda self, start: searches)
    whole = sum(tfmot_pam.cost(network).macs for network in (merged, models["sum"]))
    assert contest._cost_together(None) == whole
    assert tfmot_pam.cost(tfmot_pam.select_tasks(merged, "sum")).macs < tfmot_pam.cost(merged).macs


@pytest.mark.slow
def test_late_merges_the_networks_that_separate_pruning_found(models, tmp_path):
    options = {**QUICK, "effort": 5, "target": 0.3, "directory": tmp_path / "rounds"}
    (late,) = tfmot_pam.compress(models, samples(), 0.1, arms=["late"], **options).arms
    assert late.start in {f"late-{kind}-{t}" for kind in ("trunk", "mixed") for t in models}
    # Separate pruning has run for it.
    arms = ["separate", "late"]
    both = tfmot_pam.compress(models, samples(), 0.1, arms=arms, **options)
    separate, again = both.arms
    assert again.rounds == late.rounds
    start = late.rounds["sign", "sum"][0]
    assert start.stage == "start"
    assert start.share < 1.0
    # The epochs of the networks that are merged count.
    alone = [row for rounds in separate.rounds.values() for row in rounds]
    assert 0 < start.epochs < sum(row.epochs for row in alone)
    assert 0.0 < start.training_macs < separate.training_macs
    assert late.epochs <= 2 * options["effort"] + 2
    assert both.epochs == separate.epochs + late.epochs - start.epochs + both.trial_epochs


@pytest.mark.slow
def test_starts_that_cannot_be_cut_so_far_are_compared_after_training(models):
    # Most of the time that such small networks take is there whatever their widths.
    options = {**QUICK, "effort": 2, "measure": "latency", "arms": ["late"]}
    found = tfmot_pam.compress(models, samples(), 0.4, **options)
    assert found.trial_epochs == len(found.probes)
