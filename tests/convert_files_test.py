"""Saved models cross in fresh processes, however TensorFlow is imported; so do applications."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras

from benchmarks.applications import SIDES
from tests.crossings import BOTH, cross, data_for, layer_names, randomise, several_outputs, values
from tests.tiers import regular
from tfmot_pam.graph.tf_keras.convert import relative_error

ROOT = pathlib.Path(__file__).resolve().parents[1]


# --- files in a fresh process -----------------------------------------------------------------

PROGRAM = """
import sys
import keras, numpy as np, tf_keras
import tfmot_pam
for path in sys.argv[2:]:
    legacy = path.endswith("tf_keras.keras")
    model = (tf_keras if legacy else keras).models.load_model(path)
    there = (tfmot_pam.from_tf_keras if legacy else tfmot_pam.to_tf_keras)(model)
    found = keras.tree.flatten(there(np.load(sys.argv[1]), training=False))
    np.savez(path + ".npz", *[np.array(value) for value in found])
"""


def check_in_a_fresh_process(models, folder):
    """Both Kerases' files are loaded and cross in one other process."""
    x = data_for(models[0], samples=2)
    np.save(folder / "x.npy", x)
    paths = []
    for index, model in enumerate(models):
        package = "keras" if isinstance(model, keras.Model) else "tf_keras"
        paths.append(folder / f"{index}_{package}.keras")
        model.save(paths[-1])
    arguments = map(str, [folder / "x.npy", *paths])
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, cwd=ROOT)
    for model, path in zip(models, paths, strict=True):
        found = np.load(f"{path}.npz").values()
        for value, wanted in zip(found, values(model, x), strict=True):
            assert relative_error(wanted, value) < 1e-5


def test_saved_models_cross_in_a_fresh_process(tmp_path):
    models = [randomise(several_outputs(kerases)) for kerases in (keras, tf_keras)]
    check_in_a_fresh_process([*models, *map(cross, models)], tmp_path)


IMPORTS = {
    "tf first": "import tensorflow as tf; tf.keras.layers; import tfmot_pam",
    "ours first": "import tfmot_pam; import tensorflow as tf; tf.keras.layers",
    "tfmot first": "import tensorflow_model_optimization; import tfmot_pam; import tensorflow",
    "tfmot last": "import tfmot_pam; import tensorflow_model_optimization; import tensorflow",
}
ORDER = """
import json, os
{imports}
environment = dict(os.environ)
import tensorflow as tf
before = tf.keras.layers.Dense
import keras, tf_keras, numpy as np
errors = []
for kerases, cross in ((keras, tfmot_pam.to_tf_keras), (tf_keras, tfmot_pam.from_tf_keras)):
    x = kerases.Input((4,), name="x")
    model = kerases.Model(x, {{"a": kerases.layers.Dense(2, activation="hard_sigmoid")(x)}})
    given = np.ones((1, 4), "float32")
    values = [np.array(found(given)["a"]) for found in (model, cross(model))]
    errors.append(float(abs(values[0] - values[1]).max()))
x = tf.keras.Input((4,))
mine = tf.keras.Model(x, tf.keras.layers.Dense(2)(x))
cost = tfmot_pam.cost(mine).macs
print(json.dumps({{
    "errors": errors,
    "cost": cost,
    "environment": dict(os.environ) == environment,
    "keras": tf.keras.layers.Dense is before,
}}))
"""


@pytest.mark.parametrize(
    ("order", "legacy"), regular([("tf first", "1"), ("tfmot last", None)], several=True)
)
def test_import_orders(order, legacy):
    check_import_order(IMPORTS[order], legacy)


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [None, "0", "1"])
@pytest.mark.parametrize("order", IMPORTS)
def test_all_import_orders(order, legacy):
    check_import_order(IMPORTS[order], legacy)


def check_import_order(imports, legacy):
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    if legacy is not None:
        environment["TF_USE_LEGACY_KERAS"] = legacy
    result = subprocess.run(
        [sys.executable, "-c", ORDER.format(imports=imports)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    found = json.loads(result.stdout.splitlines()[-1])
    assert max(found["errors"]) < 1e-6
    assert found["cost"] == 8
    assert found["environment"]
    assert found["keras"]


# --- applications -----------------------------------------------------------------------------

APPLICATIONS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "ResNet50", "ResNet50V2"),
    *("VGG16", "DenseNet121", "NASNetMobile", "Xception", "InceptionV3", "EfficientNetB0"),
    "EfficientNetV2B0",
)


def application(kerases, name):
    size = SIDES[name]
    model = getattr(kerases.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=7, classifier_activation=None
    )
    return randomise(model)


def check_application(kerases, name):
    model = application(kerases, name)
    there = cross(model)
    back = cross(there)
    x = data_for(model, samples=2)
    errors = [relative_error(*values(model, x), *values(found, x)) for found in (there, back)]
    assert max(errors) < 1e-5
    names = {name.replace("/", "_") for name in layer_names(model)}
    assert names <= layer_names(there)
    assert names <= layer_names(back)
    assert model.count_params() == there.count_params() == back.count_params()
    print(f"{name:17} {kerases.__name__:9} there {errors[0]:.1e}  and back {errors[1]:.1e}")


@pytest.mark.slow
def test_the_hardest_application():
    check_application(keras, "MobileNetV3Small")


@BOTH
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_applications(name, kerases):
    check_application(kerases, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_saved_applications_cross_in_a_fresh_process(name, tmp_path):
    models = [application(kerases, name) for kerases in (keras, tf_keras)]
    check_in_a_fresh_process([*models, cross(models[0])], tmp_path)
