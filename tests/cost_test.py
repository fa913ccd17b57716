"""Costs against closed forms: published networks, every kind of layer, what is not counted."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

import tfmot_pam
from tests import hand_built
from tests.small_nets import conv_net
from tfmot_pam.graph.cost import Totals, combination_totals, network_cost
from tfmot_pam.graph.network import Layer, Network, Node, Tensor
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import all_combinations, select, task_names
from tfmot_pam.graph.time_model import call_time, estimated_time
from tfmot_pam.pipeline.price import combination_costs
from tfmot_pam.task_group import TaskGroup

layers = keras.layers


def model_of(layer, shape) -> keras.Model:
    x = keras.Input(shape)
    return keras.Model(x, layer(x))


# --- published networks -------------------------------------------------------------------------


def lenet(widths, heads) -> keras.Model:
    """LeNet-5 on 124 x 496 images; `heads` are the widths of its output layers."""
    zeros = {"kernel_initializer": "zeros", "activation": "relu"}
    x = h = keras.Input((124, 496, 1))
    for filters in widths[:2]:
        h = layers.Conv2D(filters, 5, padding="same", **zeros)(h)
        h = layers.MaxPooling2D()(h)
    h = layers.Flatten()(h)
    for units in widths[2:]:
        h = layers.Dense(units, **zeros)(h)
    outputs = {f"t{i}": layers.Dense(n, name=f"t{i}")(h) for i, n in enumerate(heads)}
    return keras.Model(x, outputs)


@pytest.mark.parametrize(
    ("widths", "heads", "parameters", "flops"),
    [
        ((6, 16, 120, 84), (5,), 7_393_530, 106_422_711),
        ((12, 32, 240, 168), (5, 5), 29_573_820, 390_018_942),
    ],
)
def test_lenet(widths, heads, parameters, flops):
    found = tfmot_pam.cost(lenet(widths, heads))
    assert (found.kernel_parameters, found.flops) == (parameters, flops)
    assert found.unsupported == {}
    assert found.parameters == parameters + sum(widths) + sum(heads)


def vgg(scale: int, units: int, heads) -> Network:
    """VGG-16 on 72 x 72 images as data, so that no memory is needed for its weights."""
    nodes = [Node("input", "input", (), {}, ((None, 72, 72, 3),))]
    found = {"input": Layer("input", layers.InputLayer, {}, {})}

    def add(kind, config, kernel, shape, source):
        name = f"{kind.__name__}_{len(nodes)}"
        # A broadcast zero: the shape of a kernel without its memory.
        weights = {"kernel": np.broadcast_to(np.float32(0), kernel)} if kernel else {}
        found[name] = Layer(name, kind, config, weights)
        nodes.append(Node(name, name, (Tensor(source),), {}, ((None, *shape),)))
        return name

    size, channels, last = 72, 3, "input"
    for filters, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            kernel = (3, 3, channels, filters * scale)
            channels = filters * scale
            shape = (size, size, channels)
            config = {"kernel_size": (3, 3), "filters": channels}
            last = add(layers.Conv2D, config, kernel, shape, last)
        size //= 2
        last = add(layers.MaxPooling2D, {}, None, (size, size, channels), last)
    width = size * size * channels
    last = add(layers.Flatten, {}, None, (width,), last)
    for _ in range(2):
        last = add(layers.Dense, {}, (width, units * scale), (units * scale,), last)
        width = units * scale
    outputs = {
        f"t{index}": Tensor(add(layers.Dense, {}, (width, head), (head,), last))
        for index, head in enumerate(heads)
    }
    return Network("vgg", found, tuple(nodes), (Tensor("input"),), outputs)


@pytest.mark.parametrize(
    ("scale", "units", "heads", "parameters", "flops"),
    [
        (1, 512, (20,), 16_031_424, 3_112_200_684),
        (1, 128, (15,), 14_990_912, 3_110_120_433),
        (2, 512, (20, 20), 64_122_240, 12_415_759_320),
        (5, 128, (15, 15, 15, 15, 13), 374_736_960, 77_422_558_647),
    ],
)
def test_vgg(scale, units, heads, parameters, flops):
    found = network_cost(vgg(scale, units, heads))
    assert (found.kernel_parameters, found.flops) == (parameters, flops)


def test_lenet_in_task_groups():
    everyone = ("A", "B")
    widths = [
        {("A",): a, ("B",): b, everyone: shared}
        for a, b, shared in ((1, 1, 2), (2, 2, 3), (6, 6, 10), (4, 3, 9))
    ]
    x = h = keras.Input((124, 496, 1))
    for position, width in enumerate(widths[:2]):
        conv = lambda n: layers.Conv2D(n, 5, padding="same")  # noqa: E731
        h = hand_built.mix(h, f"conv{position}", width, conv, everyone)
        h = hand_built.keep(h, layers.MaxPooling2D)
    h = hand_built.keep(h, layers.Flatten)
    for position, width in enumerate(widths[2:]):
        h = hand_built.mix(h, f"fc{position}", width, layers.Dense, everyone)
    heads = {
        task: TaskGroup(layers.Dense(5), (task,), name=f"head_{task}")(
            hand_built.side_by_side(h, (task,))
        )
        for task in everyone
    }
    model = keras.Model(x, heads)
    found = [tfmot_pam.cost(model, tasks) for tasks in (["A"], ["B"], ["A", "B"])]
    assert [cost.kernel_parameters for cost in found] == [231_234, 231_213, 346_837]
    assert [cost.flops for cost in found] == [18_651_492, 18_651_451, 26_478_078]


# --- every kind of layer ------------------------------------------------------------------------

VARIANTS = {
    # name: layer, input shape, multiply-accumulates, sums that the paper's FLOPs leave one add of
    "conv1d": (lambda: layers.Conv1D(6, 3, padding="same"), (10, 4), 3 * 4 * 6 * 10, 60),
    "conv2d_strided": (
        lambda: layers.Conv2D(8, (3, 2), strides=2),
        (9, 8, 3),
        (3 * 2 * 3) * (4 * 4 * 8),
        4 * 4 * 8,
    ),
    "conv2d_dilated": (
        lambda: layers.Conv2D(5, 3, dilation_rate=2),
        (9, 9, 2),
        (9 * 2) * (5 * 5 * 5),
        5 * 5 * 5,
    ),
    "conv2d_grouped": (
        lambda: layers.Conv2D(8, 3, groups=4, padding="same"),
        (6, 6, 4),
        (9 * 1) * (6 * 6 * 8),
        6 * 6 * 8,
    ),
    "conv3d": (lambda: layers.Conv3D(4, 2), (5, 4, 3, 2), (8 * 2) * (4 * 3 * 2 * 4), 4 * 3 * 2 * 4),
    "conv1d_transpose": (
        lambda: layers.Conv1DTranspose(3, 4, strides=2, padding="same"),
        (6, 2),
        (6 * 2) * (4 * 3),
        12 * 3,
    ),
    "conv2d_transpose": (
        lambda: layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
        (4, 4, 5),
        (4 * 4 * 5) * (9 * 6),
        8 * 8 * 6,
    ),
    "conv3d_transpose": (
        lambda: layers.Conv3DTranspose(2, 2, strides=2),
        (2, 2, 2, 3),
        (8 * 3) * (8 * 2),
        64 * 2,
    ),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3, padding="same"), (8, 4), 3 * 8 * 4, 8 * 4),
    "depthwise2d_multiplied": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        (6, 6, 3),
        9 * (4 * 4 * 6),
        4 * 4 * 6,
    ),
    "separable1d": (
        lambda: layers.SeparableConv1D(4, 3, padding="same"),
        (8, 2),
        8 * (3 * 2 + 2 * 4),
        8 * (2 + 4),
    ),
    "separable2d_multiplied": (
        lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2),
        (6, 6, 3),
        16 * (9 * 6 + 6 * 5),
        16 * (6 + 5),
    ),
    "dense": (lambda: layers.Dense(7), (5,), 5 * 7, 7),
    "dense_per_pixel": (lambda: layers.Dense(7), (2, 3, 5), 6 * 5 * 7, 6 * 7),
    "lstm": (lambda: layers.LSTM(4), (6, 3), 6 * 4 * (3 + 4) * 4, 6 * 4 * 4),
    "gru": (lambda: layers.GRU(4, return_sequences=True), (6, 3), 6 * 3 * (3 + 4) * 4, 6 * 3 * 4),
    "simple_rnn": (lambda: layers.SimpleRNN(4), (6, 3), 6 * (3 + 4) * 4, 6 * 4),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_operations_by_formula(name):
    make, shape, macs, sums = VARIANTS[name]
    model = model_of(make(), shape)
    found = tfmot_pam.cost(model)
    assert found.macs == macs
    assert found.flops == 2 * macs - sums
    assert found.parameters == model.count_params()
    assert found.unsupported == {}


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (layers.BatchNormalization, (4, 4, 3)),
        (layers.ReLU, (4, 4, 3)),
        (layers.PReLU, (4,)),
        (layers.MaxPooling2D, (4, 4, 3)),
        (lambda: layers.GlobalAveragePooling2D(keepdims=True), (4, 4, 3)),
        (layers.Flatten, (4, 4, 3)),
        (lambda: layers.Dropout(0.5), (4,)),
        (layers.UpSampling2D, (4, 4, 3)),
        (lambda: keras.ops.relu, (4,)),
    ],
)
def test_what_the_paper_does_not_count(make, shape):
    model = model_of(make(), shape)
    found = tfmot_pam.cost(model)
    assert (found.macs, found.flops, found.unsupported) == (0, 0, {})
    assert found.parameters == model.count_params()
    assert found.kernel_parameters == 0


def test_layer_that_is_called_twice_computes_twice_with_one_set_of_weights():
    x = keras.Input((4,))
    layer = layers.Dense(4, name="twice")
    found = tfmot_pam.cost(keras.Model(x, layer(layer(x))))
    assert (found.macs, found.parameters) == (32, 20)
    assert [(entry.macs, entry.parameters) for entry in found.per_layer] == [(16, 20), (16, 0)]


def test_nested_model_counts_its_layers():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    found = tfmot_pam.cost(model_of(inner, (4,)))
    assert [entry.macs for entry in found.per_layer] == [12, 6]


def test_per_layer_names_kind_and_tasks():
    found = tfmot_pam.cost(hand_built.two_task_model()).per_layer
    assert [(entry.name, entry.kind, entry.tasks, entry.macs) for entry in found][:3] == [
        ("fc1_shared", "Dense", ("a", "b"), 24),
        ("fc1_a", "Dense", ("a",), 12),
        ("fc1_b", "Dense", ("b",), 18),
    ]


def test_tasks_that_share_nothing_cost_their_sum():
    x = keras.Input((4,))
    model = keras.Model(x, {"a": layers.Dense(2)(x), "b": layers.Dense(3)(x)})
    assert tfmot_pam.cost(model, "a").macs == 8
    assert tfmot_pam.cost(model, "b").macs == 12
    assert tfmot_pam.cost(model, ("b", "a")).macs == tfmot_pam.cost(model).macs == 20


def test_cost_of_combinations_never_falls_with_more_tasks():
    model = hand_built.three_task_model()
    macs = {set_: tfmot_pam.cost(model, set_).macs for set_ in tfmot_pam.combinations(model)}
    for small, large in itertools.permutations(macs, 2):
        if set(small) < set(large):
            assert macs[small] < macs[large]
    assert macs["a", "b", "c"] == tfmot_pam.cost(model).macs


@pytest.mark.parametrize("method", ["random", "separate"])
def test_costs_of_all_combinations_are_those_of_the_smallest_networks(method):
    models = {f"t{seed}": conv_net(seed, (6, 8)) for seed in range(3)}
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    network = read(tfmot_pam.merge(models, x, method=method, min_group=1, verbose=0))
    for measure in ("macs", call_time):
        costs = combination_costs(network, measure)
        assert list(costs) == all_combinations(task_names(network))
        cost_of = estimated_time if measure is call_time else lambda one: network_cost(one).macs
        for chosen, cost in costs.items():
            assert cost == pytest.approx(cost_of(select(network, chosen)), rel=1e-12), chosen


def test_weights_of_a_layer_that_two_tasks_call_count_once():
    x = keras.Input((4,))
    first, shared = layers.Dense(4, name="first"), layers.Dense(4, name="shared")
    model = keras.Model(x, {"a": shared(x), "b": shared(first(x))})
    assert combination_totals(read(model)) == {
        ("a",): Totals(macs=16, flops=28, parameters=20),
        ("b",): Totals(macs=32, flops=56, parameters=40),
        ("a", "b"): Totals(macs=48, flops=84, parameters=40),
    }


# --- what cannot be counted ---------------------------------------------------------------------


class Doubled(keras.layers.Layer):
    """A layer without a rule."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), name="scale")

    def call(self, inputs):
        return inputs * 2 * self.scale


