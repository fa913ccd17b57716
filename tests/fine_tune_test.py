"""Fine-tuning: what it learns, what it leaves alone, and what it refuses."""

from __future__ import annotations

import gc
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tests.tiers import regular
from tfmot_pam.data import HeadSamples, take_samples
from tfmot_pam.graph.usage import check_usage
from tfmot_pam.task_group import TaskGroup
from tfmot_pam.training.feed import Feed
from tfmot_pam.training.fine_tune import fine_tune
from tfmot_pam.training.heads import output_kind
from tfmot_pam.training.losses import TaskLoss, constant_divergence, constant_loss, tempered
from tfmot_pam.training.objective import Teacher, set_objective
from tfmot_pam.training.step_clock import StepClock
from tfmot_pam.training.usage import StepTasks

TASKS = ("b", "a")  # Not in alphabetical order, as a merged model's may be.
HEADS = {
    "softmax": {"units": 3, "activation": "softmax"},
    "sigmoid": {"units": 3, "activation": "sigmoid"},
    "linear": {"units": 3},
}


def dense(*args, tasks, **kwargs):
    return TaskGroup(layers.Dense(*args, **kwargs), tasks)


def network(kinds=("softmax", "linear"), dropout=0.0, seed=0):
    """One shared group, one group for each of the two tasks, and their heads."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    shared = dense(8, activation="tanh", tasks=TASKS, name="shared")(inputs)
    outputs = {}
    for task, kind in zip(TASKS, kinds, strict=True):
        own = dense(4, activation="tanh", tasks=(task,), name=f"{task}_own")(inputs)
        features = layers.Dropout(dropout)(layers.Concatenate()([shared, own]))
        outputs[task] = dense(**HEADS[kind], tasks=(task,), name=f"{task}_head")(features)
    return keras.Model(inputs, outputs, name="merged")


def other_width():
    model = network()
    return {"b": single(model)["b"], "a": keras.Model(model.input, model.get_layer("a_own").output)}


def single(model):
    return {task: keras.Model(model.input, model.output[task]) for task in TASKS}


def damaged(model, scale=0.5, seed=1):
    student = keras.models.clone_model(model)
    rng = np.random.default_rng(seed)
    student.set_weights(
        [w + scale * rng.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()]
    )
    return student


def inputs(n=256, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5)).astype("float32")


def distance(model, teacher, x):
    ours, theirs = model.predict(x, verbose=0), teacher.predict(x, verbose=0)
    return {task: np.sqrt(np.mean((ours[task] - theirs[task]) ** 2)) for task in TASKS}


def same_weights(one, two, **tolerance):
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


def weights_of(model, prefix):
    return np.concatenate([w.numpy().ravel() for w in model.weights if w.path.startswith(prefix)])


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs, self.steps = [], 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        self.rate = float(self.model.optimizer.learning_rate)


@pytest.mark.parametrize("kinds", regular([("softmax", "linear"), ("sigmoid", "softmax")]))
def test_a_damaged_student_recovers_its_teachers(kinds):
    teacher = network(kinds)
    student, x, unseen = damaged(teacher), inputs(512), inputs(128, seed=5)
    recorder = Recorder()
    tuned = fine_tune(
        student, x, single(teacher), 12, learning_rate=0.02, callbacks=[recorder], verbose=0
    )
    before, after = distance(student, teacher, unseen), distance(tuned, teacher, unseen)
    for task in TASKS:
        assert after[task] < 0.25 * before[task]
        assert recorder.logs[-1][f"{task}_loss"] < 0.1 * recorder.logs[0][f"{task}_loss"]
    assert len(recorder.logs) == 12
    assert recorder.rate < 1e-6
    assert recorder.logs[-1]["loss"] == pytest.approx(
        sum(recorder.logs[-1][f"{task}_loss"] for task in TASKS), rel=1e-4
    )


@pytest.mark.tensorflow
def test_no_training_graph_outlives_its_training():
    model = network()
    teachers, x = single(model), np.zeros((8, 5), "float32")

    def graphs():
        fine_tune(model, x, teachers, epochs=1, batch_size=4, verbose=0)
        gc.collect()
        return sum(type(found).__name__ == "FuncGraph" for found in gc.get_objects())

    assert graphs() == graphs()


def test_a_training_traces_its_step_once(monkeypatch):
    model, steps = network(), []
    teachers, x, step = single(model), np.zeros((8, 5), "float32"), keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda *args: (steps.append(1), step(*args))[1])
    fine_tune(model, x, teachers, epochs=2, batch_size=4, verbose=0)
    assert len(steps) == 1


def test_the_first_step_of_a_training_counts_like_the_others(monkeypatch):
    clock, times = StepClock(), iter([10.0, 11.0, 13.0, 50.0, 51.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    for steps in (3, 2):
        clock.on_train_begin()
        for step in range(steps):
            clock.on_train_batch_end(step)
        clock.on_train_end()
    assert clock.seconds == (3.0 / 2 * 3) + (1.0 * 2)


def test_a_perfect_copy_costs_nothing():
    teacher = network(("softmax", "sigmoid"))
    recorder = Recorder()
    tuned = fine_tune(
        teacher, inputs(64), single(teacher), 1, joint=1.0, callbacks=[recorder], verbose=0
    )
    assert recorder.logs[0]["loss"] == pytest.approx(0.0, abs=1e-5)
    assert max(distance(tuned, teacher, inputs(64)).values()) < 0.02


def test_labels_alone_are_learnt():
    x = inputs(512)
    y = {"b": (x[:, 0] > 0).astype(int) + (x[:, 1] > 0), "a": x[:, :3] * 100.0}
    student = damaged(network())
    tuned = fine_tune(student, (x, y), epochs=10, learning_rate=0.03, verbose=0)
    predicted = tuned.predict(x, verbose=0)
    assert np.mean(predicted["b"].argmax(-1) == y["b"]) > 0.85
    assert list(tuned.output) == list(TASKS)


def test_the_input_model_is_left_alone():
    teacher = network()
    student = damaged(teacher)
    student.compile("sgd", loss={"b": "mse", "a": "mae"})
    optimizer, kept = student.optimizer, damaged(teacher)
    student.get_layer("a_own").trainable = False
    tuned = fine_tune(student, inputs(64), single(teacher), 1, verbose=0)
    same_weights(student, kept)
    assert student.optimizer is optimizer
    assert not tuned.compiled
    assert tuned.name == student.name
    np.testing.assert_array_equal(weights_of(tuned, "a_own"), weights_of(kept, "a_own"))
    assert not np.array_equal(weights_of(tuned, "b_own"), weights_of(kept, "b_own"))
    assert tuned.get_layer("shared").tasks == TASKS


def test_the_same_seed_gives_the_same_weights():
    teacher = network()
    student = damaged(network(dropout=0.3))

    def run(seed):
        return fine_tune(student, inputs(64), single(teacher), 2, seed=seed, verbose=0)

    one, two = run(3), run(3)
    same_weights(one, two, rtol=1e-6, atol=1e-7)
    assert not np.allclose(one.get_weights()[0], student.get_weights()[0], atol=1e-5)


def test_dropout_can_be_left_out_while_it_trains():
    teacher, student = network(), damaged(network(dropout=0.9))
    plain = keras.models.clone_model(network(dropout=0.0))
    plain.set_weights(student.get_weights())

    def run(model, **options):
        return fine_tune(model, inputs(64), single(teacher), 2, verbose=0, **options)

    tuned, full = run(student, dropout=0.0), run(student)
    same_weights(tuned, run(plain), rtol=1e-6, atol=1e-7)
    assert not np.allclose(tuned.get_weights()[0], full.get_weights()[0], atol=1e-4)
    for model in (tuned, full, student):
        rates = [found.rate for found in model.layers if isinstance(found, layers.Dropout)]
        assert rates == [0.9, 0.9]


def test_tasks_outside_the_combination_get_no_gradient():
    teacher = network()
    student = damaged(teacher)
    options = {"usage": {("a",): 1.0}, "verbose": 0, "epochs": 1}
    tuned = fine_tune(student, inputs(64), single(teacher), joint=0.0, **options)
    for prefix in ("b_own", "b_head"):
        np.testing.assert_array_equal(weights_of(tuned, prefix), weights_of(student, prefix))
    for prefix in ("a_own", "a_head", "shared"):
        assert not np.array_equal(weights_of(tuned, prefix), weights_of(student, prefix))
    both = fine_tune(student, inputs(64), single(teacher), joint=0.5, **options)
    assert not np.array_equal(weights_of(both, "b_own"), weights_of(student, "b_own"))


def test_task_weights_are_factors_of_the_losses():
    steps = StepTasks(TASKS, None, 1.0, 0, {"b": 3.0, "a": 0.5})
    assert steps.weights(0, 0) == {"b": 3.0, "a": 0.5}
    teacher = network()
    student, recorders = damaged(teacher), (Recorder(), Recorder())
    options = {"epochs": 1, "joint": 1.0, "learning_rate": 1e-9, "verbose": 0}
    for recorder, weights in zip(recorders, (None, {"b": 3.0, "a": 0.5}), strict=True):
        fine_tune(
            student,
            inputs(64),
            single(teacher),
            task_weights=weights,
            callbacks=[recorder],
            **options,
        )
    plain, weighted = (recorder.logs[-1] for recorder in recorders)
    assert weighted["b_loss"] == pytest.approx(3.0 * plain["b_loss"], rel=1e-4)
    assert weighted["a_loss"] == pytest.approx(0.5 * plain["a_loss"], rel=1e-4)


@pytest.mark.parametrize("weights", [{"b": 1.0}, {"b": 1.0, "a": 0.0}, {"b": 1, "a": 1, "c": 1}])
def test_bad_task_weights_are_explained(weights):
    with pytest.raises(ValueError, match="`task_weights` must hold a number above 0"):
        fine_tune(network(), inputs(8), single(network()), task_weights=weights, verbose=0)


class Stream(keras.utils.PyDataset):
    def __init__(self, *arrays, size=16):
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self):
        return len(self.arrays[0]) // self.size

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return tuple(array[rows] for array in self.arrays)


def training_data():
    x, other = inputs(64), inputs(32, seed=2)
    classes, reals = np.arange(64) % 3, inputs(64)[:, :3]
    as_tf = tf.data.Dataset.from_tensor_slices
    return {
        "arrays": ((x, {"b": classes, "a": reals}), 4),
        "one labelled task": ((x, {"b": classes, "a": None}), 4),
        "tf.data": (as_tf((x, {"b": classes, "a": reals})).batch(16), 4),
        "tf.data of unknown length": (as_tf(x).filter(lambda row: True).batch(16), 4),
        "PyDataset": (Stream(x), 4),
        "per task": ({"b": (x, classes), "a": other}, 4),
        "streams per task": ({"b": Stream(x, classes), "a": as_tf(other).batch(16)}, 4),
        "stream and array": ({"b": Stream(x, classes), "a": (other, other[:, :3])}, 4),
    }


def feed_of(student, data):
    """The feed that `fine_tune` would read from, without training."""
    sample = take_samples(data, TASKS, (5,), samples=256)
    objectives = {
        task: set_objective(
            task,
            sample.by_head[task],
            (3,),
            output_kind(student, task),
            teacher=Teacher(task, single(student)[task]),
        )
        for task in TASKS
    }
    return Feed(objectives, sample, (5,))


@pytest.mark.parametrize("name", regular(training_data(), 5))
def test_every_form_of_data_gives_targets_for_every_task(name):
    data, steps = training_data()[name]
    student = network()
    feed = feed_of(student, data)
    dataset, batches = feed.open([feed.prepare(data, 16)], batch_size=16)
    got = [keras.tree.map_structure(np.asarray, batch) for batch in dataset]
    assert len(got) == steps
    assert batches.steps in (steps, None)
    for x, targets, weights in got:
        predicted = student.predict_on_batch(x)
        own_inputs = isinstance(data, dict)
        assert x.shape == (32 if own_inputs else 16, 5)
        for i, task in enumerate(TASKS):
            rows = slice(16 * i, 16 * i + 16) if own_inputs else slice(None)
            teacher = targets[task][rows, -3:]
            np.testing.assert_allclose(teacher, predicted[task][rows], atol=1e-6)
            assert weights[task].mean() == pytest.approx(1.0)
            assert weights[task][rows].min() == pytest.approx(2.0 if own_inputs else 1.0)
            labelled = targets[task].shape[-1] - 3
            assert labelled in (0, 1 if task == "b" else 3)
            if labelled == 3:
                np.testing.assert_array_equal(targets[task][rows, :3], x[rows, :3])


@pytest.mark.parametrize(
    "name",
    regular(["one labelled task", "streams per task", "tf.data of unknown length", "PyDataset"], 2),
)
def test_arrays_and_streams_train_every_task(name):
    data, steps = training_data()[name]
    teacher = network()
    student, recorder = damaged(teacher), Recorder()
    tuned = fine_tune(
        student,
        data,
        list(single(teacher).values()),
        2,
        batch_size=16,
        callbacks=[recorder],
        validation_data=data,
        verbose=0,
    )
    assert recorder.steps == 2 * steps
    assert recorder.rate < 1e-6
    for key in ("loss", "a_loss", "b_loss", "val_loss", "val_a_loss", "val_b_loss"):
        assert np.isfinite(recorder.logs[-1][key])
    for prefix in ("a_head", "b_head"):
        assert not np.array_equal(weights_of(tuned, prefix), weights_of(student, prefix))


def test_dense_outputs_of_any_size_and_byte_inputs():
    inputs_ = keras.Input((None, None, 3), dtype="uint8")
    features = layers.Conv2D(4, 3, padding="same", activation="relu")(
        layers.Rescaling(1 / 255)(inputs_)
    )
    outputs = {
        "b": layers.Conv2D(3, 1, activation="softmax")(features),
        "a": layers.Conv2D(1, 1)(features),
    }
    model = keras.Model(inputs_, outputs)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (16, 6, 8, 3)).astype("uint8")
    y = {"b": rng.integers(0, 3, (16, 6, 8)), "a": rng.normal(size=(16, 6, 8, 1))}
    student, recorder = damaged(model), Recorder()
    tuned = fine_tune(
        student, (x, y), single(model), 2, batch_size=8, callbacks=[recorder], verbose=0
    )
    assert np.isfinite(recorder.logs[-1]["loss"])
    assert not np.array_equal(tuned.get_weights()[0], student.get_weights()[0])


def test_own_losses_optimizers_and_schedules():
    x = inputs(64)
    y = {"b": np.arange(64) % 3, "a": x[:, :3]}
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    options = {"losses": {"b": keras.losses.SparseCategoricalCrossentropy(), "a": "mae"}}
    student, recorder = damaged(network()), Recorder()
    fine_tune(
        student, (x, y), None, 1, optimizer=optimizer, callbacks=[recorder], verbose=0, **options
    )
    assert recorder.rate == pytest.approx(0.1)
    assert not optimizer.built
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    fine_tune(
        student,
        (x, y),
        single(network()),
        1,
        optimizer="sgd",
        learning_rate=schedule,
        callbacks=[recorder],
        verbose=0,
        **options,
    )
    assert recorder.rate == pytest.approx(0.25)


def test_a_custom_loss_is_the_loss_that_compile_would_use():
    x = inputs(64)
    y = {"b": np.arange(64) % 3, "a": x[:, :3]}
    student, recorder = damaged(network()), Recorder()
    wanted = {"b": keras.losses.SparseCategoricalCrossentropy(), "a": keras.losses.Huber()}
    tuned = fine_tune(
        student, (x, y), None, 1, losses=wanted, callbacks=[recorder], validation_data=(x, y),
        verbose=0,
    )  # fmt: skip
    tuned.compile(loss=wanted)
    direct = tuned.evaluate(x, y, return_dict=True, verbose=0)
    assert recorder.logs[0]["val_b_loss"] == pytest.approx(direct["b_loss"], rel=1e-4)
    assert recorder.logs[0]["val_a_loss"] == pytest.approx(direct["a_loss"], rel=1e-4)


def test_checkpoints_of_callbacks_can_be_loaded(tmp_path):
    teacher, path = network(), tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path)
    tuned = fine_tune(
        damaged(teacher), inputs(32), single(teacher), 1, callbacks=[checkpoint], verbose=0
    )
    loaded = keras.saving.load_model(path)
    same_weights(loaded, tuned)
    assert loaded.compiled


HARD = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
MULTI = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]])
CLASSES = np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("kind", "y", "reference", "reference_y"),
    [
        ("softmax", CLASSES, keras.losses.SparseCategoricalCrossentropy(), CLASSES),
        ("softmax", CLASSES[:, None], keras.losses.SparseCategoricalCrossentropy(), CLASSES),
        ("softmax", HARD, keras.losses.CategoricalCrossentropy(), HARD),
        ("softmax", 2 * HARD - 1, keras.losses.CategoricalCrossentropy(), HARD),
        ("sigmoid", MULTI, keras.losses.BinaryCrossentropy(), MULTI),
        ("sigmoid", 2 * MULTI - 1, keras.losses.BinaryCrossentropy(), MULTI),
        ("sigmoid", 0.3 * MULTI, keras.losses.BinaryCrossentropy(), 0.3 * MULTI),
        ("linear", CLASSES, keras.losses.SparseCategoricalCrossentropy(True), CLASSES),
        ("linear", HARD, keras.losses.CategoricalCrossentropy(True), HARD),
        ("linear", 2 * MULTI - 1, keras.losses.BinaryCrossentropy(True), MULTI),
        ("linear", MULTI + 0.25, keras.losses.MeanSquaredError(), MULTI + 0.25),
        ("linear", np.ones((4, 3)), keras.losses.MeanSquaredError(), np.ones((4, 3))),
    ],
)
def test_the_label_loss_follows_the_output_and_the_labels(kind, y, reference, reference_y):
    samples = HeadSamples(inputs(4), y)
    objective = set_objective("a", samples, (3,), kind)
    output = np.random.default_rng(0).uniform(0.1, 0.9, (4, 3)).astype("float32")
    output /= output.sum(-1, keepdims=True) if kind == "softmax" else 1.0
    got = objective.loss(objective.targets(samples), output) * objective.loss.label_scale
    assert float(got) == pytest.approx(float(reference(reference_y, output)), rel=1e-4)


def test_losses_are_in_units_of_the_best_constant_prediction():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 2, 3], 200)
    reals = rng.normal(5.0, 30.0, (200, 1))
    for output_kind_, kind, targets in (
        ("softmax", "distribution", probabilities),
        ("sigmoid", "binary", probabilities),
        ("linear", "real", reals),
    ):
        loss = TaskLoss(
            output_kind_,
            label_kind=kind,
            label_width=targets.shape[-1],
            label_weight=1.0,
            label_scale=constant_loss(kind, targets),
        )
        constant = np.broadcast_to(targets.mean(axis=0), targets.shape)
        assert float(loss(targets, constant)) == pytest.approx(1.0, rel=1e-4)
    classes = np.array([[0], [0], [2], [1]])
    assert constant_loss("classes", classes, 3) == pytest.approx(1.5 * np.log(2))
    assert constant_loss("real", np.zeros((4, 1))) == 1.0
    assert constant_loss("real", np.full((4, 1), 3.0)) == pytest.approx(9e-4)
    assert constant_loss("binary", np.ones((4, 2))) == 0.01


def test_a_temperature_divides_logits():
    logits = np.random.default_rng(0).normal(0.0, 4.0, (50, 3)).astype("float32")
    for kind, activation in (("softmax", ops.softmax), ("sigmoid", ops.sigmoid)):
        found = tempered(kind, activation(logits), 2.5)
        assert np.allclose(found, activation(logits / 2.5), atol=1e-5)
    assert tempered("linear", logits, 2.5) is logits


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "linear"])
def test_the_distance_to_a_teacher_is_0_for_a_copy_and_1_for_the_best_constant(kind, temperature):
    logits = np.random.default_rng(0).normal(0.0, 3.0, (400, 3)).astype("float32")
    activation = {"softmax": ops.softmax, "sigmoid": ops.sigmoid, "linear": np.asarray}[kind]
    teacher = np.asarray(activation(logits))
    scale = constant_divergence(kind, teacher, temperature)
    loss = TaskLoss(kind, teacher_weight=1.0, teacher_scale=scale, temperature=temperature)
    assert float(loss(teacher, teacher)) == pytest.approx(0.0, abs=1e-5)
    if kind == "linear":
        constant = teacher.mean(axis=0)
    else:  # The answer whose tempered probabilities are the mean ones.
        mean = np.asarray(tempered(kind, teacher, temperature)).mean(axis=0)
        odds = np.log(mean) - (np.log(1.0 - mean) if kind == "sigmoid" else 0.0)
        constant = np.asarray(activation(temperature * odds[None]))[0]
    assert float(loss(teacher, np.broadcast_to(constant, teacher.shape))) == pytest.approx(1, 1e-3)


def test_task_loss_survives_its_config():
    loss = TaskLoss("softmax", label_kind="custom", label_width=1, label_weight=1.0,
                    teacher_weight=0.1, temperature=2.0,
                    label_loss=keras.losses.SparseCategoricalCrossentropy())  # fmt: skip
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    y, output = np.array([[0.0, 1, 0], [1, 0.2, 0.8]]), np.array([[0.5, 0.5], [0.9, 0.1]])
    assert float(again(y, output)) == pytest.approx(float(loss(y, output)))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ([layers.Dense(3, activation="softmax")], "softmax"),
        ([layers.Dense(3, activation="sigmoid")], "sigmoid"),
        ([layers.Dense(3)], "linear"),
        ([layers.Dense(3, activation="relu")], "linear"),
        ([layers.Dense(3), layers.Softmax()], "softmax"),
        ([layers.Dense(3), layers.Activation("sigmoid")], "sigmoid"),
        ([layers.Dense(3, activation="softmax"), layers.Activation("linear")], "softmax"),
        ([layers.Dense(3, activation="softmax"), layers.Dropout(0.1)], "softmax"),
        ([layers.Dense(6, activation="softmax"), layers.Reshape((2, 3))], "linear"),
        ([TaskGroup(layers.Dense(3, activation="softmax"), ["a"])], "softmax"),
        ([TaskGroup(layers.Dense(3), ["a"]), TaskGroup(layers.Softmax(), ["a"])], "softmax"),
        ([layers.Dense(3), keras.ops.softmax], "softmax"),
        ([layers.Dense(3), keras.ops.sigmoid], "sigmoid"),
        ([layers.Dense(3, activation="softmax"), lambda x: x * 2.0], "linear"),
        ([keras.Sequential([layers.Dense(3), layers.Softmax()])], "softmax"),
        ([layers.Dense(6), layers.Reshape((2, 3)), layers.Softmax(axis=1)], "linear"),
        ([], "linear"),
    ],
)
def test_output_kind_finds_the_last_activation(head, kind):
    inputs_ = keras.Input((5,))
    output = inputs_
    for layer in head:
        # A fresh copy, because the table's layers can be used once.
        fresh = layer.from_config(layer.get_config()) if isinstance(layer, layers.Layer) else layer
        output = fresh(output)
    assert output_kind(keras.Model(inputs_, {"a": output, "b": inputs_}), "a") == kind


def test_output_kind_of_a_nested_functional_model():
    inner_inputs = keras.Input((5,))
    inner = keras.Model(inner_inputs, layers.Dense(2, activation="sigmoid")(inner_inputs))
    inputs_ = keras.Input((5,))
    assert output_kind(keras.Model(inputs_, {"a": inner(inputs_)}), "a") == "sigmoid"
    assert output_kind(keras.Model(inputs_, inner(inputs_))) == "sigmoid"


def test_steps_serve_the_combinations_as_often_as_they_are_used():
    steps = StepTasks(("a", "b"), {("a",): 0.75, ("a", "b"): 0.25}, 0.5, seed=0)
    served = np.array([list(steps.weights(0, step).values()) for step in range(2000)])
    np.testing.assert_allclose((served > 0).mean(axis=0), [1.0, 0.5 + 0.5 * 0.25], atol=0.03)
    assert (served[1::2] > 0).all()
    assert served.mean() == pytest.approx(1.0, abs=0.03)
    uniform = StepTasks(("a", "b", "c"), None, 0.0, seed=0)
    served = np.array([list(uniform.weights(1, step).values()) for step in range(2000)])
    np.testing.assert_allclose((served > 0).mean(axis=0), 4 / 7, atol=0.04)
    assert (served.max(axis=1) > 0).all()
    assert uniform.weights(1, 5) == uniform.weights(1, 5)


@pytest.mark.parametrize(
    ("usage", "error", "message"),
    [
        ({("a",): 0.5, ("z",): 0.5}, ValueError, r"\('z',\).*tasks \['b', 'a'\]"),
        ({(): 1.0}, ValueError, "one or more of the tasks"),
        ({("a",): 0.5}, ValueError, "sum to 0.5; they must sum to 1"),
        ({("a",): 1.5, ("b",): -0.5}, ValueError, "probability -0.5"),
        ({("a",): float("nan")}, ValueError, "probability nan"),
        ({("a", "b"): 0.5, ("b", "a"): 0.5}, ValueError, "twice"),
        ([0.5, 0.5], TypeError, "must be a dict"),
    ],
)
def test_bad_usage_is_explained(usage, error, message):
    with pytest.raises(error, match=message):
        check_usage(usage, TASKS)
    with pytest.raises(error, match=message):
        fine_tune(network(), inputs(8), single(network()), usage=usage, verbose=0)


class Subclassed(keras.Model):
    def call(self, x):
        return {"a": x}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"teachers": None}, ValueError, r"nothing to train towards for the tasks \['b', 'a'\]"),
        (
            {"teachers": None, "data": (inputs(8), {"a": inputs(8)[:, :3], "b": None})},
            ValueError,
            r"nothing to train towards for the tasks \['b'\]",
        ),
        ({"teachers": {**single(network()), "z": network()}}, ValueError, r"Unknown: \['z'\]"),
        ({"teachers": {"a": single(network())["a"]}}, ValueError, r"missing: \['b'\]"),
        ({"teachers": [network()]}, ValueError, "has 1 models for the 2 tasks"),
        ({"teachers": network()}, TypeError, "dict from task to model"),
        ({"teachers": {"a": "a.keras", "b": network()}}, TypeError, "must be a Keras model"),
        (
            {"teachers": {"a": network().get_layer("a_own"), "b": network()}},
            TypeError,
            "teacher of the task 'a' must be a Keras model",
        ),
        (
            {"teachers": other_width()},
            ValueError,
            r"teacher of the task 'a' gives outputs of shape \(8, 4\).*\('n', 3\)",
        ),
        (
            {"teachers": single(network(("linear", "linear")))},
            ValueError,
            "'b' gives values from .* is a probability",
        ),
        ({"epochs": 0}, ValueError, "`epochs` must be at least 1. Received: 0"),
        ({"joint": 1.5}, ValueError, "`joint` is a share"),
        ({"label_weight": -0.1}, ValueError, "`label_weight` is a share"),
        ({"dropout": 1.5}, ValueError, "`dropout` is a share"),
        ({"temperature": 0.5}, ValueError, "`temperature` must be a number of at least 1"),
        ({"temperature": "hot"}, ValueError, "`temperature` must be a number of at least 1"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"losses": {"z": "mse"}}, ValueError, r"`losses` names \['z'\]"),
        ({"losses": {"a": "mse"}}, ValueError, r"`losses` names \['a'\].*without labels"),
        ({"merged": "merged.keras"}, TypeError, "must be a keras.Model of Keras 3"),
        ({"merged": Subclassed()}, TypeError, "functional or sequential model.*Subclassed"),
        ({"merged": keras.Sequential([layers.Dense(1)])}, (TypeError, ValueError), "`merged` must"),
        ({"data": inputs(8)[:, :4]}, ValueError, r"expected \(n, 5\)"),
        (
            {"data": (inputs(8), {"b": np.full(8, 3), "a": None})},
            ValueError,
            "'b' must be whole numbers from 0 to 2. Received values from 3 to 3",
        ),
        (
            {"data": (inputs(8), {"b": np.full(8, -1), "a": None})},
            ValueError,
            "No label of the task 'b' counts in 8 samples",
        ),
        (
            {"data": (inputs(8), {"b": np.ones((8, 4)), "a": None})},
            ValueError,
            r"labels of the task 'b' have shape \(8, 4\).*or class indices",
        ),
    ],
)
def test_bad_arguments_are_explained(changes, error, message):
    arguments = {"merged": network(), "data": inputs(8), "teachers": single(network())}
    with pytest.raises(error, match=message):
        fine_tune(**{**arguments, **changes}, verbose=0)


@pytest.mark.parametrize(
    ("output", "y", "message"),
    [
        ((3,), np.full((8, 3), 7), "must be 0/1, -1/\\+1 or probabilities"),
        ((3,), np.arange(8), "have shape"),
        ((), np.arange(8) % 2, "without an axis"),
    ],
)
def test_labels_that_do_not_fit_are_explained(output, y, message):
    with pytest.raises(ValueError, match=message):
        set_objective("a", HeadSamples(inputs(8), y), output, "sigmoid")


def test_own_losses_need_labels_with_the_outputs_leading_shape():
    samples = HeadSamples(inputs(8), np.ones((8, 2, 2, 1)))
    with pytest.raises(ValueError, match="with a loss of your own"):
        set_objective("a", samples, (4, 4, 3), "linear", label_loss="mse")


def test_a_broken_teacher_is_explained():
    teacher = network()
    broken = single(damaged(teacher, scale=np.nan))
    with pytest.raises(ValueError, match="gives NaN or infinite outputs"):
        fine_tune(teacher, inputs(8), broken, verbose=0)


def test_errors_in_a_stream_arrive_as_themselves():
    x = inputs(320)
    x[310] = np.nan
    with pytest.raises(ValueError, match="batch 19 of data.* has NaN"):
        fine_tune(network(), Stream(x), single(network()), 1, verbose=0)


def test_labels_that_stop_in_a_stream_are_explained():
    student = network()
    x, y = inputs(32), {"b": np.arange(32) % 3, "a": None}
    feed = feed_of(student, (x, y))
    dataset, _ = feed.open([feed.prepare(Pairs([(x, y), (x, None)]), 32)], batch_size=32)
    with pytest.raises(ValueError, match="no labels for the task 'b'"), feed.original_errors():
        list(dataset)


class Pairs(keras.utils.PyDataset):
    def __init__(self, pairs):
        super().__init__()
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]
