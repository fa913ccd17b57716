"""The examples of models with several outputs, several inputs and recurrent layers run."""

import pathlib
import subprocess
import sys

import pytest

from tflite_export.ship import manifest

ROOT = pathlib.Path(__file__).parent.parent
# The inputs that the file of each task alone takes, and the outputs that it has.
EXAMPLES = {
    "detector_and_mask": {
        "detector": ({"image"}, {"detector/box", "detector/colour"}),
        "mask": ({"image"}, {"mask"}),
    },
    "image_and_metadata": {
        "content": ({"image"}, {"content"}),
        "notify": ({"image", "metadata"}, {"notify"}),
    },
    "keyword_spotter": {
        "keyword": ({"sound"}, {"keyword"}),
        "speaker": ({"sound"}, {"speaker"}),
    },
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name):
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80


# The demo and the pretrained example run each time, in modules of their own.
@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path):
    options = [f"--output_dir={tmp_path}/out", "--samples=140", "--epochs=1", "--effort=1"]
    run = subprocess.run(
        [sys.executable, "-m", f"examples.{name}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "in expectation" in run.stdout or "Merging" in run.stdout
    content = manifest.read(tmp_path / "out")
    alone = {
        signature["tasks"][0]: (set(signature["inputs"]), set(signature["outputs"]))
        for entry in content["files"]
        for signature in entry["signatures"]
        if len(signature["tasks"]) == 1
    }
    assert alone == EXAMPLES[name]
