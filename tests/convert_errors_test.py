"""What cannot cross between the Kerases, and why."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
import tf_keras

import tfmot_pam
from tests.crossings import cross, sequential
from tfmot_pam.graph.tf_keras.convert import check_crossing
from tfmot_pam.tfmot_bridge.crossing import import_tfmot


class OnlyKeras(keras.layers.Layer):
    """A layer that only one Keras has."""

    def call(self, inputs):
        return inputs * 2.0


class OnlyLegacy(tf_keras.layers.Layer):
    """A layer that only the other Keras has."""

    def call(self, inputs):
        return inputs * 2.0


@pytest.mark.parametrize(
    ("kerases", "layer"),
    [
        (keras, OnlyKeras(name="odd")),
        (tf_keras, OnlyLegacy(name="odd")),
        (tf_keras, tf_keras.layers.LocallyConnected1D(2, 1, name="odd")),
    ],
)
def test_layers_that_one_side_lacks(kerases, layer):
    x = kerases.Input((4, 4))
    with pytest.raises(ValueError, match=r"'odd' of class .* no counterpart.*register_layer_conv"):
        cross(kerases.Model(x, layer(x)))


def test_recurrent_hard_sigmoid_has_no_equal():
    for kerases in (keras, tf_keras):
        x = kerases.Input((4, 4))
        layer = kerases.layers.LSTM(2, recurrent_activation="hard_sigmoid", name="odd")
        with pytest.raises(
            ValueError, match=r"'odd' of class LSTM.*recurrent_activation.*no equal"
        ):
            cross(kerases.Model(x, layer(x)))


def test_inner_hard_sigmoid_has_no_equal():
    x = keras.Input((4, 4))
    layer = keras.layers.TimeDistributed(keras.layers.Dense(2, activation="hard_silu"), name="odd")
    with pytest.raises(ValueError, match=r"'odd' of class TimeDistributed.*no equal in tf_keras"):
        cross(keras.Model(x, layer(x)))


def test_options_that_one_side_lacks():
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Resizing(4, 4, antialias=True, name="odd")(x))
    with pytest.raises(ValueError, match=r"'odd' of class Resizing.*antialias=True is unknown"):
        cross(model)


def test_operations_that_one_side_lacks():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match=r"operation 'flip'.*Flip.*tf_keras has no such operation"):
        cross(keras.Model(x, keras.ops.flip(x, axis=1)))
    x = tf_keras.Input((4,))
    with pytest.raises(ValueError, match=r"operation 'tf.math.bessel_i0'.*TensorFlow's"):
        cross(tf_keras.Model(x, tf.math.bessel_i0(x)))


def test_models_that_disagree_are_refused():
    one, other = sequential(keras), sequential(tf_keras)
    with pytest.raises(ValueError, match="cannot be converted exactly: output 0 differs by"):
        check_crossing(one, other)


@pytest.mark.parametrize("thing", [None, "model.keras", keras.layers.Dense(2)])
def test_no_model_at_all(thing):
    with pytest.raises(TypeError, match=r"must be a keras.Model of Keras 3. Received"):
        tfmot_pam.to_tf_keras(thing)
    with pytest.raises(TypeError, match=r"must be a tf_keras.Model. Received"):
        tfmot_pam.from_tf_keras(thing)


def test_models_of_the_other_generation():
    with pytest.raises(TypeError, match=r"must be a keras.Model of Keras 3. Received.*tf_keras"):
        tfmot_pam.to_tf_keras(sequential(tf_keras))
    with pytest.raises(TypeError, match=r"must be a tf_keras.Model. Received.*keras"):
        tfmot_pam.from_tf_keras(sequential(keras))


def test_subclassed_and_unbuilt_models():
    class Subclassed(tf_keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match="subclassed model 'mine'.*functional API"):
        tfmot_pam.from_tf_keras(Subclassed(name="mine"))
    with pytest.raises(ValueError, match="unbuilt sequential model 'late'.*tf_keras.Input"):
        tfmot_pam.from_tf_keras(tf_keras.Sequential([tf_keras.layers.Dense(2)], name="late"))


def test_wrapped_models():
    tfmot = import_tfmot()
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(sequential(tf_keras))
    with pytest.raises(ValueError, match=r"must be stripped first.*PruneLowMagnitude.*strip_wrap"):
        tfmot_pam.from_tf_keras(wrapped)
