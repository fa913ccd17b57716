"""`compress`: rounds to a tolerance, checkpoints that survive anything, and its result."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.tiers import regular
from tfmot_pam.data import HeadSamples, Samples
from tfmot_pam.display import Display
from tfmot_pam.graph.generation import is_tf_keras
from tfmot_pam.metrics.examination import (
    Examination,
    Judgement,
    constant_accuracy,
    sample_scores,
)
from tfmot_pam.pipeline.competition import Competition
from tfmot_pam.pipeline.price import find_price

ROOT = pathlib.Path(__file__).resolve().parents[1]


def samples(rows=350):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8)).astype("float32")
    return x, {"sign": (x[:, 0] > 0).astype("int64"), "sum": (x[:, :3].sum(1) > 0).astype("int64")}


def model(task: str, seed: int = 0) -> keras.Model:
    """A perceptron that does its task well, and has many more units than it needs."""
    x, labels = samples()
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8,), name="vector")
    h = layers.Dense(24, activation="relu", name="first")(inputs)
    h = layers.Dense(16, activation="relu", name="second")(h)
    net = keras.Model(inputs, layers.Dense(2, activation="softmax", name=task)(h), name=task)
    net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    net.fit(x, labels[task], epochs=15, verbose=0)
    return net


@pytest.fixture(scope="module")
def models():
    return {task: model(task) for task in ("sign", "sum")}


HALF = tfmot_pam.Arm(
    "half", lambda tasks: [tfmot_pam.ArmStart("half", (tfmot_pam.ArmPart(tuple(tasks)),))]
)
QUICK = {"effort": 4, "verbose": 0, "seed": 0}
APART = {**QUICK, "arms": ["separate"]}


@pytest.fixture(scope="module")
def result(models):
    return tfmot_pam.compress(models, samples(), 0.1, target=0.5, **QUICK)


# --- what comes out -----------------------------------------------------------------------------


def test_every_task_stays_within_its_tolerance(result):
    assert result.best.accepted
    assert result.best.share <= 0.5
    for arm in result.arms:
        for rounds in arm.rounds.values():
            for row in rounds:
                within = max(row.lost.values()) <= 0.1 + 1e-9
                assert row.ratio == pytest.approx(max(row.lost.values()) / 0.1)
                assert within or not row.accepted
            assert [row.number for row in rounds] == list(range(len(rounds)))
            held = [row for row in rounds if row.accepted]
            assert arm.accepted <= bool(held)


def test_all_arms_have_the_same_effort(result):
    separate, merged = result.arms
    assert separate.name == "separate"
    assert set(separate.rounds) == {("sign",), ("sum",)}
    assert merged.name == "late"
    assert set(merged.rounds) == {("sign", "sum")}
    # Epochs of one network are whole numbers; a path may end before its epochs are spent.
    assert 0 < separate.epochs <= 2 * QUICK["effort"] + 2
    assert 0 < merged.epochs <= 2 * QUICK["effort"] + 2
    assert set(result.probes) == {
        f"late-{kind}-{task}" for kind in ("trunk", "mixed") for task in ("sign", "sum")
    }
    assert result.probes[merged.start] <= 1.05 * min(result.probes.values())


def test_rounds_tell_what_of_their_time_were_training_steps(result):
    for arm in result.arms:
        for row in [row for rows in arm.rounds.values() for row in rows]:
            assert (row.step_seconds > 0) == (row.stage != "start"), (arm.name, row)
            assert row.seconds > row.step_seconds


def test_the_result_is_never_dearer_than_separate_pruning(result):
    separate = result.arms[0]
    assert result.best.cost <= separate.cost
    pays = "pays" if result.best is not separate else "does not pay"
    assert f"Merging {pays}" in result.verdict


def test_a_portfolio_has_the_cheapest_network_for_every_combination(result):
    portfolio = result.portfolio()
    assert set(portfolio.models) == {("sign",), ("sum",), ("sign", "sum")}
    accepted = {arm.name: arm for arm in result.arms if arm.accepted}
    for chosen, network in portfolio.models.items():
        least = min(arm.macs[chosen] for arm in accepted.values())
        assert tfmot_pam.cost(network).macs == portfolio.costs[chosen] == least
        assert accepted[portfolio.arms[chosen]].macs[chosen] == least
        weights = sum(v.size for v in network.get_weights())
        assert portfolio.bytes_by_combination[chosen] == 4 * weights
    assert portfolio.bytes == sum(portfolio.bytes_by_combination.values())


def test_a_portfolio_of_some_combinations(result):
    assert list(result.portfolio([("sum", "sign"), ["sum"]]).models) == [("sign", "sum"), ("sum",)]
    for wrong, message in (([], "is empty"), ([("age",)], "Unknown tasks"), ([()], "at least one")):
        with pytest.raises(ValueError, match=message):
            result.portfolio(wrong)


def test_networks_of_their_own_that_are_asked_for(result, models, tmp_path):
    found = tfmot_pam.compress(models, samples(), 0.1, portfolio=True, **{**APART, "target": 0.8})
    assert found.apart == (("sign",), ("sum",), ("sign", "sum"))
    assert "cost less by: sign 1.00x, sum 1.00x, sign+sum 1.00x" in found.verdict
    weights = {chosen: 4 * network.count_params() for chosen, network in found.models.items()}
    assert f"They take {sum(weights.values()):,} bytes" in found.verdict
    assert f"the one network {weights['sign', 'sum']:,};" in found.verdict
    assert f"loads up to {max(weights.values()):,} bytes." in found.verdict

    # Of several arms the cheapest, for those combinations alone.
    worst = max(result.arms, key=lambda arm: arm.macs["sum",])
    one = dataclasses.replace(result, model=worst.model, apart=(("sum",),))
    least = result.portfolio([["sum"]]).costs["sum",]
    costs = {chosen: tfmot_pam.cost(network).macs for chosen, network in one.models.items()}
    assert costs == {**worst.macs, ("sum",): least}
    one.save(tmp_path / "result")
    assert [path.name for path in (tmp_path / "result" / "networks").iterdir()] == ["sum.keras"]
    loaded = keras.saving.load_model(tmp_path / "result" / "networks" / "sum.keras", compile=False)
    assert tfmot_pam.cost(loaded).macs == least


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (1, TypeError, "`portfolio` must be True, False or combinations"),
        ("sign", TypeError, "`portfolio` must be True, False or combinations"),
        ([("age",)], ValueError, r"Unknown tasks: \['age'\]"),
    ],
)
def test_wrong_portfolios(models, wrong, error, message):
    with pytest.raises(error, match=message):
        tfmot_pam.compress(models, samples(), 0.1, portfolio=wrong)


def test_the_result_is_what_its_best_arm_says(result, models):
    report = tfmot_pam.report(result.model, originals=models)
    assert report.expected_macs == pytest.approx(result.best.cost)
    assert result.report.expected_macs == report.expected_macs
    assert set(result.models) == {("sign",), ("sum",), ("sign", "sum")}
    x = samples()[0][:5]
    whole = result.model(x)
    for chosen, network in result.models.items():
        assert tfmot_pam.cost(network).macs == result.best.macs[chosen]
        for task in chosen:
            np.testing.assert_allclose(network(x)[task], whole[task], atol=1e-6)


def test_results_are_saved_and_never_overwritten_silently(result, tmp_path):
    result.save(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.keras", "report.json", "report.csv", "curve.csv", "result.json"}
    loaded = keras.models.load_model(tmp_path / "out" / "model.keras")
    x = samples()[0][:5]
    np.testing.assert_allclose(loaded(x)["sign"], result.model(x)["sign"], atol=1e-6)
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    rounds = [row for arm in content["arms"] for rows in arm["rounds"].values() for row in rows]
    assert content["verdict"] == result.verdict
    assert (tmp_path / "out" / "curve.csv").read_text().count("\n") == len(rounds) + 1
    with pytest.raises(ValueError, match="not an empty directory"):
        result.save(tmp_path / "out")
    result.save(tmp_path / "out", overwrite=True)


def test_the_separate_arm_is_pruning_each_network_alone(models):
    (x, labels), options = samples(), {**APART, "effort": 2, "target": 0.6}
    together = tfmot_pam.compress(models, samples(), 0.1, **options)
    total = 0
    for task, net in models.items():
        alone = tfmot_pam.compress(net, (x, {task: labels[task]}), 0.1, **options)
        chosen = tfmot_pam.select_tasks(together.model, task)
        found, expected = chosen.predict(x, verbose=0)[task], alone.model.predict(x, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        total += alone.best.cost
    assert together.best.macs["sign", "sum"] == total
    assert together.verdict.startswith("Separate pruning: ")
    assert "add 'late'" in together.verdict


@pytest.mark.parametrize("importance", regular(["taylor", "magnitude"]))
def test_other_importances_and_single_models(models, importance):
    x, labels = samples()
    found = tfmot_pam.compress(
        models["sign"],
        (x, {"sign": labels["sign"]}),
        0.1,
        target=0.7,
        importance=importance,
        **QUICK,
    )
    assert found.best.share <= 0.7
    assert not isinstance(found.model.output, dict)
    assert found.verdict.startswith("One task")
    named = tfmot_pam.compress(
        {"which": models["sign"]}, (x, {"which": labels["sign"]}), 0.1, target=0.7, **QUICK
    )
    assert list(named.model.output) == ["which"]


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


def test_a_function_is_what_becomes_small(models):
    def halves(kind, inputs, shape, macs):
        return macs / 2.0

    options = {**APART, "effort": 1, "target": 0.7}
    found = tfmot_pam.compress(models, samples(), 0.1, measure=halves, **options)
    by_name = tfmot_pam.compress(models, samples(), 0.1, **options)
    assert found.measure == "halves"
    assert found.best.macs == by_name.best.macs
    assert found.best.costs == {chosen: macs / 2.0 for chosen, macs in found.best.macs.items()}
    assert found.best.cost == by_name.best.cost / 2.0
    assert found.best.share == by_name.best.share
    assert f"{found.best.cost:.3f} halves expected" in found.verdict
    assert find_price(halves).told(0.000123456) == "0.000123 halves"
    assert found.portfolio().costs == found.best.costs


def test_other_views_are_seen_with_their_teachers_outputs(models):
    seen = []

    def augment(x, rng):
        seen.append(x.copy())
        x[:, 3:] = rng.normal(size=x[:, 3:].shape)
        return x

    data = samples()
    before = data[0].copy()
    options = {**APART, "augment": augment, "views": 3, "target": 0.8}
    found = tfmot_pam.compress(models["sign"], (data[0], {"sign": data[1]["sign"]}), 0.1, **options)
    rows = len(data[0])
    assert [len(x) for x in seen] == 2 * [rows - rows // 7] + 3 * [rows // 7]
    assert found.best.accepted
    np.testing.assert_array_equal(data[0], before)
    with pytest.raises(ValueError, match="`augment` made inputs of shape"):
        tfmot_pam.compress(models, samples(), 0.1, **{**APART, "augment": lambda x, rng: x[:3]})


def test_tf_keras_models_come_back_as_tf_keras_models(models):
    x, labels = samples()
    twin = {"sign": tfmot_pam.to_tf_keras(models["sign"])}
    options = {**QUICK, "portfolio": True, "target": 0.8}
    found = tfmot_pam.compress(twin, (x, {"sign": labels["sign"]}), 0.1, **options)
    assert is_tf_keras(found.model)
    assert is_tf_keras(found.models["sign",])
    assert found.portfolio().bytes == 4 * found.model.count_params()
    with pytest.raises(ValueError, match="mixes the two generations"):
        tfmot_pam.compress({**twin, "sum": models["sum"]}, samples(), 0.1)


def test_without_labels_accuracy_is_agreement(models):
    found = tfmot_pam.compress(models, samples()[0], 0.1, target=0.8, **APART)
    assert found.original_accuracy == {"sign": 1.0, "sum": 1.0}


def test_tasks_with_data_of_their_own(models):
    x, labels = samples()
    data = {
        task: (x[: 280 + 70 * i], y[: 280 + 70 * i]) for i, (task, y) in enumerate(labels.items())
    }
    found = tfmot_pam.compress(
        models, data, 0.5, arms=["trunk"], target=0.8, **{**QUICK, "effort": 2}
    )
    assert found.best.accepted
    assert set(found.probes) == {"trunk-relevant", "trunk-sign", "trunk-sum"}


def test_nothing_is_kept_that_breaks_a_tolerance(models):
    x, labels = samples()
    options = {**QUICK, "importance": "random", "fine_tune_options": {"learning_rate": 1e-6}}
    found = tfmot_pam.compress(models["sum"], (x, {"sum": labels["sum"]}), 0.0, **options)
    rounds = found.best.rounds["sum",]
    assert rounds[0].lost == {"sum": 0.0}
    assert any(not row.accepted for row in rounds)
    chosen = min((row for row in rounds if row.accepted), key=lambda row: row.macs)
    assert chosen.lost["sum"] <= 0
    assert tfmot_pam.cost(found.model).macs == chosen.macs


def test_an_original_that_knows_nothing_is_named(models):
    keras.utils.set_random_seed(5)
    inputs = keras.Input((8,))
    hidden = layers.Dense(4, activation="relu")(inputs)
    flat = layers.Dense(2, kernel_initializer="zeros", activation="softmax", name="sum")(hidden)
    untrained = {"sign": models["sign"], "sum": keras.Model(inputs, flat)}
    options = {**APART, "effort": 1, "target": 0.9}
    with pytest.warns(UserWarning, match="model of 'sum' has not learnt.*outputs do not depend"):
        tfmot_pam.compress(untrained, samples(), 0.5, **options)
    x, labels = samples()
    shuffled = {"sign": 1 - labels["sign"]}
    with pytest.warns(UserWarning, match="model of 'sign' has not learnt its task"):
        tfmot_pam.compress(models["sign"], (x, shuffled), 0.5, **options)


def test_an_original_that_does_not_know_the_augmentation_is_named(models):
    x, labels = samples()
    data = (x, {"sign": labels["sign"]})
    options = {**APART, "effort": 1, "target": 0.9}
    with pytest.warns(UserWarning, match="model of 'sign' does not know what `augment` makes"):
        tfmot_pam.compress(models["sign"], data, 0.5, augment=lambda x, rng: -x, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The model of")
        tfmot_pam.compress(models["sign"], data, 0.5, augment=lambda x, rng: 2 * x, **options)


def test_constant_answers_in_closed_form():
    assert constant_accuracy("classes", np.array([0, 2, 2, 1])) == 0.5
    assert constant_accuracy("distribution", np.eye(3)[[0, 2, 2, 1]]) == 0.5
    assert constant_accuracy("binary", np.array([[1, 0], [1, 1], [1, 0], [0, 0]])) == 0.75
    assert constant_accuracy("binary", np.array([[1], [-1], [-1], [-1]])) == 0.75
    assert constant_accuracy("real", np.array([1.0, 2.0])) == 0.0


def test_the_same_seed_gives_the_same_result(models):
    x, labels = samples()
    data = (x, {"sign": labels["sign"]})
    options = {**QUICK, "effort": 2, "target": 0.8, "augment": lambda x, rng: x + 0.01}
    one, two = (tfmot_pam.compress(models["sign"], data, 0.2, **options) for _ in range(2))
    other = tfmot_pam.compress(models["sign"], data, 0.2, **{**options, "seed": 9})
    weights = [
        np.concatenate([w.ravel() for w in found.model.get_weights()])
        for found in (one, two, other)
    ]
    # To rounding: sums over threads have no fixed order.
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)
    assert one.best.macs == two.best.macs
    assert weights[2].shape != weights[0].shape or not np.allclose(
        weights[2], weights[0], atol=1e-3
    )


def test_accuracies_in_closed_form():
    outputs = np.array([[0.2, 0.8], [0.6, 0.4]])

    def accuracy(kind, outputs, labels):
        return sample_scores(kind, outputs, labels).mean()

    assert accuracy("classes", outputs, np.array([1, 1])) == 0.5
    assert accuracy("distribution", outputs, np.eye(2)) == 0.0
    assert accuracy("binary", outputs, np.array([[0, 1], [1, 1]])) == 0.75
    assert accuracy("binary", outputs - 0.5, np.array([[-1, 1], [1, 1]])) == 0.75
    y = np.array([[1.0], [3.0]])
    assert accuracy("real", y, y) == 1.0
    assert accuracy("real", np.full((2, 1), 2.0), y) == 0.0


def test_no_lucky_half_is_enough():
    judged = Judgement({"a": 0.9}, lost={"a": 0.01}, halves={"a": (-0.01, 0.03)}, error={"a": 0.02})
    assert judged.within({"a": 0.01})
    assert judged.ratio({"a": 0.01}) == 1.0
    assert judged.ratio({"a": 0.0}) == judged.ratio({"a": 0.005}) == 2.0
    assert not judged.within({"a": 0.009})
    assert not dataclasses.replace(judged, halves={"a": (-0.011, 0.031)}).within({"a": 0.01})


def test_losses_are_paired_and_halved(models):
    x, labels = samples()
    by_task = {task: HeadSamples(x, y) for task, y in labels.items()}
    examination = Examination(models, [Samples(by_task, True)])
    judged = examination.judge(models["sign"])
    assert judged.lost == {"sign": 0.0}
    assert judged.error == {"sign": 0.0}
    constant = keras.Sequential(
        [keras.Input((8,)), layers.Dense(2, kernel_initializer="zeros", name="sign")]
    )
    constant.layers[-1].bias.assign([1.0, 0.0])
    judged = examination.judge(constant)
    right = labels["sign"] == 0
    alone = models["sign"].predict(x, verbose=0).argmax(-1) == labels["sign"]
    drops = alone.astype(float) - right
    assert judged.lost["sign"] == pytest.approx(drops.mean())
    assert judged.halves["sign"] == pytest.approx((drops[0::2].mean(), drops[1::2].mean()))
    assert judged.error["sign"] == pytest.approx(drops.std() / np.sqrt(len(x) / 2))


def test_views_of_the_validation_samples_are_averaged(models):
    x, labels = samples()
    views = [
        Samples({"sign": HeadSamples(own, labels["sign"])}, True)
        for own in (x, -x, np.roll(x, 1, axis=0))
    ]
    originals = {"sign": models["sign"]}
    judged = Examination(originals, views).judge(models["sign"])
    apart = [Examination(originals, [view]).judge(models["sign"]) for view in views]
    assert judged.lost == {"sign": 0.0}
    marks = [one.accuracy["sign"] for one in apart]
    assert judged.accuracy["sign"] == pytest.approx(np.mean(marks))
    assert max(marks) - min(marks) > 0.1


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_accuracy_drop": {"sign": 0.1}}, ValueError, r"lacks \['sum'\]"),
        (
            {"max_accuracy_drop": {"sign": 0.1, "sum": 0.1, "age": 0.1}},
            ValueError,
            r"unknown tasks \['age'\]",
        ),
        ({"max_accuracy_drop": 1.5}, ValueError, "is a share"),
        ({"max_accuracy_drop": "small"}, TypeError, "must be a number"),
        ({"target": 0.0}, ValueError, "`target` is a share"),
        ({"effort": 0}, ValueError, "`effort` must be"),
        ({"views": 0}, ValueError, "`views` must be"),
        ({"measure": "joules"}, ValueError, "Unknown `measure`: 'joules'"),
        ({"measure": [("sign",)]}, ValueError, "Unknown `measure`: .*or a function"),
        ({"measure": lambda *call: 0}, ValueError, r"models of \['sign', 'sum'\] cost nothing"),
        ({"fine_tune_options": {"batch_size": 0}}, ValueError, "`batch_size` must be"),
        ({"fine_tune_options": {"dropout": 2}}, ValueError, "`dropout` must be a factor"),
        ({"fine_tune_options": {"learning_rate": "fast"}}, ValueError, "number above 0"),
        ({"fine_tune_options": {"epochs": 3}}, ValueError, r"unknown entries \['epochs'\]"),
        ({"usage": {("sign",): 0.4}}, ValueError, "must sum to 1"),
        ({"importance": "luck"}, ValueError, "Unknown `importance`"),
        ({"models": "models"}, TypeError, "`models` must be a dict"),
        ({"data": "data"}, TypeError, "accepted forms"),
        ({"data": samples(6)}, ValueError, "Expected at least 7"),
        ({"arms": ["best"]}, ValueError, "Unknown arm"),
        ({"arms": ["trunk", "trunk"]}, ValueError, "each once"),
        ({"arms": [3]}, TypeError, "must hold names"),
        ({"arms": [HALF]}, ValueError, "with a method where a part has several"),
    ],
)
def test_bad_arguments_are_explained(models, changes, error, message):
    arguments = {"models": models, "data": samples(), "max_accuracy_drop": 0.1, **QUICK}
    with pytest.raises(error, match=message):
        tfmot_pam.compress(**{**arguments, **changes})


def test_arms_that_all_break_the_tolerance_say_so(models):
    options = {
        **QUICK,
        "effort": 1,
        "arms": ["random"],
        "fine_tune_options": {"learning_rate": 1e-9},
    }
    options["merge_options"] = {"compensation": False, "share": 0.1}
    with pytest.raises(ValueError, match="No arm is within the tolerances"):
        tfmot_pam.compress(models, samples(), 0.0, **options)
