"""What must hold for every merged network, on random graphs."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfmot_pam
from tests import random_models
from tfmot_pam.closed_form.compensate import Compensation, compensate
from tfmot_pam.graph.cost import Totals, combination_totals, network_cost
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.network import Network
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import all_combinations, select
from tfmot_pam.merging.alignment import Alignment, align
from tfmot_pam.merging.assemble import assemble
from tfmot_pam.merging.building import IrregularLayout
from tfmot_pam.merging.grouping import Grouping, everything, fixed_masks, free_spaces
from tfmot_pam.merging.methods import Request, Threshold
from tfmot_pam.merging.regroup import regroup
from tfmot_pam.merging.relevance import RelevancePath

ROOT = pathlib.Path(__file__).resolve().parents[1]
SEEDS = st.integers(0, 1_000_000)


# --- helpers ----------------------------------------------------------------------------------


def aligned(models) -> Alignment:
    return align(list(models), [read(model) for model in models.values()])


def outputs_of(model, x) -> dict[str, np.ndarray]:
    return {k: keras.ops.convert_to_numpy(v) for k, v in model(x, training=False).items()}


def assert_close(found, expected, tolerance, what=""):
    expected = keras.ops.convert_to_numpy(expected)
    error = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    assert error <= tolerance, f"{what}: error {error}"


def assert_reproduces(merged, models, x, tolerance=1e-5):
    """Every output of `merged` is that of the single model of its task."""
    found = outputs_of(merged, x)
    assert list(found) == list(models)
    for task, model in models.items():
        assert_close(found[task], model(x, training=False), tolerance, task)


def random_masks(alignment: Alignment, seed: int, must_own: bool) -> Grouping:
    """Random task sets in the free spaces; with `must_own` each holds its own network's task."""
    rng = np.random.default_rng(seed)
    masks = [mask.copy() for mask in fixed_masks(alignment).masks]
    for index in free_spaces(alignment):
        for k, channels in enumerate(alignment.spaces[index].channels):
            drawn = rng.integers(0, everything(len(alignment.tasks)) + 1, size=len(channels))
            masks[k][channels] = drawn | (1 << k) if must_own else drawn
    return Grouping(tuple(masks))


def nothing_is_cut(alignment: Alignment, grouping: Grouping) -> Grouping:
    """Takes tasks away until every channel may read all of its own network's inputs."""
    masks = [mask.copy() for mask in grouping.masks]
    for k, graph in enumerate(alignment.graphs):
        nodes = [n for n in graph.network.nodes if graph.roles[n.name] == "mixing"]
        before = None
        while before is None or not np.array_equal(before, masks[k]):
            before = masks[k].copy()
            for node in nodes:
                rows = graph.labels[node.inputs[0]]
                columns = graph.labels[node.outputs[0]]
                masks[k][columns] &= np.bitwise_and.reduce(masks[k][rows])
    return Grouping(tuple(masks))


def freeze_at(alignment: Alignment, error: IrregularLayout) -> Alignment:
    labels = alignment.graphs[error.index].labels
    touched = {
        int(label)
        for tensor, found in labels.items()
        if tensor.node == error.node
        for label in found
    }
    spaces = tuple(
        dataclasses.replace(space, frozen="irregular")
        if not (space.given or space.frozen) and touched & set(space.channels[error.index].tolist())
        else space
        for space in alignment.spaces
    )
    if spaces == alignment.spaces:
        raise error
    return dataclasses.replace(alignment, spaces=spaces)


def assembled(alignment: Alignment, decide) -> Network:
    """Assembles what `decide(alignment)` says; spaces without one order are frozen."""
    while True:
        try:
            return assemble(alignment, decide(alignment)).network
        except IrregularLayout as error:
            alignment = freeze_at(alignment, error)


def runnable(models, x, **options):
    """A merge by the public name; what it computes on 32 inputs is finite."""
    rng = np.random.default_rng(1)
    data = rng.normal(size=(32, *x.shape[1:])).astype("float32")
    labels = {task: rng.permutation(np.arange(32) % 3) for task in models}
    merged = tfmot_pam.merge(models, (data, labels), samples=32, min_group=1, verbose=0, **options)
    assert all(np.isfinite(value).all() for value in outputs_of(merged, x).values())
    return merged


def assert_superset_rule(network: Network):
    """Every layer reads only layers that all of its own tasks need."""
    edges = 0
    for node in network.nodes:
        tasks = network.layer_of(node).tasks
        for tensor in node.inputs:
            below = network.layers[network.node(tensor.node).layer].tasks
            if tasks is not None and below is not None:
                edges += 1
                assert set(below) >= set(tasks), (node.name, tasks, tensor.node, below)
    assert edges


