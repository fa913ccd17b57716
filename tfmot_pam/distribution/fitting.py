"""Keras' `fit` and its results on several devices.

The `fit` of a Keras 3 model that knows of a strategy fails where there are several workers: it
looks at a batch of every data set before it begins, and takes means of logs over an axis that they
do not have (keras issue 20585). So a model is fitted here that knows of no strategy: its variables
do, and its steps are those below.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfmot_pam.distribution.devices import Devices, Share
from tfmot_pam.graph.cloning import clone


def fitted_by_steps(model: keras.Model, devices: Devices) -> keras.Model:
    """The same layers in a model whose `fit` leaves the strategy to `set_steps`.

    Args:
        model: A functional model, made in the scope of the devices.
        devices: The devices.
    """
    if devices.strategy is None:
        return model
    with devices.left():
        return type(model)(model.input, model.output, name=model.name)


def set_steps(model: keras.Model, devices: Devices, dataset: Any) -> None:
    """Lets a compiled model take its steps on all replicas.

    Args:
        model: A model from `fitted_by_steps`.
        devices: The devices.
        dataset: What it will be fitted on, from `dataset_of`.
    """
    if devices.strategy is not None:
        model.train_function = _on_all(model.train_step, devices.strategy, dataset.element_spec)
        model.test_function = _on_all(model.test_step, devices.strategy, dataset.element_spec)


def _on_all(step: Callable[[Any], Any], strategy: Any, batch: Any) -> Callable[[Any], Any]:
    """A step by the iterator of its batches.

    The next one is taken outside of the graph: within, the end of an epoch would be an empty batch.
    """
    import tensorflow as tf

    def on_all(batch: Any) -> Any:
        logs = strategy.run(step, args=(batch,))
        # What metrics hold is summed over all replicas before it is read: all have the same.
        return keras.tree.map_structure(
            lambda log: strategy.experimental_local_results(log)[0], logs
        )

    function = tf.function(on_all, input_signature=[batch], autograph=False)
    return lambda batches: function(next(iter(batches)))


def dataset_of(make: Callable[[Share], Any], devices: Devices) -> Any:
    """A data set for `fit`: what `make` makes of a worker's share, in turn for its replicas."""
    if devices.strategy is None:
        return make(devices.share)
    return devices.strategy.distribute_datasets_from_function(lambda context: make(devices.share))


@contextlib.contextmanager
def without_told_ends(devices: Devices) -> Iterator[None]:
    """Keras takes the end of every epoch that it does not know the length of for a mistake."""
    with warnings.catch_warnings():
        if devices.strategy is not None:
            warnings.filterwarnings("ignore", message="Your input ran out of data")
        yield


def collected(model: keras.Model, devices: Devices) -> keras.Model:
    """A model after training, on this process's own device and equal on all workers.

    Weights that training moves are equal on all replicas. Statistics, such as those of batch
    normalisation, are of what each replica has seen: their means count.

    Args:
        model: A functional model, made in the scope of the devices.
        devices: The devices.
    """
    if devices.strategy is None:
        return model
    strategy, weights = devices.strategy, devices.told(model.get_weights)
    moving = {
        place: variable.value
        for place, variable in enumerate(model.weights)
        if not variable.trainable and keras.backend.is_float_dtype(variable.dtype)
    }
    if moving:
        # The mean of what they differ by: what does not differ stays exactly what it is.
        apart = strategy.run(
            lambda: {place: value - weights[place] for place, value in moving.items()}
        )
        for place, values in apart.items():
            mean = strategy.reduce("MEAN", values, axis=None)
            weights[place] = weights[place] + np.asarray(mean)
    with devices.left():
        model = clone(model)
    model.set_weights(weights)
    return model
