"""The simple rivals: what they cost, what they may train, and that they repeat themselves."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest

import tfmot_pam
from benchmarks import rivals, suites
from benchmarks.rivals import attempt as attempts
from benchmarks.rivals import cells, pages, stem
from tests.small_nets import classes, dense_net, vectors

OUTPUTS = {"a": 3, "b": 4}
LEVEL = 0.3
# Rivals that choose by trials, and those that search, cut many networks, or are much like another.
CHOOSING = ("donor_labels", "distilled", "frozen_donor", "stem_branches")
SLOW = ("small_scratch", "stem_branches", "donor_labels", "frozen_donor")
ALL = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in rivals.RIVALS]


def _noisy(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x + rng.normal(0.0, 0.1, x.shape).astype("float32")


def _split(seed: int) -> suites.Split:
    x = vectors(64, seed)
    return x, {task: classes(x, count, seed=count) for task, count in OUTPUTS.items()}


@pytest.fixture(scope="module")
def splits() -> dict[str, suites.Split]:
    return {name: _split(seed) for seed, name in enumerate(("train", "validation", "test"))}


@pytest.fixture(scope="module")
def models() -> dict[str, keras.Model]:
    return {
        task: dense_net(seed, widths=(16, 12), outputs=count, name=task)
        for seed, (task, count) in enumerate(OUTPUTS.items())
    }


@pytest.fixture
def make(models, splits, tmp_path):
    suite = suites.Suite(
        lambda folder, seed: splits, dense_net, OUTPUTS, epochs=1, effort=1, augment=_noisy
    )

    def attempt(effort: int = 1, level: float = LEVEL, **changes) -> attempts.Attempt:
        macs = level * attempts.originals_macs(models)
        changed = dataclasses.replace(suite, **changes)
        return attempts.Attempt(changed, models, splits, macs, effort, 0, tmp_path / "rounds")

    return attempt


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many samples each call of `fine_tune` goes through."""
    found, fine_tune = [], tfmot_pam.fine_tune

    def counting(model, data, teachers, epochs, **options):
        found.append(epochs * len(data[0]))
        return fine_tune(model, data, teachers, epochs, **options)

    monkeypatch.setattr(tfmot_pam, "fine_tune", counting)
    return found


@pytest.mark.parametrize("name", ALL)
def test_a_rival_keeps_to_its_level_and_its_effort(make, passes, models, name):
    attempt = make()
    before = {task: model.get_weights() for task, model in models.items()}
    keras.utils.set_random_seed(0)
    model = rivals.RIVALS[name](attempt)
    costs = attempts.combination_macs(model)
    assert list(costs) == [("a",), ("b",), ("a", "b")]
    assert 0.5 * attempt.macs < np.mean(list(costs.values())) <= attempt.macs
    assert attempt.epochs == attempt.allotted == 2
    assert sum(passes) == 2 * len(attempt.x)
    outputs = model.predict(attempt.x, verbose=0)
    assert {task: found.shape[1] for task, found in outputs.items()} == OUTPUTS
    for task, model in models.items():
        assert np.isfinite(outputs[task]).all()
        assert all(layer.trainable for layer in model.layers)
        for weight, own in zip(model.get_weights(), before[task], strict=True):
            np.testing.assert_array_equal(weight, own)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOOSING)
def test_trials_count(make, passes, name):
    attempt = make(effort=16)
    rivals.RIVALS[name](attempt)
    assert attempt.choice
    assert len(passes) > 2
    assert attempt.epochs == attempt.allotted == 32
    assert sum(passes) == 32 * len(attempt.x)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "narrow_scratch" else pytest.mark.slow)
        for name in rivals.RIVALS
    ],
)
def test_the_same_seed_gives_the_same_network(make, splits, name):
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        found.append(rivals.RIVALS[name](make()).predict(splits["test"][0], verbose=0))
    for task in OUTPUTS:
        np.testing.assert_array_equal(found[0][task], found[1][task])


