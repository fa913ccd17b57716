"""Tests of the model card: its tables and snippets hold the manifest's names and figures."""

import re

import pytest

from tflite_export.ship import model_card, snippets


def _tensor(shape, dtype="float32"):
    return {"shape": shape, "dtype": dtype}


def _signature(*tasks, **more):
    return {
        "name": "+".join(tasks),
        "tasks": list(tasks),
        "inputs": {"image-in": _tensor([1, 8, 8, 3], more.get("dtype", "float32"))},
        "outputs": {task: _tensor([1, len(task)], more.get("dtype", "float32")) for task in tasks},
        "agreement": {
            task: {"max_abs_error": 2e-6, "mean_abs_error": 1e-7, "label_agreement": 0.875}
            for task in tasks
        },
        "macs": 1_230_000,
        "parameters": 10,
        "latency_ms": {"1": 0.25, "4": 0.5},
    }


def _entry(file, *signatures):
    return {"file": file, "bytes": 1_234, "sha256": "0", "signatures": list(signatures)}


def _manifest(*files):
    return {
        "schema_version": 1,
        "tasks": ["digit", 'a "b"', "$c"],
        "mode": "both",
        "quantization": "none",
        "checked_on": {"inputs": "given", "number": 20},
        "calibrated_on": None,
        "accuracy": {"digit": 0.975},
        "files": list(files),
        "versions": {"keras": "3.15.1"},
    }


@pytest.fixture
def manifest():
    alone = [("digit",), ('a "b"',), ("digit", "$c")]
    return _manifest(
        *(_entry(f"{'+'.join(tasks)}.tflite", _signature(*tasks)) for tasks in alone),
        _entry("all_combinations.tflite", *(_signature(*tasks) for tasks in alone)),
    )


def test_tables_hold_the_figures(manifest):
    text = model_card.text(manifest)
    lines = text.splitlines()
    row = "| `digit.tflite` | 1,234 | `digit` | 1.23 M | 2.0e-06 | 1.0e-07 | 87.5 % | 0.25 | 0.50 |"
    assert row in lines
    assert "| digit | 97.5 % |" in lines
    assert "| input | `image-in` | [1, 8, 8, 3] | float32 |" in lines
    (heading,) = (line for line in lines if "same label" in line)
    assert heading.endswith("| ms, 1 thread | ms, 4 threads |")
    assert heading.count("|") == row.count("|")
    assert "on 20 real inputs" in text


def _strings(code):
    """The string literals of a piece of code, unescaped."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', code)
    return [re.sub(r"\\(.)", r"\1", literal) for literal in found]


@pytest.mark.parametrize("language", snippets.SNIPPETS)
def test_snippets_pick_the_signatures_of_the_manifest(manifest, language):
    _, write = snippets.SNIPPETS[language]
    literals = _strings(write(manifest))
    expected = [
        name
        for signature in manifest["files"][-1]["signatures"]
        for name in (*signature["tasks"], "all_combinations.tflite", signature["name"])
    ]
    start = literals.index("digit")
    assert literals[start : start + len(expected)] == expected
    assert "image-in" in literals


def test_without_a_common_file_each_signature_is_in_its_own(manifest):
    alone = _manifest(*manifest["files"][:-1])
    for _, write in snippets.SNIPPETS.values():
        literals = _strings(write(alone))
        assert {"digit.tflite", "digit+$c.tflite"} <= set(literals)
        assert "all_combinations.tflite" not in literals


def test_kotlin_escapes_templates_and_knows_the_sizes():
    code = snippets.kotlin(_manifest(_entry("$c.tflite", _signature("$c", dtype="int16"))))
    assert r'setOf("\$c") to Signature("\$c.tflite", "\$c")' in code
    assert r'"\$c" -> 4' in code
    assert "384 bytes of int16" in code
