"""What TFMOT's guides and API pages show, done by TFMOT's own functions on merged models.

Nothing of `tfmot_pam` stands between the models and TFMOT here. What does not work is shown to fail
in the same way on a model of TFMOT's own documents, one path of tf_keras layers.
"""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.tfmot_bridge_models import (
    CLASSES,
    LABELS,
    LOSS,
    SPEECH,
    X,
    kernels,
    make_model,
    stored_kernels,
    xnnpack_model,
    zeros,
)
from tests.tfmot_models import (
    BOTH,
    HALF,
    PATCHES,
    check_file,
    convert,
    evaluate,
    fit,
    fit_pruned,
    fresh,
    labels,
    plain,
    wrap,
    zipped,
)
from tests.tiers import regular
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

tfmot = import_tfmot()
sparsity, clustering = tfmot.sparsity.keras, tfmot.clustering.keras
quantization = tfmot.quantization.keras
layers = tf_keras.layers


# --- pruning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", regular(("merged", "crossed")))
def test_pruning_a_whole_model(kind, tmp_path):
    before = zipped(fresh(kind), tmp_path)
    model = fit_pruned(sparsity.prune_low_magnitude(fresh(kind), HALF))
    stripped = sparsity.strip_pruning(model)
    assert [layer.name for layer in stripped.layers] == [layer.name for layer in fresh(kind).layers]
    for kernel in kernels(stripped).values():
        assert abs(zeros(kernel) - 0.5) <= 1 / kernel.size
    assert zipped(stripped, tmp_path) < zipped(model, tmp_path)
    assert zipped(stripped, tmp_path) < 0.75 * before


@BOTH
@pytest.mark.slow
def test_the_default_schedule_prunes_at_step_100(kind):
    for model in (plain(), fresh(kind)):
        few = sparsity.strip_pruning(fit_pruned(sparsity.prune_low_magnitude(model)))
        assert max(zeros(kernel) for kernel in kernels(few).values()) < 0.1
    many = fit_pruned(sparsity.prune_low_magnitude(fresh(kind)), batch_size=4, epochs=3)
    for kernel in kernels(sparsity.strip_pruning(many)).values():
        assert abs(zeros(kernel) - 0.5) <= 1 / kernel.size


@BOTH
def test_pruning_some_layers(kind):
    model = wrap(
        fresh(kind),
        lambda layer: sparsity.prune_low_magnitude(layer, HALF),
        lambda layer: layer.name in ("digit", "fc2_shared"),
    )
    shares = {n: zeros(k) for n, k in kernels(sparsity.strip_pruning(fit_pruned(model))).items()}
    assert {n for n, share in shares.items() if share > 0.4} == {"digit", "fc2_shared"}


class LaterLayers(sparsity.PruningPolicy):
    """A policy of one's own."""

    def allow_pruning(self, layer):
        return layer.name.startswith("fc2")

    def ensure_model_supports_pruning(self, model):
        assert isinstance(model.output, dict)


@BOTH
@pytest.mark.slow
def test_pruning_by_a_policy_of_ones_own(kind):
    policy = LaterLayers()
    model = sparsity.prune_low_magnitude(fresh(kind), HALF, pruning_policy=policy)
    for name, kernel in kernels(sparsity.strip_pruning(fit_pruned(model))).items():
        assert (zeros(kernel) > 0.4) == policy.allow_pruning(tf_keras.layers.Layer(name=name))


@BOTH
@pytest.mark.slow
def test_pruning_a_new_layer_of_a_functional_model(kind):
    base = fresh(kind)
    new = sparsity.prune_low_magnitude(layers.Dense(4, activation="softmax"), HALF)
    trunk = base.get_layer("fc2_shared").output
    model = fit_pruned(tf_keras.Model(base.input, {**base.output, "loud": new(trunk)}))
    assert zeros(new.layer.get_weights()[0]) == 0.5
    assert set(sparsity.strip_pruning(model).output) == {"digit", "speaker", "loud"}


class PrunedBias(layers.Dense, sparsity.PrunableLayer):
    """The guide's own example."""

    def get_prunable_weights(self):
        return [self.kernel, self.bias]


@BOTH
@pytest.mark.slow
def test_choosing_the_weights_to_prune(kind):
    base = fresh(kind)

    def replace(layer):
        layer = PrunedBias.from_config(layer.get_config())
        return sparsity.prune_low_magnitude(layer, HALF)

    model = fit_pruned(wrap(base, replace, lambda layer: layer.name == "digit"))
    bias = sparsity.strip_pruning(model).get_layer("digit").get_weights()[1]
    assert zeros(bias) == 0.5