def assert_combinations(network: Network, x):
    """Sub-networks compute what the whole computes, hold nothing that only others need, and cost
    what the whole network says that they do."""
    full, totals = outputs_of(emit(network), x), combination_totals(network)
    chosen = all_combinations(list(full))
    if len(chosen) > 7:
        # Of many tasks: each alone, and two of the larger combinations.
        chosen = [*chosen[: len(full)], *chosen[-3:-1]]
    for tasks in chosen:
        part = select(network, tasks)
        for layer in part.layers.values():
            assert layer.tasks is None or set(layer.tasks) & set(tasks), (tasks, layer.name)
        cost = network_cost(part)
        assert totals[tasks] == Totals(cost.macs, cost.flops, cost.parameters), tasks
        found = outputs_of(emit(part), x)
        assert list(found) == list(tasks)
        for task in tasks:
            assert_close(found[task], full[task], 1e-6, task)


def size(network: Network) -> int:
    return sum(w.size for layer in network.layers.values() for w in layer.weights.values())


def share_all(alignment: Alignment) -> Grouping:
    """Everything for all tasks, as far as frozen spaces below leave it readable."""
    grouping = fixed_masks(alignment)
    for index in free_spaces(alignment):
        for k, channels in enumerate(alignment.spaces[index].channels):
            grouping = grouping.replace(k, channels, everything(len(alignment.tasks)))
    return nothing_is_cut(alignment, grouping)


def guarded(alignment: Alignment, seed: int) -> Grouping:
    """What `regroup` makes of random relevance: random task sets, dropped channels included."""
    rng = np.random.default_rng(seed)
    paths = {}
    for index in free_spaces(alignment):
        width = sum(alignment.spaces[index].widths)
        for task in range(len(alignment.tasks)):
            order = rng.permutation(width)
            paths[index, task] = RelevancePath(order, np.linspace(0.0, 1.0, width), 1.0, 0.0)
    threshold = Threshold(rho=rng.uniform(0.2, 0.9))
    return regroup(Request(alignment, paths, threshold, seed), "pam", int(rng.integers(1, 4)))


# --- every channel exclusive ------------------------------------------------------------------


@settings(max_examples=2)
@given(SEEDS)
def test_exclusive_channels_reproduce_the_single_models(seed):
    family = random_models.family(seed)
    alignment = aligned(family.models)
    for k in range(len(family.models)):
        assert all(name.startswith("head") for name in alignment.head(k)), alignment.head(k)
    network = assembled(alignment, fixed_masks)
    assert_reproduces(emit(network), family.models, family.x)
    for task, single in zip(family.models, alignment.networks, strict=True):
        part = select(network, [task])
        assert size(part) == size(single), task
        assert network_cost(part).macs == network_cost(single).macs, task


# --- every channel readable -------------------------------------------------------------------


@settings(max_examples=2)
@given(SEEDS)
def test_shared_channels_reproduce_the_single_models(seed):
    """Cross edges are zero, so nothing changes as long as nothing is cut."""
    family = random_models.family(seed)
    network = assembled(aligned(family.models), share_all)
    assert_superset_rule(network)
    assert_reproduces(emit(network), family.models, family.x)


@settings(max_examples=2)
@given(SEEDS)
def test_readable_channels_reproduce_the_single_models(seed):
    """Any task sets, as long as every channel reads all of its own network's inputs."""
    family = random_models.family(seed)

    def decide(alignment):
        return nothing_is_cut(alignment, random_masks(alignment, seed, must_own=True))

    network = assembled(aligned(family.models), decide)
    assert_superset_rule(network)
    assert_reproduces(emit(network), family.models, family.x)
    assert_combinations(network, family.x)


def _input_beside_features(x, width):
    h = layers.Concatenate()([x, layers.Conv2D(width, 3, padding="same")(x)])
    return layers.BatchNormalization()(h)


def _flat_input_beside_features(x, width):
    h = layers.Concatenate()([x, layers.Conv2D(width, 3, padding="same")(x)])
    return layers.Conv1D(2, 1)(layers.Reshape((1, -1))(layers.Flatten()(h)))


def _gate_over_a_concatenation(x, width):
    """The concatenation's order is not that in which its parts were written."""
    first = layers.Conv2D(width, 1)(x)
    both = layers.Concatenate()([layers.Conv2D(3, 1)(first), first])
    gate = layers.GlobalAveragePooling2D(keepdims=True)(both)
    return layers.Multiply()([both, layers.Conv2D(width + 3, 1, activation="sigmoid")(gate)])


