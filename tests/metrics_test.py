"""Metrics: closed forms, directions, errors by the jackknife, and what `compress` makes of them."""

from __future__ import annotations

import json
import pickle

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.small_nets import vectors
from tfmot_pam.data import HeadSamples, Samples, counted
from tfmot_pam.metrics.accuracy import accuracy_scores, constant_accuracy
from tfmot_pam.metrics.examination import Examination
from tfmot_pam.metrics.keras_metric import as_keras_metric
from tfmot_pam.metrics.marks import Scores, Values
from tfmot_pam.metrics.metric import find_metric, find_metrics
from tfmot_pam.metrics.task_metric import TaskMetric, task_metric

RNG = np.random.default_rng(0)
AGES = RNG.uniform(20, 70, (60, 1)).astype("float32")
GUESSES = AGES + RNG.normal(0, 4, (60, 1)).astype("float32")
CLASSES = np.arange(60) % 3
CHANCES = keras.ops.convert_to_numpy(
    keras.ops.softmax(RNG.normal(size=(60, 3)) + 2.0 * np.eye(3)[CLASSES])
).astype("float32")
MAPS = RNG.integers(0, 3, (12, 4, 4))
MAP_CHANCES = (0.6 * np.eye(3)[MAPS] + RNG.uniform(size=(12, 4, 4, 3))).astype("float32")
BITS = RNG.integers(0, 2, (60, 2))
BIT_CHANCES = np.clip(0.6 * BITS + RNG.uniform(0, 0.5, (60, 2)), 0, 1).astype("float32")


def largest_error(y_true, y_pred):
    return float(np.abs(y_true - y_pred).max())


def error_of_each(y_true, y_pred):
    return np.abs(y_true - y_pred)[:, 0]


def agreement(y_true, y_pred):
    return np.mean(y_pred.argmax(-1) == y_true)


def mean_iou(labels, found, count=3):
    overlap = [((labels == c) & (found == c)).sum() for c in range(count)]
    union = [((labels == c) | (found == c)).sum() for c in range(count)]
    return np.mean(np.array(overlap) / np.array(union))


def macro_f1(labels, found):
    scores = []
    for c in range(3):
        right = ((labels == c) & (found == c)).sum()
        scores.append(2 * right / ((labels == c).sum() + (found == c).sum()))
    return np.mean(scores)


OFF = np.abs(AGES - GUESSES)
HARD = CHANCES.argmax(-1)
# A metric, what the labels are, labels, outputs, its value, which is better, whether by sample.
CASES = {
    "name": ("mae", "real", AGES, GUESSES, OFF.mean(), "lower", True),
    "flat labels": ("mse", "real", AGES[:, 0], GUESSES, (OFF**2).mean(), "lower", True),
    "Keras name": (
        "root_mean_squared_error",
        "real",
        AGES[:, 0],
        GUESSES,
        np.sqrt((OFF**2).mean()),
        "lower",
        False,
    ),
    "Keras object": (
        keras.metrics.MeanAbsoluteError(),
        "real",
        AGES,
        GUESSES,
        OFF.mean(),
        "lower",
        False,
    ),
    "function": (largest_error, "real", AGES, GUESSES, OFF.max(), "lower", False),
    "function by sample": (error_of_each, "real", AGES, GUESSES, OFF.mean(), "lower", True),
    "higher": (agreement, "classes", CLASSES, CHANCES, (HARD == CLASSES).mean(), "higher", False),
    "sparse": (
        "sparse_categorical_accuracy",
        "classes",
        CLASSES,
        CHANCES,
        (HARD == CLASSES).mean(),
        "higher",
        False,
    ),
    "sparse of one-hot": (
        "sparse_categorical_accuracy",
        "distribution",
        np.eye(3)[CLASSES],
        CHANCES,
        (HARD == CLASSES).mean(),
        "higher",
        False,
    ),
    "one-hot of classes": (
        keras.metrics.F1Score(average="macro"),
        "classes",
        CLASSES,
        CHANCES,
        macro_f1(CLASSES, HARD),
        "higher",
        False,
    ),
    "maps": (
        keras.metrics.MeanIoU(num_classes=3),
        "classes",
        MAPS,
        MAP_CHANCES,
        mean_iou(MAPS, MAP_CHANCES.argmax(-1)),
        "higher",
        False,
    ),
    "maps of one-hot": (
        keras.metrics.OneHotMeanIoU(num_classes=3),
        "classes",
        MAPS[..., None],
        MAP_CHANCES,
        mean_iou(MAPS, MAP_CHANCES.argmax(-1)),
        "higher",
        False,
    ),
    "signs": (
        "binary_accuracy",
        "binary",
        2 * BITS - 1,
        BIT_CHANCES,
        ((BIT_CHANCES > 0.5) == BITS).mean(),
        "higher",
        False,
    ),
    "indices of bits": (
        keras.metrics.Accuracy(),
        "binary",
        BITS,
        BIT_CHANCES,
        ((BIT_CHANCES > 0.5) == BITS).mean(),
        "higher",
        False,
    ),
}


