"""The example on a pretrained backbone runs, goes on where it stopped, and refuses bad calls."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfmot_pam
from tflite_export.ship import manifest

ROOT = pathlib.Path(__file__).parents[1]
PALETTE = {"red": (220, 40, 40), "green": (40, 220, 40)}
# Calls in one process: TensorFlow starts once.
CALLS = """
import json, sys
from absl import app
from examples import pretrained
for name, arguments in json.loads(sys.argv[1]).items():
    try:
        app.run(pretrained.main, argv=["pretrained", *arguments])
    except SystemExit as end:
        print(f"\\n== {name} {end.code or 0}", flush=True)
"""


def _write_images(folder: pathlib.Path, count: int) -> None:
    """Red or green images whose upper or lower half is bright; of a few the colour is not told."""
    rng = np.random.default_rng(0)
    rows = ["file,colour,half,note"]
    for number in range(count):
        colour = sorted(PALETTE)[rng.integers(2)]
        half = ("lower", "upper")[rng.integers(2)]
        image = rng.normal(0, 20, (40, 30, 3)) + PALETTE[colour]
        image[:20] += 60 if half == "upper" else -60
        keras.utils.save_img(folder / f"{number}.png", image.clip(0, 255), scale=False)
        rows.append(f"{number}.png,{colour if number % 10 else ''},{half},x")
    (folder / "table.csv").write_text("\n".join(rows), encoding="utf-8")


def _write_backbone(path: pathlib.Path) -> None:
    """A classifier of random weights with the layers of most pretrained ones."""
    x = image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1)(x)
    for width in (6, 8):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(image, keras.layers.Dense(5, activation="softmax")(x)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("pretrained")
    _write_images(folder, 100)
    _write_backbone(folder / "tiny.keras")
    return folder


@pytest.fixture(scope="module")
def told(folder) -> dict[str, tuple[int, str]]:
    """The exit code and what was printed, by call."""
    good = {"data": f"{folder}/table.csv", "tasks": "colour,half", "size": 32, "epochs": 1}
    good |= {"weights": f"{folder}/tiny.keras", "output_dir": f"{folder}/out", "workers": 1}
    good |= {"arms": "shared", "effort": 1, "max_accuracy_drop": 0.9}
    changes = {
        "first": {},
        "again": {},
        "columns": {"tasks": "colour,age"},
        "size": {"size": 64},
        "backbone": {"weights": "imagenet", "backbone": "ResNet51"},
    }
    calls = {
        name: [f"--{flag}={value}" for flag, value in {**good, **change}.items()]
        for name, change in changes.items()
    }
    calls["argument"] = [*calls["first"], "colour"]
    run = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(calls)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    found, rest = {}, run.stdout
    for name in calls:
        before, _, rest = rest.partition(f"\n== {name} ")
        code, _, rest = rest.partition("\n")
        found[name] = (int(code), before)
    return found


def test_the_files_answer_as_the_networks(folder, told):
    code, printed = told["first"]
    assert code == 0, printed
    content = manifest.read(folder / "out" / "tflite")
    names = {entry["file"] for entry in content["files"]}
    assert {"colour.tflite", "half.tflite", "colour+half.tflite"} < names
    assert content["quantization"] == "int8"
    assert (folder / "out" / "page.html").stat().st_size < 1_000_000
    model = keras.saving.load_model(folder / "out" / "compressed" / "model.keras")
    assert tfmot_pam.combinations(model) == [("colour",), ("half",), ("colour", "half")]
    assert all(output.shape == (None, 2) for output in model.output.values())
    classes = json.loads((folder / "out" / "classes.json").read_text(encoding="utf-8"))
    assert classes == {"colour": ["green", "red"], "half": ["lower", "upper"]}
    assert printed.count("of the answers as in float32") == 3


def test_the_same_call_goes_on(told):
    code, printed = told["again"]
    assert code == 0, printed
    assert "Fine-tuning the half network" in told["first"][1]
    assert "Fine-tuning" not in printed
    last = [told[name][1].rpartition("combination")[2] for name in ("first", "again")]
    assert last[0] == last[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("columns", "Expected the columns ['age'], too"),
        ("size", "Pass --size"),
        ("backbone", "keras.applications has no 'ResNet51'"),
        ("argument", "Unexpected arguments: ['colour']"),
    ],
)
def test_bad_calls(call, message, told):
    code, printed = told[call]
    assert code == 1
    assert message in printed
