"""What is the same in all networks, from the input on, is computed once."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import randomise

layers = keras.layers

X = np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype("float32")


def backbone(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = h = keras.Input((8, 8, 3))
    h = layers.Rescaling(2.0, name="scale")(h)
    h = layers.Conv2D(6, 3, padding="same", use_bias=False, name="c1")(h)
    h = s = layers.ReLU(name="r1")(layers.BatchNormalization(name="b1")(h))
    h = layers.Add(name="add2")([s, layers.Conv2D(6, 3, padding="same", name="c2")(h)])
    h = layers.Add(name="add3")([h, layers.Conv2D(6, 3, padding="same", name="c3")(h)])
    h = layers.Conv2D(8, 3, activation="relu", name="c4")(h)
    return randomise(keras.Model(x, h, name="backbone"), seed)


def on(base: keras.Model, classes: int, seed: int, hidden: int = 10) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = keras.Input(base.input_shape[1:], name="image")
    h = layers.GlobalAveragePooling2D(name="pool")(base(x))
    h = layers.Dense(hidden, activation="relu", name="hidden")(h)
    return keras.Model(x, layers.Dense(classes, name="out")(h))


def tuned(base: keras.Model, *names: str) -> keras.Model:
    """A copy of a backbone whose layers of these names were trained on."""
    copy = keras.models.clone_model(base)
    copy.set_weights(base.get_weights())
    for name in names:
        layer, rng = copy.get_layer(name), np.random.default_rng(1)
        layer.set_weights([w + 0.1 * rng.normal(size=w.shape) for w in layer.get_weights()])
    return copy


def merge(models, **options):
    return tfmot_pam.merge(models, X, verbose=0, **options)


def macs(model) -> dict[str, int]:
    return {" ".join(row.tasks): row.macs for row in tfmot_pam.report(model).rows}


def assert_computes_the_same(merged, models, x=X, tolerance=0.0):
    found = merged(x, training=False)
    for task, model in models.items():
        expected = np.array(model(x, training=False))
        assert np.abs(np.array(found[task]) - expected).max() <= tolerance


@pytest.mark.parametrize("method", ["pam", "pam-paper", "shared", "random"])
def test_one_backbone_is_computed_once(method):
    base = backbone()
    models = {"a": on(base, 3, 1), "b": on(base, 4, 2)}
    # Nothing is to share above it: what the pooled channels say is mixed by each task for itself.
    merged = merge(models, method=method, share=0.001 if method != "shared" else None)
    cost = macs(merged)
    once = tfmot_pam.cost(base).macs
    assert cost["a b"] - once < 2 * (8 * 10 + 10 * 4)
    convolutions = [layer.name for layer in merged.layers if layer.name.startswith("c")]
    assert sorted(name.split("_")[0] for name in convolutions)[:4] == ["c1", "c2", "c3", "c4"]
    assert sum(name.startswith("c1") for name in convolutions) == 1


def test_the_very_same_model_twice_is_one_network_with_two_heads_to_the_last_bit():
    base = backbone()
    model = on(base, 3, 1)
    models = {"a": model, "b": model}
    merged = merge(models)
    assert_computes_the_same(merged, models)
    cost = macs(merged)
    assert cost["a b"] == cost["a"] + 10 * 3


def test_heads_on_one_backbone_compute_what_they_computed_to_the_last_bit():
    base = backbone()
    models = {}
    for seed, (task, classes) in enumerate({"a": 3, "b": 4, "c": 2}.items()):
        keras.utils.set_random_seed(seed)
        x = keras.Input((8, 8, 3), name="image")
        h = layers.GlobalAveragePooling2D(name="pool")(base(x))
        models[task] = keras.Model(x, layers.Dense(classes, name="out")(h))
    merged = merge(models)
    assert_computes_the_same(merged, models)
    cost = macs(merged)
    assert cost["a b c"] == cost["a"] + 8 * 4 + 8 * 2


def test_separate_keeps_everything_apart():
    base = backbone()
    models = {"a": on(base, 3, 1), "b": on(base, 4, 2)}
    cost = macs(merge(models, method="separate"))
    assert cost["a b"] == cost["a"] + cost["b"]


@pytest.mark.parametrize("trained", [("c4",), ("c3", "c4"), ("b1",), ("c2",)])
def test_what_follows_the_common_layers_is_exact_too(trained):
    """Half-frozen backbones: in the middle of a residual stream, at a batch normalisation."""
    base = backbone()
    models = {"a": on(base, 3, 1), "b": on(tuned(base, *trained), 4, 2)}
    merged = merge(models, method=apart(), compensation=False)
    assert_computes_the_same(merged, models, tolerance=1e-5)
    once = [layer.name for layer in merged.layers if layer.name.startswith("c1")]
    assert once == ["c1_shared"]


def apart() -> tfmot_pam.MergeMethod:
    """Nothing shared but what is common."""

    def decide(request):
        tasks = 1 << np.arange(len(request.alignment.tasks))
        return {
            index: np.repeat(tasks, space.widths)
            for index, space in enumerate(request.alignment.spaces)
            if not space.given and space.frozen is None
        }

    return tfmot_pam.MergeMethod("apart", decide, own_width=True)


def test_layers_that_differ_in_what_only_training_sees_are_common():
    base, other = backbone(), tuned(backbone())
    for layer in other.layers:
        layer.trainable = False
    models = {"a": on(base, 3, 1), "b": on(other, 4, 2)}
    assert sum(layer.name.startswith("c4") for layer in merge(models).layers) == 1


def test_a_plan_with_common_layers_is_replayed():
    base = backbone()
    models = {"a": on(base, 3, 1), "b": on(tuned(base, "c4"), 4, 2)}
    merged = merge(models)
    plan = tfmot_pam.MergePlan.from_json(merged.merge_plan.to_json())
    again = merge(models, plan=plan)
    for task in models:
        np.testing.assert_array_equal(np.array(merged(X)[task]), np.array(again(X)[task]))


def test_a_merge_with_common_layers_trains_prunes_saves_and_exports(tmp_path):
    tflite_export = pytest.importorskip("tflite_export")
    base = backbone()
    models = {"a": on(base, 3, 1), "b": on(tuned(base, "c4"), 4, 2)}
    merged = merge(models)
    trained = tfmot_pam.fine_tune(merged, X, models, epochs=1, verbose=0)
    gated = tfmot_pam.prune_channels(trained, 0.5, "magnitude", measure="macs")
    pruned = tfmot_pam.strip_pruning(gated)
    assert macs(pruned)["a b"] < 0.7 * macs(merged)["a b"]
    path = tmp_path / "pruned.keras"
    pruned.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_allclose(np.array(again(X)["b"]), np.array(pruned(X)["b"]), atol=1e-5)
    tflite_export.export(pruned, tmp_path / "files", samples=X[:4], verbose=0)
    assert sorted(p.name for p in (tmp_path / "files").glob("*.tflite"))


@pytest.mark.slow
@pytest.mark.parametrize("trained_from", [100, None, 0])
def test_mobilenet_v2_frozen_whole_to_the_middle_and_fine_tuned(trained_from):
    """`trained_from`: the first layer that was trained, as in Keras' guide to fine-tuning."""
    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2((32, 32, 3), 0.35, include_top=False, weights=None)
    randomise(base, 0)
    found = [layer.name for layer in base.layers if layer.weights]
    later = [layer.name for layer in base.layers[trained_from or 0 :] if layer.weights]
    other = base if trained_from is None else tuned(base, *later)
    models = {"a": on(base, 3, 1), "b": on(other, 4, 2)}
    x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    merged = tfmot_pam.merge(models, x, method=apart(), compensation=False, verbose=0)
    scale = max(np.abs(np.array(model(x, training=False))).max() for model in models.values())
    assert_computes_the_same(merged, models, x, 0.0 if trained_from is None else 1e-5 * scale)
    once = [layer.name for layer in merged.layers if layer.name.endswith("_shared")]
    expected = [] if trained_from == 0 else found if trained_from is None else found[: -len(later)]
    assert sorted(name.removesuffix("_shared") for name in once) == sorted(expected)