def measured(metric, kind, labels, outputs):
    output_kind = {"binary": "sigmoid", "real": "linear"}.get(kind, "softmax")
    return task_metric("a", find_metric(metric, "a"), output_kind, labels, outputs, 0)


@pytest.mark.parametrize("name", list(CASES))
def test_values_and_directions(name):
    metric, kind, labels, outputs, value, direction, by_sample = CASES[name]
    found = measured(metric, kind, labels, outputs)
    marks = found.marks(outputs)
    assert marks.value == pytest.approx(value, rel=1e-5)
    assert found.metric.direction == direction
    assert isinstance(marks, Scores if by_sample else Values)
    loss = marks.lost_by(marks, found.metric.sign)
    assert (loss.lost, loss.halves, loss.error) == (0.0, (0.0, 0.0), 0.0)


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_worse_has_lost(name):
    metric, kind, labels, outputs, *_ = CASES[name]
    found = measured(metric, kind, labels, outputs)
    loss = found.marks(outputs).lost_by(found.marks(np.roll(outputs, 1, axis=0)), found.metric.sign)
    assert loss.lost > 0
    assert min(loss.halves) > 0
    assert loss.error > 0


def test_halves_are_every_other_sample():
    found = measured(largest_error, "real", AGES, GUESSES)
    marks = found.marks(GUESSES)
    assert marks.halves == (OFF[0::2].max(), OFF[1::2].max())


def test_the_jackknife_of_a_mean_is_its_standard_error():
    one, other = RNG.normal(size=(2, 16))

    def values(scores):
        return Values.of(lambda rows: float(scores[rows].mean()), 16, float(scores.mean()), 0)

    by_blocks = values(one).lost_by(values(other))
    by_sample = Scores(one).lost_by(Scores(other))
    assert by_blocks.lost == pytest.approx(by_sample.lost)
    assert by_blocks.halves == pytest.approx(by_sample.halves)
    # Of blocks of one sample it has the divisor n - 1.
    assert by_blocks.error == pytest.approx(by_sample.error * np.sqrt(16 / 15))


def test_blocks_do_not_follow_the_order_of_the_samples():
    labels = np.arange(400) % 20
    scores = (labels < 10).astype(float)

    def evaluate(rows):
        return float(scores[rows].mean())

    found = Values.of(evaluate, 400, 0.5, seed=0)
    again = Values.of(evaluate, 400, 0.5, seed=0)
    np.testing.assert_array_equal(found.without, again.without)
    # Blocks of one class each would give 0.11.
    error = found.lost_by(Values.of(lambda rows: 0.0, 400, 0.0, seed=0)).error
    assert error == pytest.approx(0.5 / np.sqrt(200), rel=0.4)


