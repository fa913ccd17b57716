"""What must hold for any network whose channels are removed or that is merged with another."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.identities_test import (
    aligned,
    assembled,
    assert_combinations,
    assert_reproduces,
    assert_superset_rule,
    nothing_is_cut,
    random_masks,
)
from tests.random_models import randomise
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.reader import read
from tfmot_pam.pruning.costs import WidthCosts
from tfmot_pam.pruning.gates import remove_gates
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

Body = Callable[[keras.KerasTensor], keras.KerasTensor]


def model_of(body: Body, shape: tuple[int, ...], seed: int = 0, outputs: int = 3) -> keras.Model:
    """A network of one input and one dense head with all weights drawn."""
    keras.utils.set_random_seed(seed)
    x = keras.Input(shape, name="signal")
    h = keras.layers.Flatten()(body(x))
    return randomise(keras.Model(x, keras.layers.Dense(outputs, name="head")(h)), seed)


def inputs_of(model: keras.Model, samples: int = 4) -> np.ndarray:
    shape = (samples, *model.input.shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def assert_same(found, expected, tolerance: float = 1e-5) -> None:
    found, expected = map(keras.ops.convert_to_numpy, (found, expected))
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def assert_merged_separately(models: dict[str, keras.Model]) -> None:
    """Nothing shared: the originals."""
    x = inputs_of(next(iter(models.values())))
    merged = tfmot_pam.merge(models, x, method="separate", verbose=0)
    for task, found in merged(x, training=False).items():
        assert_same(found, models[task](x, training=False))


def merged_in_groups(models: dict[str, keras.Model], seed: int = 0) -> Network:
    """Any task sets where nothing is cut: the originals; combinations are parts of the whole."""
    x = inputs_of(next(iter(models.values())))

    def decide(alignment):
        return nothing_is_cut(alignment, random_masks(alignment, seed, must_own=True))

    network = assembled(aligned(models), decide)
    assert_superset_rule(network)
    assert_reproduces(emit(network), models, x)
    assert_combinations(network, x)
    return network


def pruned_exactly(
    model: keras.Model, fraction: float = 0.5, importance: str = "magnitude", **options
) -> keras.Model:
    """The network without a share of its channels: what it was with zeros in their place."""
    gated = tfmot_pam.prune_channels(model, fraction, importance, **options)
    small, x = tfmot_pam.strip_pruning(gated), inputs_of(model)
    assert_same(gated(x, training=False), small(x, training=False))
    assert np.abs(gated(x, training=False) - model(x, training=False)).max() > 1e-4
    ungated = remove_gates(read(gated))
    predicted = WidthCosts(ungated.prunable()).macs(ungated.mask)
    found = tfmot_pam.cost(small).macs
    assert found == pytest.approx(predicted, rel=1e-9)
    assert found < tfmot_pam.cost(model).macs
    again = tfmot_pam.PruningHistory.from_json(small.pruning_history.to_json()).apply(model)
    assert_same(again(x, training=False), small(x, training=False), 1e-6)
    return small


def nothing_goes():
    """A schedule that removes no channel."""
    return import_tfmot().sparsity.keras.ConstantSparsity(0.0, 0)


def assert_saved(model: keras.Model, folder) -> None:
    """An ordinary Keras file."""
    model.save(folder / "small.keras")
    x = inputs_of(model)
    again = keras.saving.load_model(folder / "small.keras")
    assert_same(again(x, training=False), model(x, training=False), 1e-6)


def assert_exported(model: keras.Model, folder) -> None:
    """A TFLite file that computes what the model computes."""
    import tflite_export

    files = tflite_export.export(model, folder / "out", samples=inputs_of(model), verbose=0)
    assert files
    assert all(file.max_abs_error < 1e-4 for file in files)
