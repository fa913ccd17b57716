"""The documents' and docstrings' examples run."""

from __future__ import annotations

import doctest
import importlib
import json
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest

import tflite_export
import tfmot_pam

ROOT = pathlib.Path(__file__).parents[1]


def modules() -> list[str]:
    found = []
    for package in (tfmot_pam, tflite_export):
        found += [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in found if not name.endswith("_main")]


@pytest.mark.parametrize(("page", "count"), [("guide", 20), ("deployment", 4)])
def test_pages_run(page, count, monkeypatch):
    # Where a page imports TFMOT as a user would, that sets this for every later process.
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS")
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == count
    exec("\n".join(blocks), {"__name__": page})


def test_deployment_page_documents_the_manifest(tmp_path):
    x = keras.Input((6,))
    model = keras.Model(x, {"digit": keras.layers.Dense(2, bias_initializer="ones")(x)})
    data = np.random.default_rng(0).normal(size=(16, 6))
    options = {"quantization": "int8", "representative_data": data, "integer_io": True}
    tflite_export.export(model, tmp_path / "out", **options, verbose=0)
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    table = text[text.index("`manifest.json`, schema") : text.index("## What was measured")]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    (file,) = manifest["files"]
    (signature,) = file["signatures"]
    tensor, agreement = signature["outputs"]["digit"], signature["agreement"]["digit"]
    for entry in (manifest, file, signature, tensor, agreement):
        assert [key for key in entry if f"`{key}`" not in table] == []


def test_deployment_page_has_its_tables():
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    for name in ("trained", "large", "quantizers", "converter"):
        table = text[text.index(f"<!-- {name} -->") : text.index(f"<!-- end of {name} -->")]
        assert table.count("\n|") >= 7


def test_tfmot_page_runs(monkeypatch):
    # The page imports TFMOT as a user would, which sets this for every later process.
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    text = (ROOT / "docs" / "tfmot.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 7
    exec("\n".join(blocks), {"__name__": "tfmot_page"})


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name, monkeypatch):
    # Some import TFMOT as a user would, which sets this for every later process.
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS")
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("name", sorted(set(tfmot_pam.__dict__) - {"graph", "merging"}))
def test_public_names_are_documented(name):
    value = getattr(tfmot_pam, name)
    if not name.startswith("_") and callable(value):
        assert value.__doc__
        assert value.__module__.startswith("tfmot_pam")


@pytest.mark.parametrize(
    "document",
    ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))],
)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
