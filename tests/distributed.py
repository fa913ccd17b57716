"""A program for tests: one of the processes that train together.

`python -m tests.distributed FOLDER TASK ...` writes what the tasks made to FOLDER, by the number of
the worker. Which one it is, TF_CONFIG tells it, as everywhere; LOGICAL_DEVICES is how many devices
it makes of the processor. The tasks can be called without it, too.
"""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

import tfmot_pam
from tfmot_pam.distribution.devices import devices_of
from tfmot_pam.pipeline.search import Search
from tfmot_pam.tfmot_bridge.crossing import import_tfmot

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds after which a process is killed: no test waits forever


def start(
    folder: pathlib.Path, tasks: Sequence[str], *, workers: int = 1, devices: int = 1
) -> list[subprocess.Popen]:
    """Starts so many processes, which find each other on free ports."""
    folder.mkdir(exist_ok=True)
    ports = _free_ports(workers)
    started = []
    for index in range(workers):
        environment = {**os.environ, "LOGICAL_DEVICES": str(devices), "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("TF_CONFIG", None)
        if workers > 1:
            config = {"cluster": {"worker": ports}, "task": {"type": "worker", "index": index}}
            environment["TF_CONFIG"] = json.dumps(config)
        command = [sys.executable, "-m", "tests.distributed", str(folder), *tasks]
        with open(folder / f"log-{index}", "w", encoding="utf-8") as log:
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            )
    return started


def _free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return ports


def end(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Waits for processes and returns their exit codes."""
    try:
        return [process.wait(PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(
    folder: pathlib.Path, tasks: Sequence[str], *, workers: int = 1, devices: int = 1
) -> list[dict[str, Any]]:
    """By worker, what each task made."""
    codes = end(start(folder, tasks, workers=workers, devices=devices))
    logs = "\n".join((folder / f"log-{index}").read_text()[-3000:] for index in range(workers))
    assert codes == [0] * workers, logs
    return [pickle.loads((folder / f"made-{index}").read_bytes()) for index in range(workers)]


def samples(rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8)).astype("float32")
    return x, {"sign": (x[:, 0] > 0).astype("int64"), "sum": (x[:, :3].sum(1) > 0).astype("int64")}


def network(name: str, normalised: bool = False) -> keras.Model:
    keras.utils.set_random_seed(len(name))
    inputs = keras.Input((8,), name="vector")
    h = layers.Dense(12, name="first")(inputs)
    if normalised:
        h = layers.BatchNormalization(momentum=0.5, name="moments")(h)
    h = layers.Dense(8, activation="relu", name="second")(layers.ReLU(name="relu")(h))
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name=name)(h), name=name)


def merged(normalised: bool = False) -> tuple[dict[str, keras.Model], keras.Model]:
    models = {task: network(task, normalised) for task in ("sign", "sum")}
    return models, tfmot_pam.merge(models, samples(64)[0], method="separate", verbose=0)


class Losses(keras.callbacks.Callback):
    """Keeps what is logged of every epoch."""

    def __init__(self):
        super().__init__()
        self.epochs: list[dict[str, float]] = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append({name: float(value) for name, value in logs.items()})


# --- tasks ----------------------------------------------------------------------------------------

FINE_TUNING = {"epochs": 2, "learning_rate": 0.01, "verbose": 0}


def arrays(strategy, folder) -> dict:
    """Fine-tuning on arrays, whose last batch is not a multiple of the replicas."""
    models, model = merged()
    x, y = samples(71)
    losses = Losses()
    with strategy.scope():
        tuned = tfmot_pam.fine_tune(
            model,
            (x, y, np.linspace(0.5, 1.5, 71).astype("float32")),
            models,
            batch_size=16,
            callbacks=[losses],
            validation_data=samples(24),
            **FINE_TUNING,
        )
    kind = type(tuned.weights[0].value).__name__
    return {"weights": tuned.get_weights(), "losses": losses.epochs, "kind": kind}


def streams(strategy, folder) -> dict:
    """A model of the scope, on a user's stream, and then on data sets of the tasks' own."""
    import tensorflow as tf

    x, y = samples(50)
    with strategy.scope():
        models, model = merged()
    shared = tf.data.Dataset.from_tensor_slices((x, y)).batch(13)
    tuned = tfmot_pam.fine_tune(model, shared, models, **FINE_TUNING)
    sign = tf.data.Dataset.from_tensor_slices((x, y["sign"])).batch(12)
    apart = {"sign": sign, "sum": (x[:30], y["sum"][:30])}
    again = tfmot_pam.fine_tune(tuned, apart, models, batch_size=7, **FINE_TUNING)
    return {"weights": [*tuned.get_weights(), *again.get_weights()]}


def moments(strategy, folder) -> dict:
    """Fine-tuning of batch normalisation, by a rate that leaves all but its statistics."""
    models, model = merged(normalised=True)
    with strategy.scope():
        tuned = tfmot_pam.fine_tune(
            model, samples(32), models, batch_size=32, epochs=3, learning_rate=1e-9, verbose=0
        )
    weights = {weight.path: weight.numpy() for weight in tuned.weights}
    return {kind: [w for path, w in weights.items() if kind in path] for kind in ("mean", "kernel")}


def gates(strategy, folder) -> dict:
    """Pruning while a user's own `fit` trains."""
    x, y = samples(64)
    with strategy.scope():
        gated = tfmot_pam.prune_channels(network("sign"), _schedule(), importance="taylor")
        gated.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        step = tfmot_pam.UpdatePruningStep()
        gated.fit(x, y["sign"], 16, epochs=3, shuffle=False, verbose=0, callbacks=[step])
        small = tfmot_pam.strip_pruning(gated)
    return {"weights": small.get_weights()}


def _schedule() -> Callable:
    return import_tfmot().sparsity.keras.PolynomialDecay(0.0, 0.5, 2, 8, frequency=2)


def compressed(strategy, folder) -> dict:
    """A compression that cuts while it trains."""
    return _compressed(strategy, None, importance="taylor")


def kept(strategy, folder) -> dict:
    """A compression with checkpoints."""
    return _compressed(strategy, folder / "rounds")


def killed(strategy, folder) -> dict:
    """A compression of which the second worker dies in its third round."""
    take, taken = Search.take, []

    def counted(search, action):
        taken.append(action)
        if len(taken) == 3 and '"index": 1' in os.environ["TF_CONFIG"]:
            os.kill(os.getpid(), signal.SIGKILL)
        take(search, action)

    Search.take = counted
    return kept(strategy, folder)


def _compressed(strategy, directory, **options) -> dict:
    x, y = samples(140)
    model = network("sign")
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x, y["sign"], epochs=10, verbose=0)
    data = x, {"sign": y["sign"]}
    options = {"effort": 3, "fine_tune_options": {"batch_size": 64}, "verbose": 0, **options}
    with strategy.scope():
        result = tfmot_pam.compress(model, data, 0.2, directory=directory, **options)
    (rounds,) = result.best.rounds.values()
    return {"weights": result.model.get_weights(), "rounds": rounds}


