"""Tests of lowering: groups as one layer, and whole networks, compute the same."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfmot_pam
from tests import random_models, small_nets
from tests.grouped_nets import BLOCKS, grouped, lowered_outputs, residual
from tests.tiers import regular
from tflite_export.compile import tuning
from tfmot_pam import lowering
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import select


@pytest.mark.parametrize(
    ("kind", "tasks"),
    regular(
        [*((kind, ("a", "b")) for kind in BLOCKS), ("plain", ("a", "b", "c"))], 3, several=True
    ),
)
def test_every_choice_of_fused_layers_computes_the_same(kind, tasks):
    model = grouped(kind, tasks)
    x = small_nets.images(3, seed=5)
    network = read(model)
    expected = small_nets.all_outputs(model, x)
    for combination in (tasks[:1], tasks):
        selected = select(network, combination)
        levels = lowering.fusable_levels(selected)
        assert [len(level) for level in levels] == [1 + len(combination)] * 3
        for count in range(1, 4):
            for chosen in itertools.combinations(levels, count):
                lowered = lowering.fuse(selected, chosen)
                for task, values in lowered_outputs(lowered, x).items():
                    np.testing.assert_allclose(values, expected[task], rtol=1e-5, atol=1e-5)


def test_skip_connections_are_fused_from_end_to_end_or_not_at_all():
    model = residual()
    x = small_nets.images(3)
    network = read(model)
    stem, deep = lowering.fusable_levels(network)
    lowered = lowering.fuse(network, [stem, deep])
    assert [lowered.layer_of(node).kind for node in lowered.nodes].count("Add") == 1
    expected = small_nets.all_outputs(model, x)["a"]
    np.testing.assert_allclose(lowered_outputs(lowered, x)["a"], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(lowering.CannotLowerError, match="'add.*' combines different"):
        lowering.fuse(network, [stem])


def _reshaped(target, head):
    """Two tasks whose layers are alike, with a reshape of space, and `head` behind it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    options = {"padding": "same", "bias_initializer": "random_normal"}
    outputs = {}
    for task in ("a", "b"):
        h = layers.Conv2D(3, 3, activation="relu", name=f"stem_{task}", **options)(image)
        h = layers.Conv2D(4, 1, name=f"deep_{task}", **options)(h)
        outputs[task] = head(layers.Reshape(target)(h))
    return keras.Model(image, outputs)


@pytest.mark.parametrize("target", [(-1, 4), (64, 4), (4, 16, 4), (256,)])
def test_groups_in_front_of_a_reshape_are_fused(target):
    # Each reshape reads its own part of what is computed in one piece.
    model = _reshaped(target, lambda h: layers.Dense(3)(h))
    x = small_nets.images(3)
    network, expected = read(model), small_nets.all_outputs(model, x)
    levels = lowering.fusable_levels(network)
    assert len(levels) == 2
    for chosen in [[level] for level in levels] + [levels]:
        found = lowered_outputs(lowering.fuse(network, chosen), x)
        for task in model.output:
            np.testing.assert_allclose(found[task], expected[task], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [(-1, 4), (64, 4), (4, 16, 4), (256,)])
def test_outputs_that_are_parts_of_what_is_fused_are_refused(target):
    network = read(_reshaped(target, lambda h: h))
    with pytest.raises(lowering.CannotLowerError, match="would be needed as it was"):
        lowering.fuse(network, lowering.fusable_levels(network))


def test_everything_fused_is_the_network_without_groups():
    selected = select(read(grouped("normalised")), ["a"])
    lowered = lowering.fuse(selected, lowering.fusable_levels(selected))
    kinds = [lowered.layer_of(node).kind for node in lowered.nodes]
    assert kinds == [
        "InputLayer",
        *["Conv2D", "BatchNormalization", "ReLU"] * 3,
        "GlobalAveragePooling2D",
        "Dense",
    ]
    assert lowering.fusable_levels(lowered) == []


def test_zeros_cost_what_they_cost():
    selected = select(read(grouped("plain")), ["a", "b"])
    levels = lowering.fusable_levels(selected)
    before, after = network_cost(selected).macs, network_cost(lowering.fuse(selected, levels)).macs
    assert after > before
    assert lowering.fuse(selected, []).outputs.keys() == selected.outputs.keys()
    assert network_cost(lowering.fuse(selected, [])).macs == before


def test_the_network_given_is_not_changed():
    selected = select(read(grouped("plain")), ["a"])
    names = [node.name for node in selected.nodes]
    kernels = {name: layer.weights.get("kernel") for name, layer in selected.layers.items()}
    copies = {name: None if kernel is None else kernel.copy() for name, kernel in kernels.items()}
    lowering.fuse(selected, lowering.fusable_levels(selected))
    assert [node.name for node in selected.nodes] == names
    for name, kernel in kernels.items():
        if kernel is not None:
            np.testing.assert_array_equal(kernel, copies[name])


