"""Training on several devices and by several workers comes to what one device comes to."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests import distributed
from tfmot_pam.distribution.devices import Share, as_local, devices_of


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What this process makes by itself."""
    import tensorflow as tf

    made = {}

    def of(task):
        if task not in made:
            folder = tmp_path_factory.mktemp("one")
            made[task] = distributed.TASKS[task](tf.distribute.get_strategy(), folder)
        return made[task]

    return of


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """What two devices of one process make."""
    tasks = ["arrays", "served"]
    return distributed.run(tmp_path_factory.mktemp("devices"), tasks, devices=2)[0]


@pytest.fixture(scope="module")
def devices_on(tmp_path_factory):
    """What two devices of one process make of the longer tasks."""
    tasks = ["streams", "moments", "gates"]
    return distributed.run(tmp_path_factory.mktemp("devices_on"), tasks, devices=2)[0]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What each of two workers makes."""
    tasks = ["arrays", "told"]
    return distributed.run(tmp_path_factory.mktemp("workers"), tasks, workers=2)


@pytest.fixture(scope="module")
def workers_on(tmp_path_factory):
    """What each of two workers makes of the longer tasks."""
    tasks = ["streams", "moments", "compressed"]
    return distributed.run(tmp_path_factory.mktemp("workers_on"), tasks, workers=2)


def assert_alike(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_two_devices_train_as_one(one, devices):
    assert_alike(devices["arrays"]["weights"], one("arrays")["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["streams", "gates"])
def test_two_devices_do_longer_tasks_as_one(one, devices_on, task):
    assert_alike(devices_on[task]["weights"], one(task)["weights"])


def test_two_workers_train_as_one_process(one, workers):
    for made in workers:
        assert_alike(made["arrays"]["weights"], one("arrays")["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["streams", "compressed"])
def test_two_workers_do_longer_tasks_as_one_process(one, workers_on, task):
    for made in workers_on:
        assert_alike(made[task]["weights"], one(task)["weights"])


def test_what_is_trained_is_on_one_device(workers):
    kinds = [made["arrays"]["kind"] for made in workers]
    assert kinds == ["ResourceVariable"] * 2


def test_losses_are_those_of_the_whole_batch(one, workers):
    for made in workers:
        for ours, theirs in zip(made["arrays"]["losses"], one("arrays")["losses"], strict=True):
            assert ours.keys() == theirs.keys()
            # The mean of an epoch counts a batch that was filled up as a whole one.
            loss = ours.pop("loss")
            assert loss == pytest.approx(theirs["loss"], rel=0.02)
            assert ours == pytest.approx({name: theirs[name] for name in ours}, abs=1e-4)


@pytest.mark.slow
def test_statistics_are_means_over_replicas(one, devices_on):
    """Means of halves average to that of the whole batch; what is frozen by a rate of 0 stays."""
    for kind in ("mean", "kernel"):
        assert_alike(devices_on["moments"][kind], one("moments")[kind])


@pytest.mark.slow
def test_statistics_are_means_over_workers(one, workers_on):
    for made in workers_on:
        for kind in ("mean", "kernel"):
            assert_alike(made["moments"][kind], one("moments")[kind])


@pytest.mark.slow
def test_workers_decide_alike(one, workers_on):
    def told(rounds):
        return [(row.stage, row.parent, row.share, row.accepted) for row in rounds]

    rounds = [told(made["compressed"]["rounds"]) for made in workers_on]
    assert rounds == [told(one("compressed")["rounds"])] * 2


def test_all_workers_are_told_what_the_chief_makes_and_how_it_fails(workers):
    for made in workers:
        assert made["told"]["made"] == "0"
        failed, unsent = made["told"]["errors"]
        assert failed == "ValueError: wrong"
        assert unsent.startswith("TypeError: Several workers need models and importances")


@pytest.mark.slow
def test_a_compression_goes_on_after_a_worker_was_killed(one, tmp_path):
    codes = distributed.end(distributed.start(tmp_path, ["killed"], workers=2))
    assert 0 not in codes
    states = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.json")}
    assert len(states) == 2
    made = distributed.run(tmp_path, ["kept"], workers=2)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.json")}
    assert states.items() <= after.items()
    assert len(after) == len(one("kept")["rounds"]) > 2
    for each in made:
        assert [row.share for row in each["kept"]["rounds"]] == [
            row.share for row in one("kept")["rounds"]
        ]
        assert_alike(each["kept"]["weights"], one("kept")["weights"])


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 4, 7, 8])
def test_shares_of_a_batch_add_up_to_its_mean(length):
    values = np.random.default_rng(0).normal(size=length)
    shares = [Share(4, first, 2) for first in (0, 2)]
    parts = [
        np.mean(values[rows] * weights)
        for share in shares
        for rows, weights in zip(share.rows(length), share.weights(length), strict=True)
    ]
    assert len(parts) == 4
    assert np.mean(parts) == pytest.approx(values.mean())


def test_without_a_strategy_there_is_one_device():
    found = devices_of(distributed.network("sign"))
    assert (found.strategy, found.workers, found.chief) == (None, 1, True)
    assert found.told(lambda: 3) == 3


def test_a_scope_is_left_and_entered_again():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        inside = distributed.network("sign")
        found = devices_of()
        with found.left():
            assert not tf.distribute.has_strategy()
            local = as_local(inside)
            with found.scope():
                assert tf.distribute.get_strategy() is strategy
        assert tf.distribute.get_strategy() is strategy
    assert devices_of(inside).strategy is strategy
    assert devices_of(local).strategy is None
    x = distributed.samples(5)[0]
    np.testing.assert_allclose(local.predict_on_batch(x), inside.predict(x, verbose=0), atol=1e-6)


def test_one_replica_is_enough(one):
    import tensorflow as tf

    made = distributed.arrays(tf.distribute.MirroredStrategy(["CPU:0"]), None)
    assert_alike(made["weights"], one("arrays")["weights"])


def test_searches_in_processes_need_no_strategy():
    import tensorflow as tf

    with (
        tf.distribute.MirroredStrategy(["CPU:0"]).scope(),
        pytest.raises(ValueError, match="`workers` is 2 under a tf.distribute strategy"),
    ):
        tfmot_pam.compress(distributed.network("sign"), distributed.samples(14)[0], workers=2)


@pytest.mark.slow
def test_a_strategy_whose_workers_do_not_train_in_step(devices):
    assert "is a ParameterServerStrategy, whose workers do not train" in devices["served"]


def test_a_model_of_a_scope_that_cannot_be_copied():
    import tensorflow as tf

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = Own()
    with pytest.raises(ValueError, match="'own' of type Own was made in the scope"):
        as_local(model)