def test_layers_without_a_rule_are_listed_and_their_weights_counted():
    found = tfmot_pam.cost(model_of(Doubled(name="mine"), (3,)))
    assert found.unsupported == {"mine": "there is no rule for Doubled"}
    assert (found.macs, found.parameters) == (0, 3)


def test_operation_without_a_rule_is_listed():
    x = keras.Input((3,))
    found = tfmot_pam.cost(keras.Model(x, keras.ops.matmul(x, np.ones((3, 2), "float32"))))
    assert list(found.unsupported.values()) == ["there is no rule for Matmul"]


def test_user_class_with_the_name_of_a_keras_layer_is_not_taken_for_it():
    own = type("Dense", (Doubled,), {})
    found = tfmot_pam.cost(model_of(own(name="mine"), (3,)))
    assert found.unsupported == {"mine": "there is no rule for Dense"}


def test_channels_first_convolution_is_counted_right_or_listed():
    layer = layers.Conv2D(4, 3, data_format="channels_first", name="conv")
    found = tfmot_pam.cost(model_of(layer, (3, 8, 8)))
    assert found.macs == 27 * 4 * 36 or list(found.unsupported) == ["conv"]


def test_mixing_layer_whose_rule_counts_nothing_is_listed():
    class Mixed(layers.Dense):
        pass

    tfmot_pam.register_layer_rule(
        Mixed, tfmot_pam.LayerRule("mixing", weights={"kernel": tfmot_pam.Axes(0, 1)})
    )
    assert list(tfmot_pam.cost(model_of(Mixed(2, name="mine"), (3,))).unsupported) == ["mine"]


def test_every_kernel_of_a_layer_counts_as_one():
    model = model_of(layers.Bidirectional(layers.LSTM(3)), (4, 8))
    assert tfmot_pam.cost(model).kernel_parameters == 2 * 4 * 3 * (8 + 3)


def test_layer_whose_first_output_nobody_reads():
    x = keras.Input((5, 3))
    state = layers.LSTM(4, return_state=True, name="lstm")(x)[1]
    found = tfmot_pam.cost(keras.Model(x, state))
    assert found.macs == 5 * 4 * (3 + 4) * 4 or list(found.unsupported) == ["lstm"]


# --- bad input ----------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        (lambda: Subclassed(), TypeError, "subclassed model.*functional API"),
        (lambda: keras.Sequential([layers.Dense(2)]), ValueError, "unbuilt sequential"),
        (lambda: "model.keras", TypeError, "must be a keras.Model.*Received: 'model.keras'"),
    ],
)
def test_bad_models(model, error, match):
    with pytest.raises(error, match=match):
        tfmot_pam.cost(model())


def test_unknown_task():
    with pytest.raises(ValueError, match=r"Unknown tasks: \['z'\].*\['a', 'b'\]"):
        tfmot_pam.cost(hand_built.two_task_model(), ["a", "z"])
