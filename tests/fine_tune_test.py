"""Fine-tuning: what it learns, and what it leaves alone."""

from __future__ import annotations

import gc
import time

import keras
import numpy as np
import pytest
from keras import layers

from tests.tiers import regular
from tests.tuned_nets import (
    TASKS,
    Recorder,
    damaged,
    inputs,
    network,
    same_weights,
    single,
    weights_of,
)
from tfmot_pam.training.fine_tune import fine_tune
from tfmot_pam.training.step_clock import StepClock
from tfmot_pam.training.usage import StepTasks


def distance(model, teacher, x):
    ours, theirs = model.predict(x, verbose=0), teacher.predict(x, verbose=0)
    return {task: np.sqrt(np.mean((ours[task] - theirs[task]) ** 2)) for task in TASKS}


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
