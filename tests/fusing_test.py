"""Channels that become one: the mechanism that `mtz`, `zip` and users' methods stand on."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.permuted import permuted
from tests.small_nets import all_outputs, dense_net, images, outputs_of, randomise, vectors
from tests.tiers import regular
from tfmot_pam.closed_form.compensate import Compensation, compensate
from tfmot_pam.graph.channels import build_channel_graph
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.task_sets import tasks_of_nodes
from tfmot_pam.merging.alignment import alone
from tfmot_pam.merging.assemble import assemble_anew
from tfmot_pam.merging.grouping import Grouping, free_spaces

layers = keras.layers
KINDS = ("chain", "norm", "residual", "depthwise", "separable", "concatenated", "grouped")
# Of methods that find the same by themselves, the kinds that differ most.
FOUND = [
    kind if kind in ("residual", "depthwise") else pytest.param(kind, marks=pytest.mark.slow)
    for kind in KINDS
]


def network(kind: str, seed: int = 0, width: int = 6) -> keras.Model:
    """A small network; none of its channels computes a constant."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 1))

    def block(h, width, size=3, activation="relu"):
        h = layers.Conv2D(width, size, padding="same", use_bias=kind == "chain")(h)
        h = h if kind == "chain" else layers.BatchNormalization()(h)
        return layers.Activation(activation)(h)

    h = block(image, width)
    if kind == "residual":
        inner = block(block(h, width - 1), width, activation="linear")
        h = layers.ReLU()(layers.Add()([h, inner]))
    elif kind == "depthwise":
        h = layers.DepthwiseConv2D(3, use_bias=False, depth_multiplier=2)(h)
        h = block(layers.ReLU()(layers.BatchNormalization()(h)), width, 1)
    elif kind == "separable":
        h = layers.SeparableConv2D(width, 3, activation="relu")(h)
    elif kind == "concatenated":
        h = block(layers.Concatenate()([h, block(h, width - 2)]), width)
    elif kind == "grouped":
        h = block(layers.Conv2D(width, 3, groups=3)(h), width)
    else:
        h = block(h, width + 1)
    h = layers.Flatten()(layers.AveragePooling2D(2)(h))
    h = layers.Dense(width, activation="relu")(h)
    return randomise(keras.Model(image, layers.Dense(4)(h)), seed)


def method(orders, factors=None, masks=None, name="known"):
    """Fuses channel i of the first network with the one that was there in the second."""

    def decide(request):
        found = {}
        for index in free_spaces(request.alignment):
            space = request.alignment.spaces[index]
            width = space.widths[0]
            classes = np.concatenate([np.arange(width), orders[space.name]])
            found[index] = tfmot_pam.SpaceDecision(np.full(2 * width, 3), classes, factors)
        return found

    return tfmot_pam.MergeMethod(name, decide, own_width=True)


def merged(models, x, decided, **options):
    return tfmot_pam.merge(models, x, method=decided, verbose=0, **options)


