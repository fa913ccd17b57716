"""The example in TFMOT's style runs from two saved models to int8 files."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

ROOT = pathlib.Path(__file__).parents[1]
TRAIN_MODELS = """
import sys
import tf_keras
from examples import merge_prune_quantize as example
from absl import flags
flags.FLAGS(["example", "--epochs=4"])
tf_keras.utils.set_random_seed(0)
x, labels = example.load_data(str(example.ARCHIVE), "train")
for task in example.CLASSES:
    example.load_or_train(task, x, labels[task]).save(f"{sys.argv[1]}/{task}.keras")
"""


@pytest.mark.slow
def test_example(tmp_path):
    subprocess.run([sys.executable, "-c", TRAIN_MODELS, tmp_path], check=True, cwd=ROOT)
    options = [f"--{task}_model={tmp_path / task}.keras" for task in ("digit", "speaker")]
    options += [f"--output_dir={tmp_path / 'out'}", "--tune_epochs=2"]
    result = subprocess.run(
        [sys.executable, "-m", "examples.merge_prune_quantize", *options],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.stdout.startswith("merged ")
    scores = re.findall(r"^(\S+)\.tflite\s+(.*), (\d+) kB$", result.stdout, re.MULTILINE)
    assert [name for name, *_ in scores] == ["digit", "speaker", "digit+speaker"]
    for name, text, size in scores:
        assert min(float(value) for value in re.findall(r"([\d.]+)%", text)) > 80
        assert int(size) < 120
        runner = Interpreter(model_path=str(tmp_path / "out" / f"{name}.tflite"))
        details = runner.get_signature_runner(name)
        assert sorted(details.get_output_details()) == sorted(name.split("+"))
        kernels = [
            runner.get_tensor(tensor["index"])
            for tensor in runner.get_tensor_details()
            if tensor["dtype"] == np.int8
            and len(tensor["shape"]) == 4
            and tensor["shape"][1:3].tolist() == [3, 3]
        ]
        assert np.mean([np.mean(kernel == 0) for kernel in kernels]) > 0.45
