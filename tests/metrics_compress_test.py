"""What examinations, `compress` and reports make of metrics."""

from __future__ import annotations

import json
import pickle

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.metric_cases import error_of_each
from tests.small_nets import vectors
from tfmot_pam.data import HeadSamples, Samples
from tfmot_pam.metrics.examination import Examination
from tfmot_pam.metrics.metric import find_metrics


def aging(scale: float = 1.0, name: str = "age") -> keras.Model:
    """Knows ages from the first input, to a factor."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1, use_bias=False, name=name)])
    model.layers[0].set_weights([10.0 * scale * np.eye(6, 1, dtype="float32")])
    return model


def examined(metric, y=None, **options):
    x = vectors(40)
    y = 10.0 * x[:, :1] if y is None else y
    samples = Samples({"age": HeadSamples(x, y)}, True)
    metrics = find_metrics({"age": metric}, ["age"])
    return Examination({"age": aging()}, [samples], metrics, **options)


def test_losses_are_in_the_metrics_unit_and_direction():
    x = vectors(40)
    examination = examined(tfmot_pam.Metric("mae", error_of_each, unit="years"))
    judged = examination.judge(aging(0.9))
    off = np.abs(x[:, 0])
    assert judged.accuracy["age"] == pytest.approx(off.mean(), rel=1e-4)
    assert judged.lost["age"] == pytest.approx(off.mean(), rel=1e-4)
    assert judged.error["age"] == pytest.approx(off.std() / np.sqrt(20), rel=1e-4)
    assert judged.ratio({"age": 2.0}) == pytest.approx(off.mean() / 2.0, rel=1e-4)
    assert examination.titles == {"age": "mae, years"}
    assert examination.told(judged, ["age"]).startswith(f"age mae {off.mean():.4g} years (+")


def test_losses_too_small_to_matter_are_in_units_of_what_knowing_is_worth():
    examination = examined("mae")
    x = vectors(40)
    shuffled = np.mean(
        [
            np.abs(10 * x[:, 0] - 10 * x[np.random.default_rng([0, i]).permutation(40), 0]).mean()
            for i in range(5)
        ]
    )
    assert examination.least["age"] == pytest.approx(0.005 * shuffled, rel=1e-4)
    judged = examination.judge(aging(0.9))
    assert judged.ratio({"age": 0.0}) == pytest.approx(judged.lost["age"] / (0.005 * shuffled))


@pytest.mark.parametrize("metric", ["mae", keras.metrics.MeanSquaredError(), error_of_each])
def test_examinations_can_be_sent_to_workers(metric):
    examination = examined(metric)
    sent = pickle.loads(pickle.dumps(examination))
    assert sent.judge(aging(0.9)) == examination.judge(aging(0.9))


def test_without_labels_a_metric_is_of_the_originals_outputs():
    samples = Samples({"age": HeadSamples(vectors(40), None)}, True)
    examination = Examination({"age": aging()}, [samples], find_metrics({"age": "mae"}, ["age"]))
    assert examination.originals == {"age": 0.0}
    assert examination.judge(aging(0.5)).lost["age"] > 1.0


def test_an_original_that_knows_nothing_by_its_metric_is_named():
    with pytest.warns(UserWarning, match="validation mae is .*answers shuffled among the samples"):
        examined("mae", -10.0 * vectors(40)[:, :1])


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A classifier and a regression, by metrics of their own, with checkpoints."""
    folder = tmp_path_factory.mktemp("metrics")
    keras.utils.set_random_seed(0)
    x = vectors(280)
    y = {"side": (x[:, 0] > 0).astype("int64"), "age": 10.0 * x[:, :2].sum(1)}
    models = {}
    for task, (units, activation, loss) in {
        "side": (2, "softmax", "sparse_categorical_crossentropy"),
        "age": (1, None, "mse"),
    }.items():
        inputs = keras.Input((6,))
        h = layers.Dense(16, activation="relu")(inputs)
        models[task] = keras.Model(inputs, layers.Dense(units, activation=activation, name=task)(h))
        models[task].compile(keras.optimizers.Adam(0.02), loss, jit_compile=False)
        models[task].fit(x, y[task], epochs=15, verbose=0)

    def again(**changes):
        options = {
            "metrics": {
                "side": keras.metrics.F1Score(average="macro"),
                "age": tfmot_pam.Metric("mae", error_of_each, "lower", unit="years"),
            },
            "arms": ["separate"],
            "effort": 2,
            "target": 0.9,
            "directory": folder,
            "verbose": 0,
        }
        drop = {"side": 0.2, "age": 4.0}
        return tfmot_pam.compress(models, (x, y), drop, **{**options, **changes})

    return again, again()


