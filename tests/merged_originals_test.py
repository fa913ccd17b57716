"""Merged models as originals: their task sets are kept, and others are merged with them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import dense_net, randomise
from tests.tiers import regular
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.arguments import read_models
from tfmot_pam.merging.methods import MergeMethod
from tfmot_pam.merging.ungroup import without_groups
from tfmot_pam.merging.units import kept_apart

layers = keras.layers
X = np.random.default_rng(0).normal(size=(96, 10, 10, 2)).astype("float32")


def conv_net(seed, widths=(6, 8, 12), norm=False, residual=False, depthwise=False, classes=3):
    keras.utils.set_random_seed(seed)
    x = h = keras.Input((10, 10, 2), name="image")
    for place, width in enumerate(widths[:2]):
        h = layers.Conv2D(width, 3, padding="same", name=f"conv{place}", use_bias=not norm)(h)
        if norm:
            h = layers.BatchNormalization(name=f"norm{place}")(h)
        h = layers.ReLU(name=f"relu{place}")(h)
    if depthwise:
        h = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(h)
    if residual:
        y = layers.Conv2D(widths[1], 3, padding="same", activation="relu", name="inner")(h)
        h = layers.Add(name="add")([h, layers.Conv2D(widths[1], 1, name="outer")(y)])
    h = layers.MaxPooling2D(2, name="pool")(h)
    h = layers.Dense(widths[2], activation="relu", name="dense")(layers.Flatten(name="flat")(h))
    return randomise(keras.Model(x, layers.Dense(classes, name="head")(h)), seed)


KINDS = {
    "plain": {},
    "batch norm": {"norm": True},
    "residual": {"residual": True},
    "depthwise": {"depthwise": True, "norm": True},
}


@pytest.fixture(params=regular(("residual", "depthwise", "batch norm", "plain")), scope="module")
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def merged(kind):
    models = {"digit": conv_net(0, **kind), "speaker": conv_net(1, classes=4, **kind)}
    return tfmot_pam.merge(models, X, rho=0.1, verbose=0)


def apart(request):
    """Every network keeps its own channels."""
    spaces = [i for i, s in enumerate(request.alignment.spaces) if not s.given and s.frozen is None]
    return kept_apart(request.alignment, spaces)


NOTHING_SHARED = MergeMethod("apart", apart)


def outputs(model, x=X):
    return {task: np.array(value) for task, value in model(x, training=False).items()}


def task_sets(model):
    """The number of channels of each layer by task set."""
    return {
        (space.name, tasks): sum(map(len, channels.values()))
        for space in model.merge_plan.spaces
        for tasks, channels in space.groups
    }


def test_a_merged_models_networks_are_in_one_piece_again(merged, kind):
    """One layer for each of the original's, which computes the same."""
    for task, network in zip(
        ("digit", "speaker"), read_models({"digit": merged, "speaker": merged}), strict=True
    ):
        kinds = [layer.kind for layer in read(conv_net(0, **kind)).layers.values()]
        assert sorted(layer.kind for layer in network.layers.values()) == sorted(kinds)
        names = set(read(conv_net(0, **kind)).layers)
        assert set(network.layers) == names, task


def test_a_task_is_added_and_the_old_combinations_compute_what_they_did(merged, kind):
    """With nothing shared: to rounding. What was shared is shared still, and costs as much."""
    third = conv_net(2, (5, 7, 9), classes=5, **kind)
    models = {"digit": merged, "speaker": merged, "emotion": third}
    again = tfmot_pam.merge(models, X, method=NOTHING_SHARED, verbose=0)
    found, wanted = outputs(again), outputs(merged)
    for task, values in wanted.items():
        np.testing.assert_allclose(found[task], values, atol=2e-5)
    np.testing.assert_allclose(found["emotion"], np.array(third(X)), atol=2e-5)
    old = {row.tasks: row.macs for row in tfmot_pam.report(merged).rows}
    new = {row.tasks: row.macs for row in tfmot_pam.report(again).rows}
    for tasks, macs in old.items():
        assert new[tasks] == macs
    assert new["digit", "speaker", "emotion"] == old["digit", "speaker"] + new["emotion",]
    before, after = task_sets(merged), task_sets(again)
    for key in after.keys() & before.keys():
        assert after[key] == before[key]
    # Of groups that no layer reads, those of one task may be gone.
    assert all(len(tasks) == 1 for _, tasks in before.keys() - after.keys())


