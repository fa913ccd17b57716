"""Layer rules that users register: used, replaced and refused."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_pam
from tests.channel_graphs import VECTOR, after_conv, graph_of, space
from tfmot_pam.graph import registry


class Gain(layers.Layer):
    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), name="gain")

    def call(self, inputs):
        return inputs * self.gain


@pytest.fixture
def own_rules():
    """Forgets the rules that a test registers."""
    before = dict(registry._USER_RULES)
    yield
    registry._USER_RULES.clear()
    registry._USER_RULES.update(before)


RULE = tfmot_pam.LayerRule("channelwise", weights={"gain": tfmot_pam.Axes(outputs=0)})


@pytest.mark.usefixtures("own_rules")
@pytest.mark.parametrize("key", [Gain, "Gain"])
def test_a_registered_rule_is_used(key):
    before = after_conv(Gain(name="gain"))
    assert space(before, "conv").frozen is not None
    tfmot_pam.register_layer_rule(key, RULE)
    after = after_conv(Gain(name="gain"))
    assert space(after, "conv").frozen is None
    assert space(after, "conv").members == ("gain",)


@pytest.mark.usefixtures("own_rules")
def test_merging_with_and_without_a_rule():
    """An unknown layer never stops a merge; a rule lets its channels be shared."""

    def model(seed, width):
        x = keras.Input((6, 6, 2))
        h = layers.Conv2D(width, 3, activation="relu", name="conv")(x)
        h = layers.Flatten()(layers.Conv2D(4, 3, name="second")(Gain(name="gain")(h)))
        return keras.Model(x, layers.Dense(2, name="head")(h))

    models = {"a": model(0, 4), "b": model(1, 6)}
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    frozen = tfmot_pam.merge(models, x, method="shared", width="union", verbose=0)
    reason = "Gain 'gain': there is no rule for this kind of layer (network of 'a')"
    assert frozen.merge_plan.frozen == {"conv": reason, "gain": reason}
    tfmot_pam.register_layer_rule(Gain, RULE)
    options = {"method": "shared", "width": "union", "compensation": False}
    shared = tfmot_pam.merge(models, x, **options, verbose=0)
    assert shared.merge_plan.frozen == {}
    assert shared.merge_plan.shared == 1.0
    for merged in (frozen, shared):
        for task, value in merged(x, training=False).items():
            np.testing.assert_allclose(value, models[task](x, training=False), atol=1e-5)


@keras.saving.register_keras_serializable(package="layer_rules_test")
class Mine(layers.Dense):
    pass


@keras.saving.register_keras_serializable(package="layer_rules_test")
class Renamed(layers.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], self.units), name="matrix")

    def call(self, x):
        return x @ self.matrix

    def get_config(self):
        return {**super().get_config(), "units": self.units}


X = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")


def merge_nets(cls, **options):
    """The merge of two networks whose hidden layers are of a class."""

    def net(seed, width):
        keras.utils.set_random_seed(seed)
        x = h = keras.Input((6,))
        for name in ("one", "two"):
            h = layers.ReLU()(cls(width, name=name)(h))
        return keras.Model(x, layers.Dense(2, name="head")(h))

    models = {"a": net(0, 8), "b": net(1, 10)}
    return tfmot_pam.merge(models, X, method="shared", verbose=0, **options)


def pruned_weights(merged):
    cut = tfmot_pam.prune_channels(merged, 0.4, "reconstruction", data=X)
    return tfmot_pam.strip_pruning(cut).get_weights()


@pytest.mark.usefixtures("own_rules")
def test_what_computes_like_a_layer_of_keras_is_fitted_like_it():
    rule = registry.find_rule(layers.Dense)
    tfmot_pam.register_layer_rule(Mine, dataclasses.replace(rule, like="Dense"))
    like, expected = merge_nets(Mine), merge_nets(layers.Dense)
    for found, wanted in zip(like.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    for found, wanted in zip(pruned_weights(like), pruned_weights(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)
    tfmot_pam.register_layer_rule(Mine, rule, overwrite=True)
    one, other = merge_nets(Mine), merge_nets(Mine, compensation=False)
    for name in ("one_shared", "two_shared"):
        kernels = [net.get_layer(name).get_weights()[0] for net in (one, other, like)]
        np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


@pytest.mark.usefixtures("own_rules")
def test_what_is_said_to_compute_like_a_layer_has_its_weights():
    rule = tfmot_pam.LayerRule(
        "mixing", {"matrix": tfmot_pam.Axes(inputs=0, outputs=1)}, "units", like="Dense"
    )
    tfmot_pam.register_layer_rule(Renamed, rule)
    with pytest.raises(ValueError, match=r"like Dense, but has no \['kernel', 'activation'\]"):
        merge_nets(Renamed)
    with pytest.raises(ValueError, match="like='Desne'.*Expected the name of a Keras layer"):
        tfmot_pam.register_layer_rule("Other", dataclasses.replace(rule, like="Desne"))


@pytest.mark.usefixtures("own_rules")
def test_replacing_a_rule():
    with pytest.raises(ValueError, match="There is a rule for 'Dense' already.*overwrite=True"):
        tfmot_pam.register_layer_rule("Dense", RULE)
    tfmot_pam.register_layer_rule("Dense", RULE, overwrite=True)
    assert registry.find_rule(layers.Dense) is RULE


@pytest.mark.parametrize(
    ("layer", "rule", "match"),
    [
        (layers.ReLU(), RULE, "must be a layer class or its name. Received.*Pass the class"),
        (Gain, "channelwise", "must be a tfmot_pam.LayerRule. Received: 'channelwise'"),
    ],
)
def test_bad_rules(layer, rule, match):
    with pytest.raises(TypeError, match=match):
        tfmot_pam.register_layer_rule(layer, rule)


def test_a_users_class_with_a_known_name_has_no_rule():
    class Dense(layers.Layer):
        def call(self, inputs):
            return inputs

    assert registry.find_rule(Dense) is None


def test_the_rule_of_a_call_without_one_is_an_error():
    class Own(layers.Layer):
        def call(self, inputs):
            return inputs

    graph = graph_of(VECTOR, Own(name="own"))
    with pytest.raises(ValueError, match="There is no rule for Own 'own'"):
        graph.rule(graph.network.node("own"))
