"""Tests of lowering: however layers are written, they compute the same, on many networks."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfmot_pam
from tests import random_models, small_nets
from tests.tiers import regular
from tflite_export.compile import tuning
from tfmot_pam import lowering
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import select


def _normalised(width, position):
    return [
        layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{position}"),
        layers.BatchNormalization(name=f"norm{position}"),
        layers.ReLU(name=f"relu{position}"),
    ]


def _depthwise(width, position):
    return [
        layers.Conv2D(width, 1, name=f"conv{position}", activation="relu"),
        layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{position}"),
        layers.BatchNormalization(name=f"norm{position}"),
        layers.PReLU(shared_axes=(1, 2), name=f"prelu{position}"),
    ]


def _strided(width, position):
    return [
        layers.Conv2D(width, 3, strides=2, padding="same", name=f"conv{position}"),
        layers.LeakyReLU(name=f"relu{position}"),
        layers.Dropout(0.3, name=f"drop{position}"),
    ]


BLOCKS = {
    "plain": small_nets.plain_conv,
    "normalised": _normalised,
    "depthwise": _depthwise,
    "strided": _strided,
}


def _apply(stack, x):
    for layer in stack:
        x = layer(x)
    return x


def grouped(kind, tasks=("a", "b"), widths=((6, 3, 4, 2), (5, 4, 3, 5), (7, 2, 5, 3)), size=8):
    """A network in groups as `merge` writes it: one that all tasks share, and one per task."""
    keras.utils.set_random_seed(len(kind))
    image = keras.Input((size, size, 1), name="image")
    block = BLOCKS[kind]
    groups = ("shared", *tasks)
    parts = dict.fromkeys(groups, image)
    for position, sizes in enumerate(widths):
        reads = dict(parts)
        if position:
            reads.update({t: layers.Concatenate()([parts["shared"], parts[t]]) for t in tasks})
        for group, size in zip(groups, sizes, strict=False):
            parts[group] = _apply(block(size, f"{position}_{group}"), reads[group])
    ends = {group: _ending(kind)(part) for group, part in parts.items()}
    heads = {
        t: layers.Dense(3, activation="softmax", name=f"head_{t}")(
            layers.Concatenate()([ends["shared"], ends[t]])
        )
        for t in tasks
    }
    return small_nets.randomise(keras.Model(image, heads), 1)


def _ending(kind):
    if kind == "plain":
        return lambda x: layers.Flatten()(layers.MaxPooling2D(2)(x))
    return lambda x: layers.GlobalAveragePooling2D()(x)


def _outputs(network, x):
    return small_nets.all_outputs(emit(network, wrap=False), x)


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
                for task, values in _outputs(lowered, x).items():
                    np.testing.assert_allclose(values, expected[task], rtol=1e-5, atol=1e-5)


def _residual(groups=("shared", "a")):
    """Groups around a skip connection."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    options = {"padding": "same", "activation": "relu", "bias_initializer": "random_normal"}
    skip = {g: layers.Conv2D(4, 3, name=f"stem_{g}", **options)(image) for g in groups}
    joined = layers.Concatenate()([skip[g] for g in groups])
    reads = dict.fromkeys(groups, joined) | {"shared": skip["shared"]}
    deep = {g: layers.Conv2D(4, 3, name=f"deep_{g}", **options)(reads[g]) for g in groups}
    added = [layers.Add()([skip[g], deep[g]]) for g in groups]
    pooled = layers.GlobalAveragePooling2D()(layers.Concatenate()(added))
    return keras.Model(image, {"a": layers.Dense(3)(pooled)})


def test_skip_connections_are_fused_from_end_to_end_or_not_at_all():
    model = _residual()
    x = small_nets.images(3)
    network = read(model)
    stem, deep = lowering.fusable_levels(network)
    lowered = lowering.fuse(network, [stem, deep])
    assert [lowered.layer_of(node).kind for node in lowered.nodes].count("Add") == 1
    expected = small_nets.all_outputs(model, x)["a"]
    np.testing.assert_allclose(_outputs(lowered, x)["a"], expected, rtol=1e-5, atol=1e-5)
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
        found = _outputs(lowering.fuse(network, chosen), x)
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


# --- batch normalisation, sums, padding -------------------------------------------------------

BEFORE_NORM = {
    "convolution": lambda: layers.Conv2D(5, 3, strides=2, use_bias=False),
    "with bias": lambda: layers.Conv2D(5, 3, bias_initializer="random_normal"),
    "transposed": lambda: layers.Conv2DTranspose(5, 3, use_bias=False),
    "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    "separable": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, use_bias=False),
    "grouped": lambda: layers.Conv2D(6, 3, groups=3, use_bias=False),
    "dense": lambda: layers.Dense(4),
}


def _checked(lowered, model, x):
    """The kinds of layers of a lowered network, which computes what the model computes."""
    expected = small_nets.all_outputs(model, x)
    for task, values in _outputs(lowered, x).items():
        np.testing.assert_allclose(values, expected[task], rtol=1e-5, atol=1e-5)
    return [lowered.layer_of(node).kind for node in lowered.nodes]


