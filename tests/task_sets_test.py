"""Task sets that follow from the outputs."""

from __future__ import annotations

import keras
import pytest
import tf_keras
from keras import layers

import tfmot_pam
from tests import small_nets
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.task_sets import reached_tasks, restore_task_sets
from tfmot_pam.graph.tf_keras.reader import read as read_tf_keras


def merged(tasks=("a", "b", "c"), **options):
    models = {}
    for seed, task in enumerate(tasks):
        head = [layers.GlobalAveragePooling2D(name=f"pool_{task}"), layers.Dense(3, name=task)]
        models[task] = small_nets.conv_net(seed, head=lambda head=head: head)
    return tfmot_pam.merge(models, small_nets.images(64), verbose=0, **options)


@pytest.mark.parametrize("method", ["pam", "shared", "random"])
def test_merged_models_get_back_the_sets_they_had(method):
    model = merged(method=method)
    network = read(model)
    wanted = {name: layer.tasks for name, layer in network.layers.items()}
    found = read_tf_keras(tfmot_pam.to_tf_keras(model))
    assert {name: layer.tasks for name, layer in found.layers.items()} == wanted
    back = tfmot_pam.from_tf_keras(tfmot_pam.to_tf_keras(model))
    assert [type(layer) for layer in back.layers] == [type(layer) for layer in model.layers]


def test_reached_tasks():
    x = keras.Input((4,), name="x")
    trunk = layers.Dense(3, name="trunk")(x)
    heads = {"b": layers.Dense(2, name="b")(trunk), "a": layers.Dense(2, name="a")(x)}
    wanted = {"x": ("b", "a"), "trunk": ("b",), "b": ("b",), "a": ("a",)}
    assert reached_tasks(read(keras.Model(x, heads))) == wanted


@pytest.mark.parametrize("names", [("trunk", "head"), ("trunk", "trunk_digit")])
def test_models_that_were_not_merged_stay_plain(names):
    x = tf_keras.Input((4,))
    trunk = tf_keras.layers.Dense(3, name=names[0])(x)
    head = tf_keras.layers.Dense(2, name=names[1])(trunk)
    model = tf_keras.Model(x, {"digit": head, "speaker": tf_keras.layers.Dense(2)(trunk)})
    network = read_tf_keras(model)
    assert {layer.tasks for layer in network.layers.values()} == {None}
    assert restore_task_sets(network) is network
