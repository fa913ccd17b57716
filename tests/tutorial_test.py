"""The tutorial was executed from top to bottom, and names only what there is."""

from __future__ import annotations

import ast
import base64
import json
import re

import pytest

import tflite_export
import tfmot_pam
from tools.tutorial import PATH, cleaned

PACKAGES = {"tfmot_pam": tfmot_pam, "tflite_export": tflite_export}
MACHINE = re.compile(r"(?<![\w.])/(?:home|opt|root|tmp|usr|var|work|Users)/|\b[A-Z]:\\")


@pytest.fixture(scope="module")
def notebook() -> dict:
    return json.loads(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def code(notebook) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_it_is_a_notebook_with_prose_between_short_cells(notebook, code):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"code", "markdown"}
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 25


def test_it_was_executed_from_top_to_bottom(code):
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    silent = [number for number, cell in enumerate(code) if not cell["outputs"]]
    assert silent == [0]  # What imports.
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert "error" not in kinds


def test_outputs_are_small_and_of_no_machine(notebook, code):
    assert cleaned(notebook) == notebook
    assert MACHINE.search(PATH.read_text(encoding="utf-8")) is None
    pictures = [
        base64.b64decode("".join(output["data"]["image/png"]))
        for cell in code
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3
    assert max(map(len, pictures)) < 100_000


def test_what_is_cleaned_away():
    told = [{"name": "stderr", "text": "hello"}, {"name": "stdout", "text": "1"}]
    timed = {"cell_type": "code", "id": "a", "metadata": {"execution": {}}, "outputs": told}
    prose = {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "x"}
    found = cleaned({"cells": [timed, prose], "metadata": {"language_info": {"version": "3.11"}}})
    first, second = found["cells"]
    assert first == {**timed, "id": "cell-00", "metadata": {}, "outputs": told[1:]}
    assert second == {**prose, "id": "cell-01"}
    assert "version" not in found["metadata"]["language_info"]


def test_code_names_what_is_public(code):
    used = set()
    for cell in code:
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in PACKAGES:
                used.add((ast.unparse(node.value), node.attr))
    assert {("tfmot_pam", "compress"), ("tflite_export", "export")} < used
    assert [name for name in used if not callable(getattr(PACKAGES[name[0]], name[1], None))] == []


def test_links_lead_to_files(notebook):
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    assert [link for link in links if not (PATH.parent / link).is_file()] == []