def test_views_are_averaged():
    views = [Values(v, (v, v + 1), np.array([v, 2 * v])) for v in (1.0, 3.0)]
    mean = Values.mean(views)
    assert (mean.value, mean.halves, mean.without.tolist()) == (2.0, (2.0, 3.0), [2.0, 4.0])
    assert Scores.mean([Scores(np.array([1.0, 2.0])), Scores(np.array([3.0, 2.0]))]).value == 2.0


# --- labels that do not count -------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CASES))
def test_metrics_of_what_counts_only(name):
    metric, kind, labels, outputs, *_ = CASES[name]
    holes = np.arange(len(labels)) % 5 == 0
    given = labels.astype("float64")
    given[holes] = np.nan
    found = measured(metric, kind, given, outputs).marks(outputs)
    kept = measured(metric, kind, labels[~holes], outputs[~holes]).marks(outputs[~holes])
    assert found.value == pytest.approx(kept.value)
    assert found.lost_by(found).error == 0.0


@pytest.mark.parametrize(
    ("kind", "labels", "outputs"),
    [
        ("classes", CLASSES, CHANCES),
        ("classes", MAPS, MAP_CHANCES),
        ("distribution", np.eye(3)[CLASSES], CHANCES),
        ("binary", BITS, BIT_CHANCES),
        ("binary", 2 * BITS - 1, BIT_CHANCES),
        ("real", AGES, GUESSES),
    ],
)
def test_accuracies_of_what_counts_only(kind, labels, outputs):
    holes = np.arange(len(labels)) % 5 == 0
    given = labels.astype("float64")
    given[holes] = np.nan
    counts = counted(given, kind, outputs.shape[-1])
    found = accuracy_scores(kind, outputs, given, counts)
    kept = accuracy_scores(kind, outputs[~holes], labels[~holes])
    assert found.weights is None
    np.testing.assert_allclose(found.samples, kept.samples)
    assert constant_accuracy(kind, given, counts) == pytest.approx(
        constant_accuracy(kind, labels[~holes])
    )


def test_entries_count_alike_wherever_they_are():
    labels = MAPS.copy()
    labels[0, :3] = 255
    labels[1, 0, 0] = -1
    counts = counted(labels, "classes", 3)
    assert counts.sum() == MAPS.size - 13
    right = (MAP_CHANCES.argmax(-1) == MAPS)[counts]
    assert accuracy_scores("classes", MAP_CHANCES, labels, counts).value == right.mean()
    found = measured(keras.metrics.MeanIoU(num_classes=3), "classes", labels, MAP_CHANCES)
    hard = MAP_CHANCES.argmax(-1)[counts]
    assert found.marks(MAP_CHANCES).value == pytest.approx(mean_iou(MAPS[counts], hard), rel=1e-5)
    # The error is that of a weighted mean of the maps.
    worse = np.roll(MAP_CHANCES, 1, axis=0)
    one, other = (accuracy_scores("classes", o, labels, counts) for o in (MAP_CHANCES, worse))
    drops, weights = one.samples - other.samples, counts.reshape(12, -1).sum(1)
    loss = one.lost_by(other)
    assert loss.lost == pytest.approx(np.average(drops, weights=weights))
    spread = np.sqrt(np.sum((weights * (drops - loss.lost)) ** 2)) / weights.sum()
    assert loss.error == pytest.approx(spread * np.sqrt(2))


def test_explained_variance_with_gaps():
    y = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 7.0]])
    outputs = np.array([[1.0, 6.0], [1.0, 0.0], [0.0, 6.0]])
    counts = counted(y, "real", 2)
    # Squared errors 0, 1, 4, 1 around means of 2 and 6, of which all entries are 1 away.
    found = accuracy_scores("real", outputs, y, counts)
    assert found.value == pytest.approx(1.0 - 6.0 / 4.0)
    assert found.weights.tolist() == [1.5, 0.75, 0.75]