def _blocks_across_a_concatenation(x, width):
    h = layers.Concatenate()([layers.Conv2D(3, 1)(x), layers.Conv2D(3, 1)(x)])
    return layers.Conv2D(6, 1, groups=3)(h)


def _constants(x, width):
    h = layers.Conv2D(width, 1)(x)
    return (h * (1.0 + width) - 0.5) if width > 3 else (0.5 - h * 2.0)


def _features_from_a_dense_layer(x, width):
    h = layers.Dense(4 * width)(layers.GlobalMaxPooling2D()(x))
    return layers.Conv2D(3, 2)(layers.Reshape((2, 2, width))(h))


def _softmax_below_a_sum(x, width):
    first = layers.Conv2D(width, 1, activation="softmax")(x)
    second = layers.Conv2D(width, 1)(first)
    return layers.Add()([layers.Concatenate()([second, first]), layers.Conv2D(2 * width, 1)(x)])


@pytest.mark.parametrize("decide", [fixed_masks, share_all])
@pytest.mark.parametrize(
    "body",
    [
        _input_beside_features,
        _gate_over_a_concatenation,
        _blocks_across_a_concatenation,
        _constants,
        _features_from_a_dense_layer,
        _softmax_below_a_sum,
        _flat_input_beside_features,
    ],
)
def test_structures_that_are_easy_to_get_wrong(body, decide):
    models = {}
    for seed, width in enumerate((3, 5, 4)):
        x = keras.Input((4, 4, 2))
        head = layers.Dense(2 + seed, name=f"head_{seed}")(layers.Flatten()(body(x, width)))
        models[f"t{seed}"] = random_models.randomise(keras.Model(x, head), seed)
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    assert_reproduces(emit(assembled(aligned(models), decide)), models, x)


# --- any grouping -----------------------------------------------------------------------------


@settings(max_examples=2)
@given(SEEDS)
def test_sub_networks_of_any_grouping_compute_what_the_whole_computes(seed):
    family = random_models.family(seed)
    network = assembled(aligned(family.models), functools.partial(guarded, seed=seed))
    assert_superset_rule(network)
    assert_combinations(network, family.x)


@settings(max_examples=2)
@given(SEEDS)
def test_merges_by_relevance_keep_the_rules(seed):
    """Capture, relevance, guards and compensation work on every graph."""
    family = random_models.family(seed, tasks=2 + seed % 2)
    method = ("pam", "pam-paper", "random")[seed % 3]
    merged = runnable(family.models, family.x, method=method, rho=0.1, seed=seed % 100)
    network = read(merged)
    assert_superset_rule(network)
    assert_combinations(network, family.x)


# --- compensation -----------------------------------------------------------------------------


@settings(max_examples=2)
@given(SEEDS)
def test_compensation_changes_nothing_where_nothing_is_cut(seed):
    family = random_models.family(seed, tasks=2)
    alignment = aligned(family.models)
    x = np.random.default_rng(1).normal(size=(16, *family.x.shape[1:])).astype("float32")
    for decide in (fixed_masks, share_all):
        try:
            assembly = assemble(alignment, decide(alignment))
        except IrregularLayout:
            continue
        fitted = compensate(
            assembly.network,
            assembly.origins,
            alignment.networks,
            x,
            Compensation(places=256),
        )
        for name, layer in assembly.network.layers.items():
            assert fitted.layers[name].config == layer.config
            for weight, value in layer.weights.items():
                np.testing.assert_array_equal(fitted.layers[name].weights[weight], value)


def test_separate_merge_by_the_public_name():
    family = random_models.family(3, tasks=3)
    merged = runnable(family.models, family.x, method="separate")
    assert_reproduces(merged, family.models, family.x)


# --- saving -----------------------------------------------------------------------------------

SCRIPT = """
import sys
import keras, numpy as np, tfmot_pam
for path in sys.argv[1:]:
    model = keras.models.load_model(path + ".keras")
    np.savez(path + "-out.npz", **model(np.load(path + ".npy"), training=False))
"""


def test_merged_models_load_in_a_fresh_process(tmp_path):
    expected = {}
    for seed, method in enumerate(("separate", "pam")):
        family = random_models.family(seed, unknown=False)
        merged = runnable(family.models, family.x, method=method)
        path = str(tmp_path / str(seed))
        merged.save(path + ".keras")
        np.save(path + ".npy", family.x)
        expected[path] = outputs_of(merged, family.x)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *expected], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for path, outputs in expected.items():
        with np.load(path + "-out.npz") as found:
            for task, value in outputs.items():
                np.testing.assert_allclose(found[task], value, atol=1e-6)