def told(strategy, folder) -> dict:
    """What the chief makes, fails to make, and cannot send."""
    with strategy.scope():
        devices = devices_of()

    def fail():
        raise ValueError("wrong")

    errors = []
    for make in (fail, lambda: fail):
        try:
            devices.told(make)
        except (TypeError, ValueError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    place = str(devices.share.first)
    return {"made": devices.told(lambda: [place, network("sign")])[0], "errors": errors}


def served(strategy, folder) -> str:
    """What is said of a strategy whose workers do not train in step."""
    import tensorflow as tf

    cluster = dict(zip(("chief", "worker", "ps"), ([port] for port in _free_ports(3)), strict=True))
    spec = tf.train.ClusterSpec(cluster)
    servers = [tf.distribute.Server(spec, name, 0, protocol="grpc") for name in ("worker", "ps")]
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, rpc_layer="grpc", task_type="chief", task_id=0
    )
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    with strategy.scope():
        try:
            return f"{devices_of()} on {servers}"
        except ValueError as error:
            return str(error)


EVERY = (arrays, streams, moments, gates, compressed, kept, killed, told, served)
TASKS = {task.__name__: task for task in EVERY}


def main(folder: str, *tasks: str) -> None:
    import tensorflow as tf

    signal.alarm(PATIENCE)  # also where the test that waits for it is gone
    config, count = os.environ.get("TF_CONFIG"), int(os.environ["LOGICAL_DEVICES"])
    (processor,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(processor, devices)
    if config:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(count)])
    made = {task: TASKS[task](strategy, pathlib.Path(folder)) for task in tasks}
    number = json.loads(config)["task"]["index"] if config else 0
    pathlib.Path(folder, f"made-{number}").write_bytes(pickle.dumps(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