def _two_branches(merge_of_branches, activation="relu"):
    image = keras.Input((6, 6, 2), name="image")
    options = {"padding": "same", "activation": activation, "bias_initializer": "ones"}
    one, other = layers.Conv2D(4, 3, **options)(image), layers.Conv2D(4, 3, **options)(image)
    joined = merge_of_branches([one, other])
    return read(keras.Model(image, {"edges": layers.Conv2D(2, 1)(joined)}))


def test_layers_that_are_no_groups_are_left_alone():
    softmax = _two_branches(layers.Concatenate(), activation="softmax")
    assert lowering.fusable_levels(softmax) == []
    image = keras.Input((6,), name="image")
    heads = {task: layers.Dense(3)(image) for task in ("a", "b")}
    assert lowering.fusable_levels(read(keras.Model(image, heads))) == []


@pytest.mark.parametrize("join", [layers.Add(), layers.Multiply(), layers.Concatenate(axis=1)])
def test_what_would_need_the_groups_apart_is_refused(join):
    network = _two_branches(join)
    (level,) = lowering.fusable_levels(network)
    with pytest.raises(lowering.CannotLowerError, match=r"as it was|differently"):
        lowering.fuse(network, [level])


def test_layer_called_twice_stays_as_it_is():
    image = keras.Input((6, 6, 2), name="image")
    shared = layers.Conv2D(2, 3, padding="same", activation="relu")
    network = read(keras.Model(image, {"a": layers.Conv2D(1, 1)(shared(shared(image)))}))
    assert lowering.fusable_levels(network) == []
    assert len(lowering.fuse(network, []).nodes) == len(network.nodes)


@settings(max_examples=2)
@given(st.integers(0, 1_000_000))
def test_every_way_of_lowering_a_random_network_computes_the_same(seed):
    family = random_models.family(seed, tasks=2)
    merged = tfmot_pam.merge(
        family.models, family.x, method="random", share=0.5, seed=seed, verbose=0
    )
    expected = small_nets.all_outputs(merged, family.x)
    network = lowering.fold_batch_norm(read(merged))
    assert tuning.with_fused_levels(network)[0] is network
    for fused in tuning.with_fused_levels(network)[:: max(1, seed % 3)]:
        padded = {
            layer.writers: layer.width + seed % 5 for layer in lowering.paddable_layers(fused)
        }
        for lowered in (
            fused,
            lowering.pad_channels(fused, padded),
            lowering.split_sums(fused, lowering.splittable_nodes(fused)),
        ):
            for task, values in lowered_outputs(lowered, family.x).items():
                error = np.abs(values - expected[task]).max()
                assert error <= 1e-5 * max(1.0, np.abs(expected[task]).max())


APPLICATIONS = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50", "InceptionV3")


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_lowered_applications(name):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(96, 96, 3), classes=3, classifier_activation=None
    )
    model = keras.Model(model.input, {"a": small_nets.randomise(model, 0).output})
    x = small_nets.images(2, shape=(96, 96, 3)) * 50
    expected = small_nets.all_outputs(model, x)["a"]
    network = lowering.fold_batch_norm(read(model))
    kinds = {network.layer_of(node).kind for node in network.nodes}
    assert "BatchNormalization" not in kinds
    every = {layer.writers: layer.width + 3 for layer in lowering.paddable_layers(network)}
    for lowered in [*tuning.variants(network), lowering.pad_channels(network, every)]:
        found = lowered_outputs(lowered, x)["a"]
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_two_mobilenets_side_by_side():
    def network(seed, classes):
        keras.utils.set_random_seed(seed)
        model = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=classes)
        return small_nets.randomise(model, seed)

    models = {"a": network(0, 5), "b": network(1, 4)}
    x = np.random.default_rng(0).normal(size=(32, 32, 32, 3)).astype("float32")
    merged = tfmot_pam.merge(models, x, method="separate", verbose=0)
    expected = small_nets.all_outputs(merged, x[:4])
    found = tuning.with_fused_levels(read(merged))
    assert len(found) > 3
    for lowered in [*found, *tuning.variants(lowering.fold_batch_norm(found[-1]))]:
        for task, values in lowered_outputs(lowered, x[:4]).items():
            np.testing.assert_allclose(values, expected[task], rtol=1e-5, atol=1e-5)


def test_hollow_networks_cost_what_full_ones_do():
    """Where only costs are compared, weights are neither copied nor kept."""
    network = read(grouped("plain"))
    levels = lowering.fusable_levels(network)
    full, hollow = (lowering.fuse(network, levels, hollow=found) for found in (False, True))
    assert network_cost(full) == network_cost(hollow)
    written = [layer for name, layer in hollow.layers.items() if name.endswith(lowering.LOWERED)]
    weights = [weight for layer in written for weight in layer.weights.values()]
    assert weights
    assert not any(any(weight.strides) for weight in weights)
