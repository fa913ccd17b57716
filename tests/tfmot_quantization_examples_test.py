"""What TFMOT shows of quantisation, done by its own functions on merged models.

Alone, and after pruning and clustering: its "collaborative optimization".
"""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.tfmot_bridge_models import X, kernels, make_model, most_values, stored_kernels, zeros
from tests.tfmot_models import (
    BOTH,
    HALF,
    PATCHES,
    check_file,
    conv_model,
    convert,
    dense_model,
    fit,
    fit_pruned,
    fresh,
    wrap,
)
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

tfmot = import_tfmot()
sparsity, clustering = tfmot.sparsity.keras, tfmot.clustering.keras
quantization = tfmot.quantization.keras
layers = tf_keras.layers
INT8 = tf.lite.Optimize.DEFAULT


def wrapped_kernel(model, name) -> np.ndarray:
    """The kernel that a quantised layer computes with."""
    layer = model.get_layer(f"quant_{name}")
    layer(np.zeros((1, *layer.input_shape[1:]), "float32"), training=False)
    return np.array(layer.layer.kernel)


@BOTH
def test_quantising_some_layers(kind):
    """Dense layers alone are annotated; their outputs agree with those of the file."""
    model = wrap(
        fresh(kind),
        quantization.quantize_annotate_layer,
        lambda layer: isinstance(layer, layers.Dense) and layer.name.startswith("fc1"),
    )
    model = fit(quantization.quantize_apply(model))
    names = [layer.name for layer in model.layers if layer.name.startswith("quant_")]
    assert {name[:9] for name in names} == {"quant_fc1"}
    content = convert(model, INT8)
    check_file(content, model, PATCHES, 0.02)
    assert len(stored_kernels(content, np.int8)) >= len(names)


@BOTH
@pytest.mark.slow
@pytest.mark.parametrize("make", [dense_model, make_model])
def test_quantising_a_whole_model(make, kind):
    x = PATCHES if make is dense_model else X
    source = fresh(kind, make)
    large = len(convert(source))
    model = fit(quantization.quantize_model(fresh(kind, make)), x=x)
    content = convert(model, INT8)
    assert len(content) < large
    assert len(stored_kernels(content, np.int8)) == len(kernels(source))
    check_file(content, model, x, 0.02)


@BOTH
@pytest.mark.slow
def test_fixed_ranges(kind):
    with quantization.quantize_scope():
        model = quantization.quantize_model(fresh(kind))
        fixed = fit(quantization.fix_input_output_range(model, input_min=-8.0, input_max=8.0))
        free = fit(quantization.remove_input_range(model))
    assert list(fixed.output) == list(free.output) == ["digit", "speaker"]
    np.testing.assert_array_equal(free.layers[1](PATCHES, training=False), PATCHES)
    steps = np.array(fixed.layers[1](PATCHES, training=False)) * 255 / 16
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    # What TFMOT fixes of a softmax is the range in front of it.
    for task in fixed.output:
        config = fixed.get_layer(f"quant_{task}").quantize_config
        assert (config.init_min, config.init_max) == (0.0, 1.0)


# --- configurations ---------------------------------------------------------------------------


class DenseConfig(quantization.QuantizeConfig):
    """Kernels and activations in 8 bits, as the guide writes it."""

    bits = 8

    def get_weights_and_quantizers(self, layer):
        quantizer = quantization.quantizers.LastValueQuantizer(
            num_bits=self.bits, symmetric=True, narrow_range=False, per_axis=False
        )
        return [(layer.kernel, quantizer)]

    def get_activations_and_quantizers(self, layer):
        quantizer = quantization.quantizers.MovingAverageQuantizer(
            num_bits=8, symmetric=False, narrow_range=False, per_axis=False
        )
        return [(layer.activation, quantizer)]

    def set_quantize_weights(self, layer, quantize_weights):
        layer.kernel = quantize_weights[0]

    def set_quantize_activations(self, layer, quantize_activations):
        layer.activation = quantize_activations[0]

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


class FourBits(DenseConfig):
    """The guide's change of a parameter."""

    bits = 4


class NoActivation(DenseConfig):
    """The guide's change of what is quantised."""

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_activations(self, layer, quantize_activations):
        pass


class Clip(quantization.quantizers.Quantizer):
    """The guide's algorithm of one's own, in a narrower range."""

    def build(self, tensor_shape, name, layer):
        return {}

    def __call__(self, inputs, training, weights, **kwargs):
        return tf.clip_by_value(inputs, -0.05, 0.05)

    def get_config(self):
        return {}


class Clipped(DenseConfig):
    """Kernels by that algorithm."""

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, Clip())]


class OwnDense(layers.Dense):
    """The guide's layer of one's own."""