@pytest.mark.parametrize("kind", regular(KINDS, 4))
def test_networks_in_other_orders_become_one(kind):
    x, first = images(32), network(kind)
    # Without any noise the channels would be found to be the same before.
    second, orders = permuted(first, 1, noise=1e-5)
    both = {"a": first, "b": second}
    for compensation in (False, True):
        model = merged(both, x, method(orders), compensation=compensation)
        for task, found in all_outputs(model, x).items():
            np.testing.assert_allclose(found, outputs_of(both[task], x), atol=1e-4)
    head = 4 * (first.layers[-1].input.shape[-1] + 1)
    assert model.count_params() == first.count_params() + head
    assert model.merge_plan.shared == 1.0
    plan = tfmot_pam.MergePlan.from_json(model.merge_plan.to_json())
    again = tfmot_pam.merge(both, x, plan=plan, verbose=0)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def scaled(model: keras.Model, layer: str, following: str, factor: np.ndarray) -> keras.Model:
    """The same function, with some channels larger by a factor, and read smaller."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernel, bias = copy.get_layer(layer).get_weights()
    copy.get_layer(layer).set_weights([kernel * factor, bias * factor])
    kernel, bias = copy.get_layer(following).get_weights()
    copy.get_layer(following).set_weights([kernel / factor[:, None], bias])
    return copy


def test_factors_undo_other_scales():
    first = dense_net(0, widths=(5,))
    factor = np.random.default_rng(0).uniform(0.3, 3.0, 5)
    second = scaled(first, "fc0", "head", factor)
    factors = np.concatenate([2 / (1 + factor), 2 * factor / (1 + factor)])
    x, orders = vectors(40), {"fc0": np.arange(5)}
    model = merged({"a": first, "b": second}, x, method(orders, factors), compensation=False)
    for found in all_outputs(model, x).values():
        np.testing.assert_allclose(found, outputs_of(first, x), atol=1e-5)
    plan = tfmot_pam.MergePlan.from_json(model.merge_plan.to_json())
    assert plan.spaces[0].factors["b"] == tuple(factors[5:])


def test_channels_of_one_network_are_read_together():
    """Every channel stands twice, with halves of the weights that are read; one of each stays."""
    first = dense_net(0, widths=(4,))
    keras.utils.set_random_seed(1)
    vector = keras.Input((6,))
    wide = keras.Model(
        vector, layers.Dense(3, "softmax", name="head")(layers.Dense(8, "relu", name="fc0")(vector))
    )
    kernel, bias = first.get_layer("fc0").get_weights()
    wide.get_layer("fc0").set_weights([np.hstack([kernel, kernel]), np.hstack([bias, bias])])
    kernel, bias = first.get_layer("head").get_weights()
    share = np.random.default_rng(0).uniform(size=(4, 1))
    wide.get_layer("head").set_weights([np.vstack([share * kernel, (1 - share) * kernel]), bias])

    def decide(request):
        (index,) = free_spaces(request.alignment)
        classes = np.concatenate([np.tile(np.arange(4), 2), np.arange(4, 12)])
        return {index: tfmot_pam.SpaceDecision(np.repeat([1, 2], 8), classes)}

    x, other = vectors(40), dense_net(3, widths=(8,))
    decided = tfmot_pam.MergeMethod("within", decide, own_width=True)
    model = merged({"a": wide, "b": other}, x, decided, compensation=False)
    found = all_outputs(model, x)
    np.testing.assert_allclose(found["a"], outputs_of(first, x), atol=1e-6)
    np.testing.assert_allclose(found["b"], outputs_of(other, x), atol=1e-6)
    assert [layer.output.shape[-1] for layer in model.layers if "fc0" in layer.name] == [4, 8]


@pytest.mark.parametrize("apart", [False, True])
def test_a_fused_channel_is_the_least_squares_fit_to_its_originals(apart):
    """MTZ: w = (H_a + H_b)^-1 (H_a w_a + H_b w_b), with each network's own data."""
    models = {"a": dense_net(0, widths=(5,)), "b": dense_net(1, widths=(5,))}
    x = {"a": vectors(64, 1), "b": 3 * vectors(64, 2) ** 2}
    data = x if apart else np.concatenate(list(x.values()))
    order = np.array([2, 0, 1, 4, 3])
    model = merged(models, data, method({"fc0": order}), samples=128)
    found = np.vstack(model.get_layer("fc0_shared").get_weights())
    known = [np.vstack(own.get_layer("fc0").get_weights()) for own in models.values()]
    known[1] = known[1][:, np.argsort(order)]
    moments = []
    for task in models:
        rows = x[task] if apart else data
        rows = np.hstack([rows, np.ones((len(rows), 1))]).astype(float)
        moments.append(rows.T @ rows)
    best = np.linalg.solve(sum(moments), moments[0] @ known[0] + moments[1] @ known[1])
    assert np.abs(known[0] - best).max() > 0.1
    np.testing.assert_allclose(found, best, atol=2e-3)


