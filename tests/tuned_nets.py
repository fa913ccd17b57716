"""Networks of two tasks that are damaged and trained again, and data for them."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from tfmot_pam.task_group import TaskGroup

TASKS = ("b", "a")  # Not in alphabetical order, as a merged model's may be.
HEADS = {
    "softmax": {"units": 3, "activation": "softmax"},
    "sigmoid": {"units": 3, "activation": "sigmoid"},
    "linear": {"units": 3},
}


def dense(*args, tasks, **kwargs):
    return TaskGroup(layers.Dense(*args, **kwargs), tasks)


def network(kinds=("softmax", "linear"), dropout=0.0, seed=0):
    """One shared group, one group for each of the two tasks, and their heads."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    shared = dense(8, activation="tanh", tasks=TASKS, name="shared")(inputs)
    outputs = {}
    for task, kind in zip(TASKS, kinds, strict=True):
        own = dense(4, activation="tanh", tasks=(task,), name=f"{task}_own")(inputs)
        features = layers.Dropout(dropout)(layers.Concatenate()([shared, own]))
        outputs[task] = dense(**HEADS[kind], tasks=(task,), name=f"{task}_head")(features)
    return keras.Model(inputs, outputs, name="merged")


def single(model):
    return {task: keras.Model(model.input, model.output[task]) for task in TASKS}


def damaged(model, scale=0.5, seed=1):
    student = keras.models.clone_model(model)
    rng = np.random.default_rng(seed)
    student.set_weights(
        [w + scale * rng.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()]
    )
    return student


def inputs(n=256, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5)).astype("float32")


def same_weights(one, two, **tolerance):
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


def weights_of(model, prefix):
    return np.concatenate([w.numpy().ravel() for w in model.weights if w.path.startswith(prefix)])


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs, self.steps = [], 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        self.rate = float(self.model.optimizer.learning_rate)
