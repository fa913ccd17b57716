"""Zeros that stay zeros when training goes on in Keras 3."""

from __future__ import annotations

from typing import Any

import keras


class KeepSparsity(keras.callbacks.Callback):
    """Keeps the zeros of a model's kernels through a Keras 3 `fit`.

    Use it after TFMOT's pruning, stripped and brought back with `from_tf_keras`, in `fit` or
    `fine_tune`: the weights that are zero when training begins are set to zero after every step.
    Biases and normalisation are trained as usual.

    Example:
    >>> import keras, numpy as np, tfmot_pam
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2)])
    >>> model.compile("sgd", "mse")
    >>> x = np.ones((4, 2))
    >>> _ = model.fit(x, x, callbacks=[tfmot_pam.KeepSparsity()], verbose=0)
    >>> int(np.count_nonzero(model.get_weights()[0]))
    2
    """

    def on_train_begin(self, logs: Any = None) -> None:
        kernels = [weight for weight in self.model.trainable_weights if len(weight.shape) > 1]
        self._masks = [(weight, keras.ops.cast(weight != 0, weight.dtype)) for weight in kernels]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for weight, mask in self._masks:
            weight.assign(weight * mask)
