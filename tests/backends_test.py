"""What differs between the backends of Keras, and what runs on all of them."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.small_nets import dense_net, vectors
from tfmot_pam import backends
from tfmot_pam.backends.epochs import Epochs
from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.runner import offset_run

BACKEND = keras.backend.backend()
elsewhere = pytest.mark.skipif(BACKEND == "tensorflow", reason="is about the other backends")
MODELS = """
import sys
import keras, numpy as np
import tfmot_pam

x = np.random.default_rng(0).normal(size=(35, 6)).astype("float32")
data = x, {"a": np.arange(35) % 3, "b": np.arange(35) % 2}

def model(units, seed):
    def weights(more):
        return keras.initializers.RandomNormal(stddev=0.5, seed=seed + more)

    h = vector = keras.Input((6,))
    h = keras.layers.Dense(8, "relu", kernel_initializer=weights(0), name="hidden")(h)
    h = keras.layers.Dense(units, "softmax", kernel_initializer=weights(1), name="head")(h)
    return keras.Model(vector, h)

def run():
    models = {"a": model(3, 1), "b": model(2, 5)}
    merged = tfmot_pam.merge(models, data, verbose=0)
    options = {"batch_size": 8, "verbose": 0}
    tuned = tfmot_pam.fine_tune(merged, data, models, 2, validation_data=data, **options)
    schedule = lambda step: (step % 2 == 0, min(step / 8, 0.5))
    gated = tfmot_pam.prune_channels(tuned, schedule, "taylor")
    callbacks = [tfmot_pam.UpdatePruningStep()]
    gated = tfmot_pam.fine_tune(gated, data, models, 1, callbacks=callbacks, **options)
    return models, tuned, gated
"""


def python(program: str, *arguments: str, **environment: str) -> str:
    """What a program prints in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_all_backends_have_the_same_names():
    def names(backend):
        module = importlib.import_module(f"tfmot_pam.backends.{backend}")
        places = (module.__name__, "tfmot_pam.backends.attributes")
        own = inspect.getmembers(module, lambda v: getattr(v, "__module__", "") in places)
        return {"JIT_COMPILE", *(name for name, _ in own if name[0] != "_")} & {*vars(module)}

    assert names("tensorflow") == names("jax") == names("torch")
    assert names("jax") == {name for name in names("jax") if f"`{name}" in backends.__doc__}


def test_a_backend_that_cannot_train_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    with pytest.raises(ValueError, match="'openvino'.*one that trains: tensorflow, jax, torch"):
        tfmot_pam.merge({"a": dense_net(0), "b": dense_net(1)}, vectors(16), verbose=0)


def batches_of(x, y, weight, size):
    spans = [slice(start, start + size) for start in range(0, len(x), size)]
    return [(x[own], {"a": y[own]}, {"a": weight[own]}) for own in spans]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_batches_that_are_dealt_out_evenly_cost_the_same(parts):
    x, y, weight = vectors(11), vectors(11, seed=1), np.linspace(0.5, 1.5, 11, dtype="float32")
    plain = batches_of(x, y, weight, 4)
    dataset = Epochs(lambda: iter(plain), len(plain), parts)
    for _ in range(2):
        found = list(dataset)
        assert len(found) == len(plain) == dataset.num_batches
        for (x, y, w), (own_x, own_y, own_w) in zip(found, plain, strict=True):
            assert len(x) == len(y["a"]) == len(w["a"]) == -(-len(own_x) // parts) * parts
            np.testing.assert_array_equal(x[: len(own_x)], own_x)
            loss, own_loss = (
                np.mean(np.square(p[:, 0] - q["a"][:, 0]) * r["a"])
                for p, q, r in ((x, y, w), (own_x, own_y, own_w))
            )
            assert loss == pytest.approx(own_loss, rel=1e-5)


def test_offsets_are_added_where_tensors_are_read():
    x = keras.Input((6,))
    h = keras.layers.Dense(5, name="hidden")(x)
    model = keras.Model(x, {"b": keras.layers.Dense(2, name="b")(h), "h": h})
    data, offset = vectors(7), np.arange(35, dtype="float32").reshape(7, 5)
    run = offset_run(read(model), [Tensor("hidden")])
    b, hidden = run(data, [keras.ops.convert_to_tensor(offset)])
    own = model.predict(data, verbose=0)
    moved = own["b"] + offset @ keras.ops.convert_to_numpy(model.get_layer("b").kernel)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(b), moved, rtol=1e-4, atol=1e-4)
    shifted = own["h"] + offset
    np.testing.assert_allclose(keras.ops.convert_to_numpy(hidden), shifted, rtol=1e-5)


@elsewhere
def test_all_but_the_export_runs_where_tensorflow_is_not_installed(tmp_path):
    path = tmp_path / "small.keras"
    absent = "import sys; sys.modules |= dict.fromkeys(['tensorflow', 'tf_keras'])\n"
    check = """
_, _, gated = run()
small = tfmot_pam.strip_pruning(gated)
assert tfmot_pam.cost(small).macs < tfmot_pam.cost(gated).macs
print(tfmot_pam.report(tfmot_pam.select_tasks(small, ["a"])))
small.save(sys.argv[1])
"""
    python(absent + MODELS + check, str(path))
    export = """
import sys, keras, tfmot_pam, tflite_export
files = tflite_export.export(keras.saving.load_model(sys.argv[1]), sys.argv[2], verbose=0)
print(*sorted("+".join(file.tasks) for file in files))
"""
    out = python(export, str(path), str(tmp_path / "out"), KERAS_BACKEND="tensorflow")
    assert {"a", "b", "a+b"} <= set(out.split())


@pytest.mark.skipif(BACKEND != "jax", reason="Keras distributes with JAX")
def test_training_that_is_dealt_out_to_two_devices_is_that_of_one():
    check = """
one = run()
assert len(keras.distribution.list_devices()) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel())
two = run()
assert len(two[1].weights[0].value.sharding.device_set) == 2
for alone, shared in zip(one[1:], two[1:]):
    for expected, found in zip(alone.get_weights(), shared.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
"""
    python(MODELS + check, XLA_FLAGS="--xla_force_host_platform_device_count=2")
