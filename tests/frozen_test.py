"""Models on a frozen backbone: what stays frozen is said, and can be trained."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

import tfmot_pam
from tfmot_pam.graph.frozen import frozen_layers, thawed, with_trainable
from tfmot_pam.graph.reader import read

layers = keras.layers


def on_frozen(width=8, classes=4, frozen=True) -> keras.Model:
    keras.utils.set_random_seed(width)
    inner = keras.Input((8, 8, 2))
    h = layers.Conv2D(width, 3, name="conv1")(inner)
    h = layers.ReLU()(layers.BatchNormalization(name="norm")(h))
    backbone = keras.Model(inner, layers.Conv2D(width, 3, activation="relu", name="conv2")(h))
    backbone.trainable = not frozen
    image = keras.Input((8, 8, 2))
    h = layers.GlobalAveragePooling2D()(backbone(image, training=False))
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="head")(h))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype("float32")


@pytest.fixture(scope="module")
def models():
    return {"a": on_frozen(8, 4), "b": on_frozen(6, 3)}


@pytest.fixture(scope="module")
def merged(models, x):
    return tfmot_pam.merge(models, x, min_group=1, verbose=0)


def moved(before: keras.Model, after: keras.Model) -> set[str]:
    """The layers of which training has moved a weight."""
    old, new = read(before).layers, read(after).layers
    return {
        name
        for name, layer in new.items()
        for weight, value in layer.weights.items()
        if not np.array_equal(value, old[name].weights[weight])
    }


def test_frozen_layers_are_those_with_weights():
    assert frozen_layers(read(on_frozen())) == ["conv1", "norm", "conv2"]
    assert frozen_layers(read(on_frozen(frozen=False))) == []
    assert frozen_layers(thawed(read(on_frozen()))) == []


def test_layers_within_wrappers_are_thawed():
    x = keras.Input((3, 4))
    inner = layers.Dense(2, trainable=False)
    network = read(keras.Model(x, layers.TimeDistributed(inner, name="each")(x)))
    assert frozen_layers(network) == ["each"]
    assert frozen_layers(thawed(network)) == []


def test_fine_tune_says_what_stays(models, merged, x):
    with pytest.warns(UserWarning, match=r"layers with weights stay as they are.*trainable='all'"):
        tuned = tfmot_pam.fine_tune(merged, x, models, epochs=1, verbose=0)
    trained = moved(merged, tuned)
    assert trained
    assert not trained & set(frozen_layers(read(merged)))


def test_fine_tune_trains_all(models, merged, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tuned = tfmot_pam.fine_tune(merged, x, models, epochs=1, trainable="all", verbose=0)
    assert set(frozen_layers(read(merged))) <= moved(merged, tuned)
    assert list(tuned.output) == list(merged.output)
    assert frozen_layers(read(merged))  # It is left as it was.


def test_what_is_pruned_on_the_way_trains_all(models, merged, x):
    from tfmot_pam.pruning.schedules import Ramp

    schedule = Ramp(0.3, end_step=4, frequency=1)
    gated = tfmot_pam.prune_channels(merged, schedule, "taylor", measure="macs")
    options = {"callbacks": [tfmot_pam.UpdatePruningStep()], "trainable": "all", "verbose": 0}
    tuned = tfmot_pam.fine_tune(gated, x, models, epochs=3, batch_size=16, **options)
    small = tfmot_pam.strip_pruning(tuned)
    assert tfmot_pam.cost(small).macs <= 0.75 * tfmot_pam.cost(merged).macs


def test_what_is_to_be_trained_is_told(models):
    network = read(models["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert frozen_layers(with_trainable(network, "all")) == []
    with pytest.warns(UserWarning, match="stay as they are"):
        assert with_trainable(network, "as-trained") is network


@pytest.mark.slow
def test_compress_trains_all_unless_told(models, x):
    options = {"arms": ["trunk"], "effort": 1, "target": 0.9, "verbose": 0, "seed": 0}
    result = tfmot_pam.compress(models, x, 0.95, **options)
    assert frozen_layers(read(result.model)) == []


@pytest.mark.parametrize("trainable", ["none", None, True])
def test_unknown_words(models, merged, x, trainable):
    with pytest.raises(ValueError, match="Unknown `trainable`.*'as-trained', 'all'"):
        tfmot_pam.fine_tune(merged, x, models, trainable=trainable, verbose=0)
    with pytest.raises(ValueError, match="Unknown `trainable`"):
        tfmot_pam.compress(models, x, 0.5, trainable=trainable, verbose=0)