def test_batch_norms_are_compared_by_what_they_yield():
    """Channels that differ by what their batch norm undoes become one exactly."""
    x, first = images(64), network("norm")
    second, orders = permuted(first, 1, noise=1e-5)
    rng = np.random.default_rng(0)
    for layer, norm in zip(second.layers, second.layers[1:], strict=False):
        if isinstance(norm, layers.BatchNormalization):
            gamma, beta, mean, variance = norm.get_weights()
            factor = rng.uniform(0.2, 5.0, len(mean)) * rng.choice([-1, 1], len(mean))
            layer.set_weights([layer.get_weights()[0] * factor])
            spread = (variance + norm.epsilon) * factor**2 - norm.epsilon
            norm.set_weights([gamma * np.sign(factor), beta, mean * factor, spread])
    models, wanted = {"a": first, "b": second}, outputs_of(first, x)
    np.testing.assert_allclose(outputs_of(second, x), wanted, atol=1e-3)
    compensation = tfmot_pam.Compensation(ridge=1e-9)
    model = merged(models, x, method(orders), compensation=compensation)
    for found in all_outputs(model, x).values():
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_what_is_not_fused_is_as_before():
    x = images(32)
    models = {"a": network("norm"), "b": network("norm", 1)}

    def alone(request):
        return {
            index: tfmot_pam.SpaceDecision(
                np.repeat([1, 2], request.alignment.spaces[index].widths),
                np.arange(sum(request.alignment.spaces[index].widths)),
            )
            for index in free_spaces(request.alignment)
        }

    apart = merged(models, x, "separate")
    found = merged(models, x, tfmot_pam.MergeMethod("alone", alone, own_width=True))
    for one, other in zip(apart.get_weights(), found.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_channels_of_other_tensors_stay_apart():
    """What is concatenated before it is added is at other places than its second half."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    parts = [layers.Conv2D(3, 3, padding="same", name=f"part{i}")(image) for i in range(2)]
    h = layers.Add()(
        [layers.Concatenate()(parts), layers.Conv2D(6, 3, padding="same", name="whole")(image)]
    )
    h = layers.Conv2D(4, 3, name="last")(h)
    first = keras.Model(image, layers.Dense(2)(layers.Flatten()(h)))
    second, _ = permuted(first, 1, noise=0.3)

    def together(request):
        return {
            index: tfmot_pam.SpaceDecision(np.full(sum(widths), 3), np.zeros(sum(widths), int))
            for index in free_spaces(request.alignment)
            for widths in [request.alignment.spaces[index].widths]
        }

    x = images(16)
    model = merged({"a": first, "b": second}, x, tfmot_pam.MergeMethod("all", together))
    by_name = {layer.name: layer.output.shape[-1] for layer in model.layers}
    assert [by_name[name] for name in ("part0_shared", "part1_shared", "whole_shared")] == [1, 1, 2]
    assert by_name["last_shared"] == 1


def test_own_width_lets_channels_that_become_one_in_together():
    models = {"a": dense_net(0, widths=(6,)), "b": dense_net(1, widths=(6,))}

    def triples(request):
        (index,) = free_spaces(request.alignment)
        classes = np.repeat(np.arange(4), 3)
        return {index: tfmot_pam.SpaceDecision(np.full(12, 3), classes)}

    model = merged(models, vectors(64), tfmot_pam.MergeMethod("triples", triples))
    assert model.get_layer("fc0_shared").output.shape[-1] == 4


def test_a_combination_reads_what_it_did_in_the_whole():
    x, first = images(16), network("residual")
    second, orders = permuted(first, 1, noise=0.5)
    model = merged({"a": first, "b": second}, x, method(orders))
    full = all_outputs(model, x)
    for task in "ab":
        part = tfmot_pam.select_tasks(model, [task])
        np.testing.assert_allclose(all_outputs(part, x)[task], full[task], atol=1e-6)
    assert {"a", "b"} == set().union(*(own.tasks or () for own in read(model).layers.values()))


def test_channels_of_a_merged_network_become_one():
    """The mechanism does not need several networks: of two channels the mean is fitted."""
    models, x = {"a": dense_net(0, widths=(6, 5)), "b": dense_net(1, widths=(6, 5))}, vectors(64)
    network = read(tfmot_pam.merge(models, x, method="shared", verbose=0))
    graph = build_channel_graph(network)
    alignment = alone(("a", "b"), graph)
    masks = np.zeros(len(graph.space_of), int)
    for tensor, labels in graph.labels.items():
        masks[labels] |= tasks_of_nodes(network)[tensor.node]
    numbers = np.arange(len(masks))
    channels = {space.name: space.channels for space in graph.spaces}
    for space, first, second in (("fc0_shared", 0, 3), ("fc1_shared", 1, 2)):
        numbers[channels[space][second]] = channels[space][first]
    assembly = assemble_anew(alignment, Grouping((masks,), (numbers,)))
    widths = {name: own.config.get("units") for name, own in assembly.network.layers.items()}
    assert (widths["fc0_shared"], widths["fc1_shared"]) == (5, 4)
    fitted = compensate(assembly.network, assembly.origins, [network], x, Compensation())
    kernel = network.layers["fc0_shared"].weights["kernel"]
    found = fitted.layers["fc0_shared"].weights["kernel"]
    np.testing.assert_allclose(found[:, 0], (kernel[:, 0] + kernel[:, 3]) / 2, atol=1e-5)
    np.testing.assert_allclose(found[:, 1:], kernel[:, [1, 2, 4, 5]], atol=1e-5)
    before = network.layers["fc1_shared"].weights["kernel"]
    cut = assembly.network.layers["fc1_shared"].weights["kernel"]
    np.testing.assert_allclose(cut[0, [0, 2]], before[0, [0, 3]] + before[3, [0, 3]], atol=1e-6)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "factors", "message"),
    [
        (np.zeros(3, int), None, "the classes"),
        (np.zeros(10), None, "the classes"),
        (np.zeros(10, int), np.ones(4), "the factors"),
        (np.zeros(10, int), np.full(10, np.nan), "not finite"),
    ],
)
def test_decisions_of_another_form_are_refused(classes, factors, message):
    def decide(request):
        (index,) = free_spaces(request.alignment)
        return {index: tfmot_pam.SpaceDecision(np.full(10, 3), classes, factors)}

    models = {"a": dense_net(0, widths=(5,)), "b": dense_net(1, widths=(5,))}
    with pytest.raises(ValueError, match=f"'wrong' returned {message}|returned .*{message}"):
        merged(models, vectors(16), tfmot_pam.MergeMethod("wrong", decide))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fused": ({"a": (0,), "c": (1,)},)}, "unknown tasks"),
        ({"fused": ({"a": (9,), "b": (1,)},)}, "does not have"),
        ({"fused": ({"a": (0,), "b": (1,)}, {"a": (0,)})}, "twice"),
        ({"factors": {"a": (1.0,)}}, "the factors"),
    ],
)
def test_plans_with_impossible_fusions_are_refused(change, message):
    models = {"a": dense_net(0, widths=(5,)), "b": dense_net(1, widths=(5,))}
    x = vectors(16)
    plan = merged(models, x, method({"fc0": np.arange(5)})).merge_plan
    wrong = dataclasses.replace(
        plan, spaces=(dataclasses.replace(plan.spaces[0], **change), *plan.spaces[1:])
    )
    with pytest.raises(ValueError, match=message):
        tfmot_pam.MergePlan.from_json(wrong.to_json())
    with pytest.raises(ValueError, match=message):
        tfmot_pam.merge(models, x, plan=wrong, verbose=0)


def test_a_plan_that_fuses_two_groups_is_refused():
    models = {"a": dense_net(0, widths=(5,)), "b": dense_net(1, widths=(5,))}
    plan = merged(models, vectors(16), "separate").merge_plan
    space = dataclasses.replace(plan.spaces[0], fused=({"a": (0,), "b": (1,)},))
    wrong = dataclasses.replace(plan, spaces=(space, *plan.spaces[1:]))
    with pytest.raises(ValueError, match="several groups"):
        tfmot_pam.MergePlan.from_json(wrong.to_json())