@pytest.mark.parametrize(
    ("labels", "kind", "width", "expected"),
    [
        (np.array([0, -1, 255, 2]), "classes", 3, [1, 0, 0, 1]),
        (np.array([0, 255]), "classes", 300, None),
        (np.array([0, 256]), "classes", 3, None),
        (np.array([-1, 1, 255]), "binary", 1, [1, 1, 0]),
        (np.array([-1.0, np.nan, 255.0]), "real", 1, [1, 0, 1]),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), "distribution", 2, [1, 0]),
        (np.array([0.0, 1.0]), "real", 1, None),
    ],
)
def test_which_labels_count(labels, kind, width, expected):
    found = counted(labels, kind, width)
    assert found is None if expected is None else found.tolist() == [bool(e) for e in expected]


# --- objects ------------------------------------------------------------------------------------


def test_a_keras_metric_is_not_changed():
    metric = keras.metrics.MeanIoU(num_classes=3)
    measured(metric, "classes", MAPS, MAP_CHANCES).marks(MAP_CHANCES)
    assert float(keras.ops.sum(metric.total_cm)) == 0.0


def test_names_do_not_count_how_many_there_are():
    keras.metrics.MeanIoU(num_classes=3)
    assert as_keras_metric(keras.metrics.MeanIoU(num_classes=3)).name == "mean_io_u"
    assert as_keras_metric(keras.metrics.AUC(name="area_2")).name == "area_2"
    assert as_keras_metric(3) is None
    assert as_keras_metric(keras.metrics.AUC) is None


def test_titles_and_values_in_words():
    metric = tfmot_pam.Metric("mae", error_of_each, "lower", unit="years")
    assert (metric.title, metric.told(3.14159)) == ("mae, years", "mae 3.142 years")
    assert find_metric("mae", "a").told(2.0) == "mae 2"
    assert tfmot_pam.Metric("error", "mean_squared_error").direction == "lower"
    assert find_metrics({"b": "accuracy"}, ["a", "b"]) == {"b": "accuracy"}


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        ("best", ValueError, "Unknown metric of the task 'a': 'best'"),
        (3, TypeError, "3 of type int. Expected a keras.metrics object"),
        (keras.metrics.AUC, TypeError, "of type type"),
    ],
)
def test_what_measures_nothing_is_refused(metric, error, message):
    with pytest.raises(error, match=message):
        find_metric(metric, "a")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("", largest_error), TypeError, "`name` must be a text"),
        (("m", largest_error, "up"), ValueError, "has the direction 'up'"),
        (("m", "nothing"), TypeError, "Expected a function"),
    ],
)
def test_wrong_metric_objects(arguments, error, message):
    with pytest.raises(error, match=message):
        tfmot_pam.Metric(*arguments)


@pytest.mark.parametrize(
    ("metric", "kind", "labels", "outputs", "message"),
    [
        (lambda y, p: 1.0, "real", AGES, GUESSES, "cannot be found out.*direction='higher'"),
        ("r2", "classes", CLASSES, CHANCES, "is 'r2', but its labels are classes"),
        ("accuracy", "real", AGES, GUESSES, "Expected 'r2'"),
        (lambda y, p: p[:3], "real", AGES, GUESSES, r"shape \(3, 1\). Expected one number"),
        (lambda y, p: "good", "real", AGES, GUESSES, "gives str"),
        (lambda y, p: np.nan, "real", AGES, GUESSES, "is not finite on 60 samples"),
        (keras.metrics.F1Score(), "classes", CLASSES, CHANCES, "average='macro'"),
        ("mae", "real", np.full((60, 1), np.nan), GUESSES, "No label of the task 'a' counts"),
    ],
)
def test_metrics_that_do_not_measure_are_explained(metric, kind, labels, outputs, message):
    with pytest.raises(ValueError, match=message):
        measured(metric, kind, labels, outputs).marks(outputs)


# --- examinations and compressions --------------------------------------------------------------


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


def test_task_metric_is_the_accuracy_by_default():
    found = TaskMetric("a", None, "classes", CLASSES, None)
    assert found.marks(CHANCES).value == (HARD == CLASSES).mean()
