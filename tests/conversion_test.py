"""Layers that the user teaches to cross."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras

import tfmot_pam
from tests.crossings import assert_crosses


class Scale(keras.layers.Layer):
    """Scales every channel; counts from the last axis."""

    def __init__(self, start=1.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, inputs):
        return inputs * self.factor + self.start

    def get_config(self):
        return {**super().get_config(), "start": self.start}


class LegacyScale(tf_keras.layers.Layer):
    """The same in the other Keras, under other names."""

    def __init__(self, offset=1.0, **kwargs):
        super().__init__(**kwargs)
        self.offset = offset

    def build(self, shape):
        self.scale = self.add_weight("scale", shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.scale + self.offset

    def get_config(self):
        return {**super().get_config(), "offset": self.offset}


SCALE = tfmot_pam.LayerConversion(rename={"start": "offset"}, weights={"factor": "scale"})


def scaled(kerases, layer):
    x = kerases.Input((4,))
    model = kerases.Model(x, layer(kerases.layers.Dense(3)(x)))
    layer.set_weights([np.array([1.0, 2.0, 3.0], "float32")])
    return model


def test_registered_layers_cross_both_ways():
    tfmot_pam.register_layer_conversion(Scale, LegacyScale, SCALE, overwrite=True)
    there = assert_crosses(scaled(keras, Scale(0.5, name="scale")))
    assert isinstance(there.get_layer("scale"), LegacyScale)
    assert there.get_layer("scale").offset == 0.5
    back = assert_crosses(scaled(tf_keras, LegacyScale(0.5, name="scale")))
    assert isinstance(back.get_layer("scale"), Scale)


def test_weights_must_be_named():
    wrong = tfmot_pam.LayerConversion(rename={"start": "offset"})
    tfmot_pam.register_layer_conversion(Scale, LegacyScale, wrong, overwrite=True)
    with pytest.raises(ValueError, match=r"'odd'.*weights \['scale'\].*counterpart has \['factor'"):
        tfmot_pam.to_tf_keras(scaled(keras, Scale(name="odd")))


def test_registering_twice():
    tfmot_pam.register_layer_conversion(Scale, LegacyScale, SCALE, overwrite=True)
    with pytest.raises(ValueError, match="a conversion for .*Scale.*overwrite=True"):
        tfmot_pam.register_layer_conversion(Scale, LegacyScale)


@pytest.mark.parametrize(
    "pair", [(LegacyScale, Scale), (Scale, Scale), (Scale(), LegacyScale), ("Scale", LegacyScale)]
)
def test_classes_of_the_wrong_keras(pair):
    with pytest.raises(TypeError, match="Expected a layer class of .*keras.* first"):
        tfmot_pam.register_layer_conversion(*pair)


def test_a_conversion_of_another_type():
    with pytest.raises(TypeError, match=r"`conversion` must be a tfmot_pam.LayerConversion"):
        tfmot_pam.register_layer_conversion(Scale, LegacyScale, {"start": "offset"})