@pytest.mark.parametrize("kind", BEFORE_NORM)
@pytest.mark.parametrize("options", [{}, {"scale": False, "center": False}])
def test_normalisation_is_folded_into_every_kind_of_layer(kind, options):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3), name="image")
    normalised = layers.BatchNormalization(**options)(BEFORE_NORM[kind]()(image))
    model = small_nets.randomise(keras.Model(image, {"a": layers.ReLU()(normalised)}), 1)
    x = small_nets.images(3, shape=(6, 6, 3))
    kinds = _checked(lowering.fold_batch_norm(read(model)), model, x)
    assert len(kinds) == 3
    assert "BatchNormalization" not in kinds


def _normalised_twice(x):
    x = layers.Conv2D(4, 3)(x)
    return layers.Add()([x, layers.BatchNormalization()(x)])


UNFOLDED = {
    "read by others": _normalised_twice,
    "after an activation": lambda x: layers.BatchNormalization()(
        layers.Conv2D(4, 3, activation="relu")(x)
    ),
    "other axis": lambda x: layers.BatchNormalization(axis=1)(layers.Conv2D(4, 3)(x)),
    "no kernel": lambda x: layers.BatchNormalization()(layers.MaxPooling2D()(x)),
}


@pytest.mark.parametrize("kind", UNFOLDED)
def test_normalisation_that_cannot_be_folded_stays(kind):
    image = keras.Input((6, 6, 3), name="image")
    model = small_nets.randomise(keras.Model(image, {"a": UNFOLDED[kind](image)}), 1)
    kinds = _checked(
        lowering.fold_batch_norm(read(model)), model, small_nets.images(2, shape=(6, 6, 3))
    )
    assert "BatchNormalization" in kinds


READERS = {
    "convolution": lambda: layers.Conv2D(5, 3, activation="relu", bias_initializer="ones"),
    "without bias": lambda: layers.Conv2D(5, 3, padding="same", use_bias=False),
    "transposed": lambda: layers.Conv2DTranspose(5, 3, activation="tanh"),
    "separable": lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu"),
    "softmax": lambda: layers.Dense(5, activation="softmax", bias_initializer="ones"),
}


@pytest.mark.parametrize("kind", READERS)
def test_layer_over_a_concatenation_becomes_a_sum(kind):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3), name="image")
    parts = [layers.Conv2D(width, 1, activation="relu")(image) for width in (2, 5, 3)]
    model = keras.Model(image, {"a": READERS[kind]()(layers.Concatenate()(parts))})
    network = read(model)
    (node,) = lowering.splittable_nodes(network)
    lowered = lowering.split_sums(network, [node])
    kinds = _checked(lowered, model, small_nets.images(3, shape=(6, 6, 3)))
    assert kinds.count("Add") == 1
    assert "Concatenate" not in kinds
    assert network_cost(lowered).macs == network_cost(network).macs


def test_concatenations_that_other_layers_read_stay():
    model = grouped("plain")
    network = read(model)
    nodes = lowering.splittable_nodes(network)
    assert len(nodes) == 2 * 2 + 2  # two layers of two tasks' groups, and two heads
    kinds = _checked(lowering.split_sums(network, nodes[:1]), model, small_nets.images(3))
    assert kinds.count("Concatenate") == len(nodes) - 1


@pytest.mark.parametrize("kind", [*BLOCKS, "residual"])
def test_every_layer_but_the_heads_can_be_padded(kind):
    model = _residual() if kind == "residual" else grouped(kind)
    network = read(model)
    found = lowering.paddable_layers(network)
    widths = [layer.width for layer in found]
    assert widths == ([4, 4] if kind == "residual" else [6, 3, 4, 5, 4, 3, 7, 2, 5])
    x = small_nets.images(3)
    _checked(lowering.pad_channels(network, {found[1].writers: 8}), model, x)
    padded = lowering.pad_channels(network, {layer.writers: 8 for layer in found})
    _checked(padded, model, x)
    assert [layer.width for layer in lowering.paddable_layers(padded)] == [8] * len(found)
    nodes = lowering.splittable_nodes(padded)
    _checked(lowering.split_sums(padded, nodes), model, x)


def test_blocks_of_grouped_convolutions_stay_as_they_are():
    image = keras.Input((6, 6, 2), name="image")
    parts = [layers.Conv2D(width, 1, name=f"part{width}")(image) for width in (4, 2)]
    blocks = layers.Conv2D(6, 3, groups=3)(layers.Concatenate()(parts))
    network = read(keras.Model(image, {"a": layers.Conv2D(2, 1)(blocks)}))
    assert lowering.paddable_layers(network) == []
    (level,) = lowering.fusable_levels(network)
    fused = lowering.fuse(network, [level])
    assert [fused.layer_of(node).kind for node in fused.nodes] == ["InputLayer", *["Conv2D"] * 3]
    with pytest.raises(lowering.CannotLowerError, match="computes channels from several"):
        lowering.pad_channels(network, {("part4",): 8})


def test_half_of_a_skip_connection_cannot_be_padded():
    with pytest.raises(lowering.CannotLowerError, match="combines different numbers"):
        lowering.pad_channels(read(_residual()), {("stem_a",): 8})


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
            for task, values in _outputs(lowered, family.x).items():
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
        found = _outputs(lowered, x)["a"]
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
        for task, values in _outputs(lowered, x[:4]).items():
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
