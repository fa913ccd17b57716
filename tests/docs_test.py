"""The documents' and docstrings' examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import shlex

import keras
import numpy as np
import pytest
from absl import flags

import tflite_export
import tfmot_pam
from tflite_export.programs.pam import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = "tflite_export.programs"
BY_NAME = {"tflite-export": "export", "tflite-benchmark": "benchmark"}


def modules() -> list[str]:
    found = []
    for package in (tfmot_pam, tflite_export):
        found += [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return found


@pytest.mark.parametrize(("page", "count"), [("guide", 23), ("deployment", 4)])
def test_pages_run(page, count, monkeypatch):
    # Where a page imports TFMOT as a user would, that sets this for every later process.
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS")
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == count
    exec("\n".join(blocks), {"__name__": page})


def command_lines() -> list[str]:
    """Every call of a program in the documents and in the programs' own help."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    texts += [
        importlib.import_module(f"{PROGRAMS}.{name}").__doc__
        for name in {*BY_NAME.values(), *COMMANDS}
    ]
    found = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    return sorted({line for line in found if re.match(r"(tfmot-pam|tflite-\w+) .*--\w+=", line)})


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_understood(line):
    program, *arguments = shlex.split(line)
    name = BY_NAME[program] if program in BY_NAME else arguments.pop(0)
    values = flags.FlagValues()
    importlib.import_module(f"{PROGRAMS}.{name}").define_flags(values)
    assert values([program, *arguments]) == [program]


def test_command_lines_are_found():
    assert len(command_lines()) >= 10


def test_reference_lists_every_public_name():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = {
        name
        for found in re.findall(r"members: \[(.*?)\]", text, re.DOTALL)
        for name in re.split(r",\s*", found)
    }
    public = {
        name
        for package in (tfmot_pam, tflite_export)
        for name, value in vars(package).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert listed == public


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))],
)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []


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