def test_results_show_the_metrics(compressed):
    _, result = compressed
    assert result.metrics == {"side": "f1_score", "age": "mae, years"}
    assert "side: f1_score " in result.verdict
    assert f"age: mae {result.best.accuracy['age']:.4g} years (the original" in result.verdict
    table = str(result.report)
    assert "mae, years" in table
    assert f"{result.best.accuracy['age']:.4g} ({result.original_accuracy['age']:.4g})" in table
    assert json.loads(result.report.to_json())["metrics"] == result.metrics
    for rounds in result.best.rounds.values():
        for row in rounds:
            for task, lost in row.lost.items():
                gain = 1.0 if task == "age" else -1.0
                found = gain * (row.accuracy[task] - result.original_accuracy[task])
                assert lost == pytest.approx(found, abs=1e-6)
            assert row.accepted <= (row.lost.get("age", 0.0) <= 4.0)


def test_metrics_are_part_of_what_a_run_is(compressed):
    again, result = compressed
    # Keras numbers the names of metrics, which says nothing.
    same = again()
    assert same.best.rounds == result.best.rounds
    with pytest.raises(ValueError, match="other options"):
        again(metrics={"age": "mae"})
    with pytest.raises(ValueError, match="other options"):
        again(
            metrics={
                "side": "binary_accuracy",
                "age": tfmot_pam.Metric("mae", error_of_each, "lower"),
            }
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metrics": "mae"}, TypeError, "`metrics` must be a dict by task"),
        ({"metrics": {"height": "mae"}}, ValueError, r"unknown tasks \['height'\]"),
        ({"max_accuracy_drop": {"side": 0.1, "age": -1.0}}, ValueError, "may get worse"),
        ({"max_accuracy_drop": {"side": 0.1, "age": "one"}}, TypeError, "must be a number"),
        ({"max_accuracy_drop": {"side": 0.1, "age": np.inf}}, ValueError, "at least 0"),
    ],
)
def test_bad_arguments_are_explained(changes, error, message):
    options = {"metrics": {"age": "mae"}, "verbose": 0, **changes}
    with pytest.raises(error, match=message):
        tfmot_pam.compress(
            {"side": aging(name="side"), "age": aging()},
            vectors(40),
            **{"max_accuracy_drop": 0.1, **options},
        )


def test_reports_take_other_metrics():
    x = keras.Input((4,))
    model = keras.Model(x, {task: layers.Dense(2, name=task)(x) for task in ("age", "side")})
    options = {"accuracy": {"age": 31.5, "side": 0.9}, "original_accuracy": {"age": 30.25}}
    found = tfmot_pam.report(model, metrics={"age": "error, years"}, **options)
    assert found.metrics == {"age": "error, years"}
    table = str(found)
    assert "error, years" in table
    assert "31.5 (30.25)" in table
    assert "90.0" in table
    with pytest.raises(ValueError, match="`accuracy` has the value 31.5"):
        tfmot_pam.report(model, **options)
    named = tfmot_pam.Metric("accuracy", error_of_each, "lower")
    assert tfmot_pam.report(model, metrics={"age": named}).metrics == {"age": "accuracy"}
    assert tfmot_pam.report(model, metrics={"age": "accuracy", "side": "acc"}).metrics == {}
    with pytest.raises(ValueError, match="Expected a finite number"):
        tfmot_pam.report(model, metrics={"age": "mae"}, accuracy={"age": np.nan})


def test_reports_measure_on_data():
    x = vectors(40)
    y = {"age": 10.0 * x[:, :1], "side": (x[:, 0] > 0).astype("int64")}
    y["side"][::4] = -1
    y["age"][::5] = np.nan
    inputs = keras.Input((6,))
    side = layers.Dense(2, activation="softmax", name="side")
    age = layers.Dense(1, use_bias=False, name="age")
    model = keras.Model(inputs, {"age": age(inputs), "side": side(inputs)})
    age.set_weights([9.0 * np.eye(6, 1)])
    side.set_weights([np.eye(6, 2)[:, ::-1], np.array([0.0, 0.1])])
    originals = {"age": aging(), "side": keras.Model(inputs, model.output["side"])}
    found = tfmot_pam.report(model, originals=originals, data=(x, y), metrics={"age": "mae"})
    row = found.rows[-1]
    known = ~np.isnan(y["age"])
    assert row.accuracy["age"] == pytest.approx(np.abs(x[:, :1])[known].mean(), rel=1e-4)
    assert row.original_accuracy["age"] == pytest.approx(0.0, abs=1e-5)
    known = y["side"] >= 0
    answers = model.predict(x, verbose=0)["side"].argmax(-1)
    assert row.accuracy["side"] == (answers == y["side"])[known].mean()
    assert found.metrics == {"age": "mae"}
    # Without labels: agreement.
    agreed = tfmot_pam.report(model, originals=originals, data=x, metrics={"age": "mae"}).rows[-1]
    assert agreed.accuracy["side"] == 1.0
    assert agreed.accuracy["age"] == pytest.approx(np.abs(x[:, 0]).mean(), rel=1e-4)
    with pytest.raises(ValueError, match="no labels for the task 'age', and there is no original"):
        tfmot_pam.report(model, data=x)
    with pytest.raises(ValueError, match=r"measures what \['accuracy'\] say"):
        tfmot_pam.report(model, data=(x, y), accuracy={"age": 0.5})
