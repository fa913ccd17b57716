"""Tests of combinations' times: those of the faster of two networks that compute the same."""

import keras
import pytest
from keras import layers

from tests.lowering_test import BLOCKS, grouped
from tflite_export import lowering
from tfmot_pam.graph.levels import combination_times
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import all_combinations, select
from tfmot_pam.graph.time_model import estimated_time

WIDE = ((96, 64, 64), (64, 96, 64), (64, 64, 96))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("widths", [None, WIDE])
def test_a_combination_takes_the_time_of_the_faster_network(kind, widths):
    model = grouped(kind) if widths is None else grouped(kind, widths=widths)
    network = read(model)
    found = combination_times(network)
    assert list(found) == all_combinations(("a", "b"))
    for chosen, time in found.items():
        apart = select(network, chosen)
        whole = lowering.fuse(apart, lowering.fusable_levels(apart))
        assert time == pytest.approx(min(estimated_time(apart), estimated_time(whole)))
        if widths is None:
            assert time < 0.7 * estimated_time(apart)


def test_one_network_takes_the_time_of_its_layers():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, activation="relu")(image)
    # Branches of different layers stay apart, and what joins them costs.
    x = layers.Concatenate()([layers.Conv2D(4, 1)(x), layers.Conv2D(4, 3, padding="same")(x)])
    network = read(keras.Model(image, {"a": layers.Dense(2)(layers.Flatten()(x))}))
    assert combination_times(network) == {("a",): estimated_time(network)}