def annotated(kind, config, cls=layers.Dense):
    """A merged model with one head of a class and configuration, all else by default."""
    model = wrap(
        fresh(kind),
        lambda layer: quantization.quantize_annotate_layer(
            cls.from_config(layer.get_config()), config()
        ),
        lambda layer: layer.name == "digit",
    )
    model.set_weights(fresh(kind).get_weights())
    names = {kind.__name__: kind for kind in (config, cls, Clip)}
    with quantization.quantize_scope(names):
        return fit(quantization.quantize_apply(quantization.quantize_annotate_model(model)))


@BOTH
@pytest.mark.slow
def test_quantising_a_layer_of_ones_own(kind):
    model = annotated(kind, DenseConfig, OwnDense)
    assert isinstance(model.get_layer("quant_digit").layer, OwnDense)
    kernel = wrapped_kernel(model, "digit")
    assert 16 < len(np.unique(kernel)) <= 256


@BOTH
@pytest.mark.slow
def test_quantising_to_four_bits(kind):
    model = annotated(kind, FourBits)
    assert len(np.unique(wrapped_kernel(model, "digit"))) <= 16
    assert len(np.unique(wrapped_kernel(model, "speaker"))) > 16


@BOTH
@pytest.mark.slow
def test_leaving_out_activations(kind):
    model = annotated(kind, NoActivation)
    assert model.get_layer("quant_digit").layer.activation is tf_keras.activations.softmax
    speaker = model.get_layer("quant_speaker").layer.activation
    assert speaker is not tf_keras.activations.softmax


@BOTH
@pytest.mark.slow
def test_quantising_by_an_algorithm_of_ones_own(kind):
    kernel = wrapped_kernel(annotated(kind, Clipped), "digit")
    assert np.abs(kernel).max() == np.float32(0.05)


# --- after pruning and clustering -------------------------------------------------------------


def pruned(kind):
    model = sparsity.prune_low_magnitude(fresh(kind, conv_model), HALF)
    return sparsity.strip_pruning(fit_pruned(model, X))


def clustered(model, **options):
    # TFMOT's guides import this for the options that its public function lacks.
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    model = cluster.cluster_weights(model, 8, start, **options)
    return clustering.strip_clustering(fit(model, x=X))


def preserving(model, scheme):
    """Trains quantisation aware by a scheme; the file."""
    annotated = quantization.quantize_annotate_model(model)
    return checked_file(quantization.quantize_apply(annotated, scheme))


def checked_file(model) -> bytes:
    content = convert(fit(model, x=X), INT8)
    check_file(content, model, X, 0.03)
    return content


def file_zeros(content) -> float:
    stored = stored_kernels(content, np.int8)
    return sum(np.sum(kernel == 0) for kernel in stored) / sum(kernel.size for kernel in stored)


@BOTH
@pytest.mark.slow
def test_clustering_that_preserves_sparsity(kind):
    shares = {}
    for preserve in (False, True):
        model = clustered(pruned(kind), preserve_sparsity=preserve)
        assert max(len(np.unique(kernel)) for kernel in kernels(model).values()) <= 9
        shares[preserve] = np.mean([zeros(kernel) for kernel in kernels(model).values()])
    assert shares[True] > 0.48
    assert shares[False] < shares[True]


@BOTH
@pytest.mark.slow
def test_quantisation_that_preserves_sparsity(kind):
    scheme = quantization.collab_opts.Default8BitPrunePreserveQuantizeScheme()
    preserved = preserving(pruned(kind), scheme)
    lost = checked_file(quantization.quantize_model(pruned(kind)))
    assert file_zeros(preserved) > 0.48
    assert file_zeros(lost) < file_zeros(preserved)
    assert len(gzip.compress(preserved)) < len(gzip.compress(lost))


@BOTH
@pytest.mark.slow
def test_quantisation_that_preserves_clusters(kind):
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme
    sources = [
        clustered(fresh(kind, conv_model), cluster_per_channel=True) for _ in ("preserved", "lost")
    ]
    preserved = preserving(sources[0], scheme())
    lost = checked_file(quantization.quantize_model(sources[1]))
    assert most_values(stored_kernels(preserved, np.int8)) <= 8
    assert most_values(stored_kernels(lost, np.int8)) > 8


@pytest.mark.slow
@pytest.mark.parametrize("use_bias", [True, False])
def test_clusters_by_channel_need_a_bias(use_bias):
    """TFMOT counts the channels by the last weight, and leaves convolutions without bias alone."""
    x = tf_keras.Input((32, 32, 1))
    h = layers.Conv2D(8, 3, 2, use_bias=use_bias, name="conv")(x)
    model = tf_keras.Model(x, layers.Dense(10, activation="softmax")(layers.Flatten()(h)))
    kernel = kernels(clustered(model, cluster_per_channel=True))["conv"]
    assert (len(np.unique(kernel[..., 0])) <= 8) == use_bias


@BOTH
@pytest.mark.slow
def test_quantisation_that_preserves_sparsity_and_clusters(kind):
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme
    source = clustered(pruned(kind), preserve_sparsity=True)
    preserved = preserving(source, scheme(preserve_sparsity=True))
    assert most_values(stored_kernels(preserved, np.int8)) <= 9
    assert file_zeros(preserved) > 0.48