@BOTH
@pytest.mark.slow
def test_a_training_loop_of_ones_own(kind):
    model = sparsity.prune_low_magnitude(fresh(kind), HALF)
    optimizer = model.optimizer = tf_keras.optimizers.Adam()
    loss = tf_keras.losses.SparseCategoricalCrossentropy()
    callback = sparsity.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    for _ in range(3):
        callback.on_train_batch_begin(batch=-1)
        with tf.GradientTape() as tape:
            outputs = model(PATCHES, training=True)
            value = sum(loss(LABELS[task], outputs[task]) for task in outputs)
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        callback.on_epoch_end(batch=-1)
    for kernel in kernels(sparsity.strip_pruning(model)).values():
        assert abs(zeros(kernel) - 0.5) <= 1 / kernel.size


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="it is installed")
@pytest.mark.parametrize("make", [plain, functools.partial(fresh, "merged")])
def test_summaries_need_tensorboard(make, tmp_path):
    summaries = sparsity.PruningSummaries(log_dir=str(tmp_path))
    with pytest.raises(Exception, match="TensorBoard is not installed"):
        fit(sparsity.prune_low_magnitude(make()), [sparsity.UpdatePruningStep(), summaries])


@BOTH
@pytest.mark.slow
def test_blocks(kind):
    """The guide's blocks of 1 x 16; TFMOT cannot train kernels that are a single block wide."""
    with pytest.raises(ValueError, match=r"rank|shape|dimension"):
        fit_pruned(sparsity.prune_low_magnitude(plain(), block_size=[1, 16]))
    model = wrap(
        fresh(kind),
        lambda layer: sparsity.prune_low_magnitude(layer, HALF, block_size=[1, 16]),
        lambda layer: layer.name == "fc1_shared",
    )
    assert model.get_layer("prune_low_magnitude_fc1_shared").layer.units > 16
    kernel = kernels(sparsity.strip_pruning(fit_pruned(model)))["fc1_shared"]
    whole = kernel[:, : kernel.shape[1] // 16 * 16].reshape(-1, 16) == 0
    assert (whole.any(axis=1) == whole.all(axis=1)).all()
    assert abs(zeros(kernel) - 0.5) < 0.1


@BOTH
@pytest.mark.slow
def test_two_of_four(kind):
    """The guide's model: the layers with enough inputs by pattern, the first one without."""

    def prune(layer):
        if layer.name.startswith("conv1"):
            return sparsity.prune_low_magnitude(layer, HALF)
        return sparsity.prune_low_magnitude(layer, HALF, sparsity_m_by_n=(2, 4))

    chosen = [name for name in kernels(fresh(kind, make_model)) if name != "speaker"]
    model = wrap(fresh(kind, make_model), prune, lambda layer: layer.name in chosen)
    stripped = sparsity.strip_pruning(fit_pruned(model, X))
    content = convert(stripped)
    check_file(content, stripped, X, 1e-5)
    treated = [k for k in stored_kernels(content) if zeros(k) > 0.3 and k.shape[-1] >= 4]
    assert len(treated) == sum(not name.startswith("conv1") for name in chosen)
    for kernel in treated:
        rows = kernel[..., : kernel.shape[-1] // 4 * 4].reshape(-1, 4)
        assert ((rows == 0).sum(axis=1) >= 2).all()


@BOTH
@pytest.mark.slow
def test_pruning_for_inference_on_devices(kind):
    decay = sparsity.PolynomialDecay(0.25, 0.75, begin_step=0, end_step=5, frequency=1)
    policy = sparsity.PruneForLatencyOnXNNPack()
    base = fresh(kind, xnnpack_model)
    dense = len(convert(base, tf.lite.Optimize.EXPERIMENTAL_SPARSITY))
    model = sparsity.prune_low_magnitude(base, pruning_schedule=decay, pruning_policy=policy)
    stripped = sparsity.strip_pruning(fit_pruned(model, SPEECH))
    content = convert(stripped, tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    assert len(content) < dense
    check_file(content, stripped, SPEECH, 1e-5)
    pointwise = [kernel for kernel in stored_kernels(content) if kernel.shape[1:3] == (1, 1)]
    assert [zeros(kernel) for kernel in pointwise] == [0.75, 0.75]


# --- files ------------------------------------------------------------------------------------

TREATED = {
    "pruned": (lambda model: sparsity.prune_low_magnitude(model, HALF), sparsity.prune_scope),
    "clustered": (lambda model: clustering.cluster_weights(model, 8), clustering.cluster_scope),
    "quantised": (quantization.quantize_model, quantization.quantize_scope),
}


@BOTH
@pytest.mark.slow
@pytest.mark.parametrize("form", ["h5", "keras", "tf"])
@pytest.mark.parametrize("treatment", TREATED)
def test_saving_and_loading(treatment, form, kind, tmp_path):
    treat, scope = TREATED[treatment]
    path = tmp_path / (f"model.{form}" if form != "tf" else "model")

    def save_and_load(model):
        model.save(path)
        with scope():
            return tf_keras.models.load_model(path)

    model = treat(fresh(kind))
    fit(model, [sparsity.UpdatePruningStep()] if treatment == "pruned" else [])
    if (treatment, form) == ("quantised", "keras"):
        for saved in (model, fit(treat(plain()))):
            with pytest.raises(ValueError, match="expected 5 variables, but received 3"):
                save_and_load(saved)
        return
    loaded = save_and_load(model)
    assert evaluate(loaded) == evaluate(model)
    if treatment == "pruned":
        loaded.fit(PATCHES, labels(model), verbose=0, callbacks=[sparsity.UpdatePruningStep()])
        assert abs(zeros(kernels(sparsity.strip_pruning(loaded))["digit"]) - 0.5) < 0.01


def renamed():
    """A model without TFMOT whose last layers have other names than its outputs."""
    x = tf_keras.Input((64,))
    heads = {
        task: layers.Dense(CLASSES[task], name=f"my_{task}")(x) for task in ("digit", "speaker")
    }
    return tf_keras.Model(x, heads)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["h5", "keras", "tf"])
@pytest.mark.parametrize(
    "make", [renamed, lambda: sparsity.prune_low_magnitude(fresh("merged"), HALF)]
)
def test_metrics_by_task_need_the_keras_format(make, form, tmp_path):
    """TFMOT renames the last layers; a dict of metrics then comes back from `.keras` alone."""
    model = make()
    names = model.output
    model.compile("adam", {n: LOSS for n in names}, metrics={n: "accuracy" for n in names})
    model.fit(PATCHES, labels(model), verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    path = tmp_path / (f"model.{form}" if form != "tf" else "model")
    model.save(path)
    with sparsity.prune_scope():
        loaded = tf_keras.models.load_model(path)
    if form == "keras":
        assert evaluate(loaded) == evaluate(model)
    else:
        with pytest.raises(TypeError, match="don't have the same sequence type"):
            evaluate(loaded)


# --- clustering -------------------------------------------------------------------------------


@BOTH
def test_clustering_a_whole_model(kind, tmp_path):
    before = zipped(fresh(kind), tmp_path)
    start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    model = fit(clustering.cluster_weights(fresh(kind), 3, cluster_centroids_init=start))
    stripped = clustering.strip_clustering(model)
    assert max(len(np.unique(kernel)) for kernel in kernels(stripped).values()) <= 3
    assert zipped(stripped, tmp_path) < min(before, zipped(model, tmp_path)) / 2


@BOTH
@pytest.mark.slow
@pytest.mark.parametrize("start", clustering.CentroidInitialization)
def test_clustering_some_layers(start, kind):
    model = wrap(
        fresh(kind),
        lambda layer: clustering.cluster_weights(layer, 4, cluster_centroids_init=start),
        lambda layer: layer.name in ("digit", "fc2_shared"),
    )
    found = kernels(clustering.strip_clustering(fit(model)))
    values = {name: len(np.unique(kernel)) for name, kernel in found.items()}
    assert {name for name, count in values.items() if count <= 4} == {"digit", "fc2_shared"}


class ClusteredBias(layers.Dense, clustering.ClusterableLayer):
    """The guide's own example."""

    def get_clusterable_weights(self):
        return [("kernel", self.kernel), ("bias", self.bias)]


@BOTH
@pytest.mark.slow
def test_choosing_the_weights_to_cluster(kind):
    base = fresh(kind)

    def replace(layer):
        return clustering.cluster_weights(ClusteredBias.from_config(layer.get_config()), 3)

    model = fit(wrap(base, replace, lambda layer: layer.name == "digit"))
    kernel, bias = clustering.strip_clustering(model).get_layer("digit").get_weights()
    assert max(len(np.unique(kernel)), len(np.unique(bias))) <= 3
