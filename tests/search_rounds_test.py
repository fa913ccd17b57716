"""What a search does with the networks of its rounds."""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import layers

from tfmot_pam.display import Display
from tfmot_pam.graph.reader import read
from tfmot_pam.pipeline.arguments import check_goal
from tfmot_pam.pipeline.checkpoints import Checkpoints
from tfmot_pam.pipeline.inputs import originals_by_task, split
from tfmot_pam.pipeline.problem import Problem, make_problem
from tfmot_pam.pipeline.search import Search
from tfmot_pam.pipeline.strategy import Action, allot
from tfmot_pam.pruning.settings import PruningSettings


def perceptron() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), name="vector")
    h = layers.Dense(24, activation="relu")(inputs)
    h = layers.Dense(16, activation="relu")(h)
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name="sign")(h))


@pytest.fixture(scope="module")
def problem():
    x = np.random.default_rng(0).normal(size=(300, 8)).astype("float32")
    labels = (x[:, 0] > 0).astype("int64")
    net = perceptron()
    net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    net.fit(x, labels, epochs=10, verbose=0)
    originals = originals_by_task({"sign": net})
    training, validation = split(originals, (x, {"sign": labels}), None)
    settings = PruningSettings(importance="reconstruction", measure="macs", seed=0)
    goal = check_goal(("sign",), 0.05, None, 8)
    return make_problem(originals, training, validation, goal, settings)


def search_of(problem) -> Search:
    (original,) = problem.originals.values()
    show = functools.partial(Display("").show, "sign")
    found = Search(problem, lambda: original, allot(8, False), Checkpoints(None, {}), show)
    found.start()
    return found


def shapes(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in model.weights]


def refuse(search: Search, number: int) -> None:
    search.rounds[number] = dataclasses.replace(search.rounds[number], accepted=False)


def test_a_trim_to_widths_that_were_refused_goes_on_from_that_network(problem):
    search = search_of(problem)
    search.take(Action("trim", 0, 1, 0.3))
    refuse(search, 1)
    search.take(Action("retry", 1, 1))
    refuse(search, 2)
    search.take(Action("trim", 0, 1, 0.3))
    again = search.rounds[3]
    assert (again.stage, again.parent) == ("trim", 2)
    assert [row.number for row in search.line(3)] == [0, 1, 2, 3]
    assert shapes(search.model(3)) == shapes(search.model(1))
    search.take(Action("trim", 0, 1, 0.6))
    assert search.rounds[4].parent == 0
    assert shapes(search.model(4)) != shapes(search.model(1))


@pytest.mark.slow
def test_a_trim_begins_anew_where_the_same_widths_held_or_came_from_elsewhere(problem):
    search = search_of(problem)
    search.take(Action("warm", 0, 1))
    for parent in (0, 1):
        search.take(Action("trim", parent, 1, 0.3))
    search.rounds[2] = dataclasses.replace(search.rounds[2], accepted=True)
    refuse(search, 3)
    search.take(Action("trim", 0, 1, 0.3))
    assert search.rounds[4].parent == 0


@pytest.mark.parametrize(
    ("macs", "samples"),
    [(1e9, 512), (1.25e7, 800), (5e6, 1024), (1e6, 2000), (1.0, 4096), (0.0, 4096)],
)
def test_cuts_of_small_networks_look_at_more_samples_than_those_of_large_ones(
    problem, monkeypatch, macs, samples
):
    search, seen = search_of(problem), []
    costs = "tfmot_pam.pipeline.search.combination_costs"
    monkeypatch.setattr(costs, lambda network, measure: {("sign",): macs})
    monkeypatch.setattr(Problem, "calibration", lambda self, count: seen.append(count))
    search._calibration(read(search.model(0)))
    assert seen == [samples]


@pytest.mark.slow
def test_cuts_beyond_what_is_trained_do_not_steer(problem):
    search, heard = search_of(problem), []

    def weigh(rounds, tolerances):
        heard.append([row.number for row in rounds])
        return dict.fromkeys(tolerances, 1.0)

    search._weigh = weigh
    for number in range(3):
        search.take(Action("cut", number, 1, 0.2))
    search.take(Action("tail", 1, 1))
    search.take(Action("trim", 4, 1, 0.1))
    search.take(Action("tail", 2, 1))
    assert heard == [[0], [0, 1], [0, 1, 2], [0, 1], [0, 1, 4], [0, 1, 2, 4, 5]]
