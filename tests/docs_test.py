"""The documents' and docstrings' examples run."""

from __future__ import annotations

import doctest
import importlib
import pathlib
import pkgutil
import re

import pytest

import tflite_export
import tfmot_pam

ROOT = pathlib.Path(__file__).parents[1]


def modules() -> list[str]:
    found = []
    for package in (tfmot_pam, tflite_export):
        found += [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in found if name != "tflite_export.export_main"]


def test_guide_runs():
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 7
    exec("\n".join(blocks), {"__name__": "guide"})


def test_tfmot_page_runs(monkeypatch):
    # The page imports TFMOT as a user would, which sets this for every later process.
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    text = (ROOT / "docs" / "tfmot.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 7
    exec("\n".join(blocks), {"__name__": "tfmot_page"})


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name):
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
    "document", ["README.md", "docs/guide.md", "docs/results.md", "docs/tfmot.md"]
)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