def test_its_task_sets_are_extended(merged, kind):
    """A channel that both old tasks need is needed by both, whatever the third is given of it."""
    third = conv_net(2, (5, 7, 9), classes=5, **kind)
    models = {"digit": merged, "speaker": merged, "emotion": third}
    again = tfmot_pam.merge(models, X, rho=0.1, min_group=1, width="union", verbose=0)
    before, after = task_sets(merged), task_sets(again)
    for (space, tasks), count in before.items():
        if len(tasks) == 2:
            both = sum(n for (s, t), n in after.items() if s == space and set(tasks) <= set(t))
            assert both >= count
    assert any("emotion" in tasks and len(tasks) > 1 for _, tasks in after)
    assert outputs(again)["emotion"].shape == (96, 5)
    wanted = outputs(merged)
    for task in wanted:
        assert np.corrcoef(outputs(again)[task].ravel(), wanted[task].ravel())[0, 1] > 0.9
    replayed = tfmot_pam.merge(
        models, X, plan=tfmot_pam.MergePlan.from_json(again.merge_plan.to_json()), verbose=0
    )
    for task, values in outputs(again).items():
        np.testing.assert_array_equal(outputs(replayed)[task], values)


def test_a_list_names_the_tasks_of_a_merged_model():
    merged = tfmot_pam.merge({"digit": conv_net(0), "speaker": conv_net(1)}, X, verbose=0)
    third = conv_net(2)
    again = tfmot_pam.merge([merged, third], X, method=NOTHING_SHARED, verbose=0)
    assert list(again.output) == ["digit", "speaker", "head"]
    np.testing.assert_allclose(outputs(again)["digit"], outputs(merged)["digit"], atol=2e-5)
    with pytest.raises(ValueError, match="Two models have a head named 'digit'"):
        tfmot_pam.merge([merged, merged], X, verbose=0)


def test_two_merged_models_merge(kind):
    singles = {t: conv_net(seed, classes=3 + seed, **kind) for seed, t in enumerate("abcd")}
    pairs = [
        tfmot_pam.merge({task: singles[task] for task in tasks}, X, rho=0.1, verbose=0)
        for tasks in ("ab", "cd")
    ]
    models = {"a": pairs[0], "b": pairs[0], "c": pairs[1], "d": pairs[1]}
    again = tfmot_pam.merge(models, X, method=NOTHING_SHARED, verbose=0)
    for pair in pairs:
        for task, values in outputs(pair).items():
            np.testing.assert_allclose(outputs(again)[task], values, atol=2e-5)
    costs = {row.tasks: row.macs for row in tfmot_pam.report(again).rows}
    for tasks, pair in zip((("a", "b"), ("c", "d")), pairs, strict=True):
        assert costs[tasks] == tfmot_pam.cost(pair).macs
    part = tfmot_pam.select_tasks(again, ["b", "c"])
    assert {task: value.shape for task, value in outputs(part).items()} == {
        "b": (96, 4),
        "c": (96, 5),
    }


def test_a_pruned_and_trained_model_is_merged_again(merged, kind):
    pruned = tfmot_pam.strip_pruning(
        tfmot_pam.prune_channels(merged, 0.4, "magnitude", measure="macs")
    )
    labels = {task: np.argmax(values, -1) for task, values in outputs(merged).items()}
    trained = tfmot_pam.fine_tune(pruned, (X, labels), epochs=1, verbose=0)
    models = {"digit": trained, "speaker": trained, "emotion": conv_net(2, **kind)}
    again = tfmot_pam.merge(models, X, method=NOTHING_SHARED, verbose=0)
    for task, values in outputs(trained).items():
        np.testing.assert_allclose(outputs(again)[task], values, atol=5e-5)
    found = {row.tasks: row.macs for row in tfmot_pam.report(again).rows}
    assert found["digit", "speaker"] == tfmot_pam.cost(trained).macs


def test_a_trunk_is_merged_again():
    """What is shared by all tasks of the one stays shared by them alone."""
    models = {"digit": conv_net(0), "speaker": conv_net(1, classes=4)}
    merged = tfmot_pam.merge(models, X, method="shared", verbose=0)
    models = {"digit": merged, "speaker": merged, "emotion": conv_net(2)}
    again = tfmot_pam.merge(models, X, method=NOTHING_SHARED, verbose=0)
    for task, values in outputs(merged).items():
        np.testing.assert_allclose(outputs(again)[task], values, atol=2e-5)
    assert {tasks for _, tasks in task_sets(again)} == {("digit", "speaker"), ("emotion",)}