SHAPES = {
    "speech": (32, 32, 1),
    "speech-resnet": (32, 32, 1),
    "products": (48, 48, 3),
    "unlike": (48, 48, 3),
    "composites": (56, 56, 1),
    "motion": (128, 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_networks_of_all_suites_get_as_narrow_as_is_wanted(tmp_path, name):
    suite, x = suites.SUITES[name], np.random.default_rng(0).normal(size=(32, *SHAPES[name]))
    built = {
        task: suite.build(task, SHAPES[name], outputs, tmp_path)
        for task, outputs in suite.outputs.items()
    }
    macs = LEVEL * attempts.originals_macs(built)
    splits = {"train": (x.astype("float32"), {})}
    attempt = attempts.Attempt(suite, built, splits, macs, 1, 0, tmp_path)
    trunk = attempts.with_all_heads(built, next(iter(built)))
    method = stem._stem(0, 0.5)
    branched = tfmot_pam.merge(built, attempt.x, method=method, compensation=False, verbose=0)

    def cut(model, to, **how):
        return attempt.narrowed(model, to, importance="magnitude", data=None, **how)

    for model in (
        attempts.with_new_weights(cut(trunk, macs, scope="per-layer"), 0),
        cut(trunk, macs),
        cut(branched, macs),
        attempt.side_by_side(
            {
                task: cut(model, LEVEL * tfmot_pam.cost(model).macs, scope="per-layer")
                for task, model in built.items()
            }
        ),
    ):
        assert list(model.output) == list(built)
        assert 0.5 * macs < attempts.expected_macs(model) <= macs


def test_views_are_seen_equally_often(make):
    attempt = make()
    assert [attempt._view_count(epochs) for epochs in (1, 7, 16, 18, 54, 72)] == [
        1,
        7,
        16,
        9,
        9,
        12,
    ]
    assert make(augment=None)._view_count(72) == 1


def test_a_frozen_donor_s_new_heads_are_all_that_is_trained_in_the_end(make, monkeypatch):
    trained, fine_tune = [], tfmot_pam.fine_tune

    def watching(model, *args, **options):
        trained.append([layer.name for layer in model.layers if layer.trainable_weights])
        return fine_tune(model, *args, **options)

    monkeypatch.setattr(tfmot_pam, "fine_tune", watching)
    attempt = make()
    rivals.RIVALS["frozen_donor"](attempt)
    donor = attempt.choice
    (other,) = OUTPUTS.keys() - {donor}
    assert trained == [["fc0", "fc1", donor], [other]]


def test_a_donor_with_all_heads_answers_its_own_task_as_before(models, splits):
    x = splits["test"][0]
    model = attempts.with_all_heads(models, "b")
    assert list(model.output) == ["a", "b"]
    np.testing.assert_allclose(
        model.predict(x, verbose=0)["b"], models["b"].predict(x, verbose=0), rtol=1e-6
    )


def test_a_network_whose_head_is_not_its_last_layer_is_refused(models):
    inputs = keras.Input((6,))
    shared = keras.layers.Dense(3, name="c")(inputs)
    beside = keras.Model(inputs, {"c": shared, "d": keras.layers.Dense(2)(inputs)})
    with pytest.raises(ValueError, match="'c' ends in several layers"):
        attempts.with_all_heads({"a": models["a"], "c": beside}, "a")


@pytest.mark.parametrize("names", [["nobody"], [], ["distilled", "distilled"]])
def test_rivals_that_are_none_are_explained(names):
    with pytest.raises(ValueError, match="Expected some of .*narrow_scratch"):
        rivals.find_rivals(names)


@pytest.mark.parametrize("wanted", [["much"], [], ["0"], ["1.5"], ["0.3", "nan"]])
def test_levels_that_are_none_are_explained(wanted):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        cells.find_levels(wanted, "products", 0)


def test_levels_without_figures_of_a_search_are_explained():
    with pytest.raises(ValueError, match="seed 77 of the suite 'products'"):
        cells.find_levels(None, "products", 77)


def test_levels_are_those_that_the_search_came_to():
    levels = cells.find_levels(None, "products", 0)
    assert list(levels) == ["separate", "best", "half of separate"]
    assert levels["half of separate"] == levels["separate"] / 2 < levels["best"]
    assert cells.find_levels(["0.3", "0.1"], "products", 0) == {"0.3": 0.3, "0.1": 0.1}


def _cell(seed: int, macs: int, lost: float) -> list[dict]:
    """The rows of one cell with two tasks."""
    common = {"suite": "x", "effort": 3, "level": "0.3", "rival": "distilled", "seed": seed}
    common |= {"choice": "a", "expected_macs": macs, "worst_loss": lost, "worst_loss_error": 0.5}
    common |= {"lost_error": 0.5, "epochs": 6, "training_macs": "1e9", "seconds": 7}
    return [
        {**common, "combination": tasks, "macs": macs, "original_macs": 10 * macs, "lost": lost}
        for tasks in ("a", "b", "a+b")
    ]


def test_pages_show_means_over_seeds_and_keep_what_they_held(tmp_path: pathlib.Path):
    work, output = tmp_path / "work", tmp_path / "pages"
    (work / "rivals").mkdir(parents=True)
    cell = work / "rivals" / "one.json"
    for seed, macs, lost in ((0, 1_000_000, 1.0), (1, 3_000_000, 2.0)):
        cell.write_text(json.dumps(_cell(seed, macs, lost)), encoding="utf-8")
        pages.write_pages(work, output)
    text = (output / "rivals.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "distilled" in line]
    assert [part.strip() for part in line.split("|")[1:8]] == [
        *("0.3", "distilled", "2", "a", "2.000 ± 1.000", "0.1000 ± 0.0000"),
        "2.000 ± 1.000, 2.000 ± 1.000",
    ]
    assert "| 1.50 ± 0.50, 1.50 ± 0.50 | 1.50 ± 0.50 |" in line
    assert (output / "rivals.csv").read_text(encoding="utf-8").count("\n") == 7


def test_rows_hold_costs_and_losses_of_the_test_split(make, monkeypatch, models, splits):
    untrained = {"untrained": lambda attempt: attempts.with_all_heads(attempt.models, "a")}
    monkeypatch.setattr(cells, "RIVALS", untrained)
    rows = cells.rows_of("untrained", make())
    assert [row["combination"] for row in rows] == ["a", "b", "a+b"]
    assert rows[0]["macs"] == tfmot_pam.cost(models["a"]).macs
    assert rows[0]["lost"] == 0.0
    for row in rows:
        assert row["worst_loss"] == rows[2]["lost"] == max(0.0, rows[1]["lost"])
    assert rows[2]["original_macs"] == sum(tfmot_pam.cost(m).macs for m in models.values())
