"""Tests of combinations' times: those of what is exported, layers in groups or in one piece."""

import keras
import pytest
from keras import layers

from tests import small_nets
from tests.grouped_nets import BLOCKS, grouped
from tflite_export.compile import tuning
from tfmot_pam.graph.juxtapose import juxtapose
from tfmot_pam.graph.levels import combination_times
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import all_combinations, select
from tfmot_pam.graph.time_model import estimated_time, node_times
from tfmot_pam.pipeline.inputs import with_task

WIDE = ((96, 64, 64), (64, 96, 64), (64, 64, 96))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("widths", [None, WIDE])
def test_a_combination_takes_the_time_of_what_is_exported(kind, widths):
    network = read(grouped(kind) if widths is None else grouped(kind, widths=widths))
    found = combination_times(network)
    assert list(found) == all_combinations(("a", "b"))
    for chosen, time in found.items():
        apart = select(network, chosen)
        best = tuning.tune_alone(apart, tuning.estimated, None, sums=False)
        # Which layers are worth their parameters the exporter looks at in more detail.
        every = widths is None and len(chosen) == 1
        assert time == pytest.approx(estimated_time(best), rel=1e-6 if every else 0.15)
        assert (time < 0.9 * estimated_time(apart)) == (widths is None)


def test_of_two_networks_only_the_first_layers_are_computed_in_one_piece():
    models = {f"t{seed}": small_nets.conv_net(seed, (6, 8)) for seed in range(2)}
    network = juxtapose([read(with_task(model, task)) for task, model in models.items()], models)
    found = combination_times(network)
    # Twice six channels take the time of six. In the second layers and the heads it would take
    # less time, too, but twice the parameters, half of them zeros.
    first = next(n for n in network.nodes if network.layer_of(n).kind == "Conv2D")
    saved = node_times(network)[first.name]
    assert found["t0", "t1"] == pytest.approx(found["t0",] + found["t1",] - saved)


def test_one_network_takes_the_time_of_its_layers():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, activation="relu")(image)
    # Branches of different layers stay apart, and what joins them costs.
    x = layers.Concatenate()([layers.Conv2D(4, 1)(x), layers.Conv2D(4, 3, padding="same")(x)])
    network = read(keras.Model(image, {"a": layers.Dense(2)(layers.Flatten()(x))}))
    assert combination_times(network) == {("a",): estimated_time(network)}