def test_some_of_several_models_on_one_backbone():
    """Two of three have their first layers in common: those are computed once for the two."""
    models = {task: conv_net(seed, classes=3 + seed) for seed, task in enumerate("abc")}
    for place in range(2):
        weights = models["a"].get_layer(f"conv{place}").get_weights()
        models["b"].get_layer(f"conv{place}").set_weights(weights)
    again = tfmot_pam.merge(models, X, method=NOTHING_SHARED, verbose=0)
    for task, model in models.items():
        np.testing.assert_allclose(outputs(again)[task], np.array(model(X)), atol=2e-5)
    found = task_sets(again)
    assert found["conv0", ("a", "b")] == 6
    assert found["conv1", ("a", "b")] == 8
    assert found["dense", ("a",)] == found["dense", ("b",)] == 12
    separate = tfmot_pam.merge(models, X, method="separate", verbose=0)
    assert {tasks for _, tasks in task_sets(separate)} == {("a",), ("b",), ("c",)}


def test_functions_of_the_same_code_need_not_be_the_same():
    """Of users' functions only the very same one is: others may refer to other values."""

    def times(factor):
        return lambda x: factor * x

    models = {task: dense_net(0, outputs=3, name=task) for task in "abc"}
    for task, factor in zip("abc", (1.0, 2.0, 3.0), strict=True):
        x = keras.Input((6,), name="vector")
        h = layers.Dense(5, activation=times(factor), name="fc")(x)
        models[task] = keras.Model(x, layers.Dense(3, name=task)(h))
        models[task].set_weights(models["a"].get_weights())
    x = X[:, 0, :3].reshape(96, 6)
    again = tfmot_pam.merge(models, x, method=NOTHING_SHARED, verbose=0)
    for task, model in models.items():
        np.testing.assert_allclose(outputs(again, x)[task], np.array(model(x)), atol=2e-5)


def test_layers_that_are_taken_whole_are_kept_for_their_tasks():
    """A transformer that serves two tasks, and another one beside."""

    def net(seed, classes):
        keras.utils.set_random_seed(seed)
        x = keras.Input((10, 10, 2), name="image")
        h = layers.Conv2D(8, 5, strides=5, name="patches")(x)
        h = layers.Reshape((4, 8), name="tokens")(h)
        y = layers.LayerNormalization(name="norm")(h)
        h = layers.Add(name="add")([h, layers.MultiHeadAttention(2, 4, name="attention")(y, y)])
        h = layers.Dense(12, activation="gelu", name="up")(h)
        h = layers.GlobalAveragePooling1D(name="pool")(h)
        return randomise(keras.Model(x, layers.Dense(classes, name="head")(h)), seed)

    pair = {"digit": net(0, 3), "speaker": net(1, 4)}
    merged = tfmot_pam.merge(pair, X, method="shared", verbose=0)
    third = net(2, 5)
    models = {"digit": merged, "speaker": merged, "emotion": third}
    again = tfmot_pam.merge(models, X, method=NOTHING_SHARED, verbose=0)
    for task, values in [*outputs(merged).items(), ("emotion", np.array(third(X)))]:
        np.testing.assert_allclose(outputs(again)[task], values, atol=2e-5)
    costs = {row.tasks: row.macs for row in tfmot_pam.report(again).rows}
    assert costs["digit", "speaker"] == tfmot_pam.cost(merged).macs
    plan = tfmot_pam.MergePlan.from_json(again.merge_plan.to_json())
    replayed = tfmot_pam.merge(models, X, plan=plan, verbose=0)
    np.testing.assert_array_equal(outputs(replayed)["speaker"], outputs(again)["speaker"])


def test_channels_that_are_the_same_within_a_network_stay_apart():
    """Only channels of different networks become one."""
    models = {task: dense_net(0, outputs=3, name=task) for task in "ab"}
    for model in models.values():
        kernel, bias = model.get_layer("fc0").get_weights()
        kernel[:, 1], bias[1] = kernel[:, 0], bias[0]
        model.get_layer("fc0").set_weights([kernel, bias])
    models["c"] = dense_net(1, name="c")
    x = X[:, 0, :3].reshape(96, 6)
    again = tfmot_pam.merge(models, x, method=NOTHING_SHARED, verbose=0)
    for task, model in models.items():
        np.testing.assert_allclose(outputs(again, x)[task], np.array(model(x)), atol=2e-5)
    assert task_sets(again)["fc0", ("a", "b")] == 6


def test_groups_that_were_written_by_hand_are_no_merge():
    """Layers with other names stay as they are."""
    x = keras.Input((6,), name="vector")
    first = tfmot_pam.TaskGroup(layers.Dense(4, name="left"), ("a", "b"))(x)
    other = tfmot_pam.TaskGroup(layers.Dense(3, name="right"), ("a",))(x)
    out = layers.Dense(2, name="out")(layers.Concatenate()([first, other]))
    network = read(keras.Model(x, out))
    assert without_groups(network).layers.keys() == network.layers.keys()
