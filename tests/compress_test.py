"""`compress`: rounds to a tolerance, options, its result, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.quick_compress import APART, HALF, QUICK, both, samples
from tests.tiers import regular
from tfmot_pam.graph.generation import is_tf_keras
from tfmot_pam.pipeline.price import find_price


@pytest.fixture(scope="module")
def models():
    return both()


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


@pytest.mark.slow
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
