"""A program for tests: one of the processes that train together, or the one that trains alone.

`python -m tests.distributed TASK FOLDER [PART ...]`; what it made is in FOLDER, by the worker's number. Which
worker it is, it is told by TF_CONFIG, as everywhere; LOGICAL_DEVICES is how many devices it makes of the processor.
"""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import socket
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]


def start(task: str, folder: pathlib.Path, *parts: str, workers: int = 1, devices: int = 1):
    """Starts the program in as many processes, which find each other on free ports."""
    sockets = [socket.socket() for _ in range(workers)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(workers):
        environment = {**os.environ, "LOGICAL_DEVICES": str(devices), "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("TF_CONFIG", None)
        if workers > 1:
            config = {"cluster": {"worker": ports}, "task": {"type": "worker", "index": index}}
            environment["TF_CONFIG"] = json.dumps(config)
        with open(folder / f"log-{index}", "ab") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.distributed", task, folder, *parts],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            )
    return processes


def wait(processes, seconds: float) -> list[int]:
    """The exit codes; what takes longer is killed, so that no test waits forever."""
    try:
        return [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(task: str, folder: pathlib.Path, *parts: str, workers: int = 1, devices: int = 1):
    """What each of the processes made."""
    folder.mkdir(exist_ok=True)
    codes = wait(start(task, folder, *parts, workers=workers, devices=devices), 240)
    logs = "\n".join((folder / f"log-{index}").read_text()[-3000:] for index in range(workers))
    assert codes == [0] * workers, logs
    return [pickle.loads((folder / f"made-{index}").read_bytes()) for index in range(workers)]


def samples(rows: int):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8)).astype("float32")
    return x, {"sign": (x[:, 0] > 0).astype("int64"), "sum": (x[:, :3].sum(1) > 0).astype("int64")}


def _dense(name: str, normalised: bool = False):
    import keras
    from keras import layers

    keras.utils.set_random_seed(len(name))
    inputs = keras.Input((8,), name="vector")
    h = layers.Dense(12, name="first")(inputs)
    if normalised:
        h = layers.BatchNormalization(momentum=0.5, name="moments")(h)
    h = layers.Dense(8, activation="relu", name="second")(layers.ReLU(name="relu")(h))
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name=name)(h), name=name)


def _merged(normalised: bool = False):
    import tfmot_pam

    models = {task: _dense(task, normalised) for task in ("sign", "sum")}
    merged = tfmot_pam.merge(models, samples(64)[0], method="separate", verbose=0)
    return models, merged


def arrays(strategy, part: str = "") -> dict:
    """Fine-tuning on arrays, whose last batch cannot be split evenly."""
    import tfmot_pam

    models, merged = _merged(part == "normalised")
    x, y = samples(71)
    weights = np.linspace(0.5, 1.5, 71).astype("float32")
    history = _History()
    with strategy.scope():
        tuned = tfmot_pam.fine_tune(
            merged,
            (x, y, weights),
            models,
            epochs=2,
            batch_size=16,
            learning_rate=0.01,
            callbacks=[history],
            validation_data=samples(24),
            verbose=0,
        )
    # Of this process's own: no other one needs to do the same.
    assert type(tuned.weights[0].value).__name__ == "ResourceVariable"
    return {"weights": tuned.get_weights(), "logs": history.epochs, "names": _names(tuned)}


def streams(strategy) -> dict:
    """Fine-tuning on a stream of a user's, for tasks that have data of their own, by a model of the scope."""
    import tensorflow as tf

    import tfmot_pam

    x, y = samples(50)
    data = {
        "sign": tf.data.Dataset.from_tensor_slices((x, y["sign"])).batch(12),
        "sum": (x[:30], y["sum"][:30]),
    }
    with strategy.scope():
        models, merged = _merged()
    shared = tf.data.Dataset.from_tensor_slices((x, y)).batch(12)
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "verbose": 0}
    tuned = tfmot_pam.fine_tune(merged, data, models, **options)
    again = tfmot_pam.fine_tune(tuned, shared, models, **options)
    return {"weights": tuned.get_weights(), "again": again.get_weights()}


def _names(model) -> list[str]:
    return [weight.path for weight in model.weights]


def _History():
    import keras

    class History(keras.callbacks.Callback):
        """Keeps the losses of every epoch."""

        def __init__(self):
            super().__init__()
            self.epochs = []

        def on_epoch_end(self, epoch, logs=None):
            self.epochs.append({name: float(value) for name, value in logs.items()})

    return History()


TASKS = {"arrays": arrays, "streams": streams}


def main(task: str, folder: str, *parts: str) -> None:
    import tensorflow as tf

    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    count = int(os.environ["LOGICAL_DEVICES"])
    (processor,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(processor, devices)
    if config:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif count > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(count)])
    else:
        strategy = tf.distribute.get_strategy()
    made = TASKS[task](strategy, *parts)
    number = config["task"]["index"] if config else 0
    pathlib.Path(folder, f"made-{number}").write_bytes(pickle.dumps(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
