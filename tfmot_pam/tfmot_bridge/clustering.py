"""TFMOT's weight clustering."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfmot_pam.tfmot_bridge.crossing import check_names, enter, finish, has_kernel, import_tfmot


def cluster_weights(
    model: Any,
    number_of_clusters: int,
    cluster_centroids_init: Any = None,
    *,
    preserve_sparsity: bool = False,
    skip: Iterable[str] = (),
) -> Any:
    """Wraps a model's kernels in TFMOT's weight clustering; head names stay.

    Use it as TFMOT's function of the same name, on a trained model: compile, fit, then
    `strip_wrappers`. Each kernel then holds few different values, which compress well. It takes
    Keras 3 models too, for which TFMOT's own returns None without a word.

    Args:
        model: A functional or sequential model of either Keras. It is not changed.
        number_of_clusters: Different values per kernel, at least 2.
        cluster_centroids_init: A `tfmot.clustering.keras.CentroidInitialization`; None: TFMOT's
            default, k-means++.
        preserve_sparsity: Whether zeros stay zeros, after `prune_low_magnitude`.
        skip: Names of layers to leave alone.

    Returns:
        A new tf_keras model with TFMOT's wrappers, not compiled.

    Raises:
        TypeError: `model` is no functional or sequential model, or `cluster_centroids_init` none
            of TFMOT's.
        ValueError: nothing can be clustered, `number_of_clusters` is too small, `skip` names an
            unknown layer, or tf_keras lacks a layer.

    Example:
    >>> import keras, tfmot_pam
    >>> x = keras.Input((8,), name="x")
    >>> model = keras.Model(x, {"age": keras.layers.Dense(4, name="age")(x)})
    >>> list(tfmot_pam.cluster_weights(model, 4).output)
    ['age']
    """
    import tf_keras

    tfmot = import_tfmot()
    # TFMOT documents this import for the option that its public function lacks.
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    if number_of_clusters < 2:
        raise ValueError(
            f"Received number_of_clusters={number_of_clusters!r}. Expected at least 2 values a "
            "kernel. Choose such as 16."
        )
    options = {}
    if cluster_centroids_init is not None:
        known = tfmot.clustering.keras.CentroidInitialization
        if not isinstance(cluster_centroids_init, known):
            raise TypeError(
                f"Received cluster_centroids_init={cluster_centroids_init!r} of type "
                f"{type(cluster_centroids_init).__name__}. Expected a member of "
                "tfmot.clustering.keras.CentroidInitialization. Pass such as "
                f"{known.KMEANS_PLUS_PLUS}."
            )
        options["cluster_centroids_init"] = cluster_centroids_init
    copied = enter(model)
    names = check_names(skip, copied)
    left_out: dict[str, str] = {}

    def wrap(layer: Any) -> Any:
        if not has_kernel(layer) or layer.name in names:
            return layer
        # TFMOT cannot find more clusters than a small kernel has values.
        clusters = min(number_of_clusters, _values(layer, preserve_sparsity))
        try:
            if clusters > 1 and preserve_sparsity:
                return cluster.cluster_weights(layer, clusters, preserve_sparsity=True, **options)
            if clusters > 1:
                return tfmot.clustering.keras.cluster_weights(layer, clusters, **options)
        except ValueError:
            pass
        left_out[layer.name] = f"TFMOT cannot cluster {type(layer).__name__}"
        return layer

    clustered = tf_keras.models.clone_model(copied, clone_function=wrap)
    if not any("Cluster" in type(layer).__name__ for layer in clustered.layers):
        raise ValueError(
            f"Model '{copied.name}' has no layer that TFMOT can cluster: {left_out}. Expected at "
            "least one. Name fewer layers in `skip`."
        )
    return finish(clustered, model, left_out, "cluster_weights()")


def _values(layer: Any, preserve_sparsity: bool) -> int:
    """How many weights there are to cluster; 0 where TFMOT leaves them alone."""
    if "Depthwise" in type(layer).__name__:
        return 0
    kernel = max(layer.get_weights(), key=np.size)
    return int(np.count_nonzero(kernel)) if preserve_sparsity else kernel.size
