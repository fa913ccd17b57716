"""BUILD agrees with the tree and with the imports."""

from __future__ import annotations

import ast
import difflib
import graphlib
import pathlib

import pytest
from packaging.requirements import Requirement

from tools import build_file
from tools.lock_file import LOCK

COMMAND = "python -m tools.build_file --write"
RULES = {"py_library", "py_binary", "py_test"}


def parse(text: str) -> dict[str, tuple[str, dict[str, ast.expr]]]:
    """Reads rule and attributes of every Python target by name: BUILD is valid Python syntax."""
    targets = {}
    for statement in ast.parse(text).body:
        call = statement.value
        if isinstance(call, ast.Call) and call.func.id in RULES:
            attributes = {keyword.arg: keyword.value for keyword in call.keywords}
            name = ast.literal_eval(attributes["name"])
            assert name not in targets, f"BUILD names {name} twice"
            targets[name] = (call.func.id, attributes)
    return targets


def deps(attributes: dict[str, ast.expr]) -> tuple[set[str], set[str]]:
    """Splits a target's dependencies into the repository's own and third-party ones."""
    entries = attributes["deps"].elts if "deps" in attributes else []
    own = {entry.value for entry in entries if isinstance(entry, ast.Constant)}
    return own, {entry.args[0].value for entry in entries if isinstance(entry, ast.Call)}


@pytest.fixture(scope="module")
def targets() -> dict[str, tuple[str, dict[str, ast.expr]]]:
    return parse((build_file.ROOT / "BUILD").read_text(encoding="utf-8"))


def test_build_is_what_the_generator_writes():
    actual = (build_file.ROOT / "BUILD").read_text(encoding="utf-8").splitlines()
    expected = build_file.build_text(build_file.ROOT).splitlines()
    diff = difflib.unified_diff(actual, expected, "BUILD", "the tree and its imports", n=4)
    message = "\n".join(["BUILD is out of date. Run: " + COMMAND, *diff])
    assert actual == expected, message


def test_every_python_file_has_one_target_of_the_right_kind(targets):
    rules = {ast.literal_eval(item["srcs"])[0]: rule for rule, item in targets.values()}
    root = build_file.ROOT
    files = {
        file.relative_to(root).as_posix()
        for folder in build_file.FOLDERS
        for file in (root / folder).rglob("*.py")
    }
    assert len(rules) == len(targets)
    assert rules.keys() == files, f"Run: {COMMAND}"
    tests = {file for file in files if file.endswith("_test.py")}
    assert {file for file, rule in rules.items() if rule == "py_test"} == tests
    libraries = {f for f in files if f.startswith("tfmot_pam/")}
    assert {rules[file] for file in libraries} == {"py_library"}


def test_dependencies_exist(targets):
    locked = {
        Requirement(line).name
        for line in LOCK.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }
    for name, (_, attributes) in targets.items():
        own, third_party = deps(attributes)
        missing = {label for label in own if label.removeprefix(":") not in targets}
        assert not missing, f"{name} depends on targets that do not exist"
        assert third_party <= locked, (
            f"{name} imports {sorted(third_party - locked)}, not in requirements.lock: a missing "
            "file of this repository, or a dependency that setup.py does not name"
        )


def test_no_target_depends_on_itself(targets):
    graph = {
        name: {label.removeprefix(":") for label in deps(attributes)[0]}
        for name, (_, attributes) in targets.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


SOURCES = {
    "tfmot_pam/__init__.py": "from tfmot_pam.graph import read\n",
    "tfmot_pam/graph/__init__.py": "from .reader import read\n",
    "tfmot_pam/graph/reader.py": (
        "from __future__ import annotations\n"
        "import os.path\n"
        "from typing import TYPE_CHECKING\n"
        "import numpy as np\n"
        "if TYPE_CHECKING:\n"
        "    import scipy\n"
        "    from tfmot_pam.task_group import TaskGroup\n"
        "def read(model):\n"
        "    import tf_keras\n"
        "    from tfmot_pam.graph import network\n"
        "    from ..data.forms import Forms as F\n"
    ),
    "tfmot_pam/graph/network.py": "",
    "tfmot_pam/data/__init__.py": "",
    "tfmot_pam/data/forms.py": "import scipy.linalg\n",
    "tfmot_pam/task_group.py": "",
    "examples/demo.py": (
        "from absl import app\nimport tfmot_pam\nDATA = 'examples/data/sound.npz'\n"
        "if __name__ == '__main__':\n    app.run(print)\n"
    ),
    "examples/data/sound.npz": "",
    "tests/conftest.py": "import keras\n",
    "tests/nets.py": "import keras\n",
    "tests/reader_test.py": "from nets import small\nfrom tfmot_pam.graph.reader import read\n",
    "tests/tree_test.py": "from tools import build_file\n",
    "tools/build_file.py": "",
}

EXPECTED = {
    "tfmot_pam": ("py_library", {":tfmot_pam.graph"}, set()),
    "tfmot_pam.graph": ("py_library", {":tfmot_pam.graph.reader"}, set()),
    "tfmot_pam.graph.reader": (
        "py_library",
        {":tfmot_pam.graph.network", ":tfmot_pam.data.forms"},
        {"numpy", "tf-keras"},
    ),
    "tfmot_pam.graph.network": ("py_library", set(), set()),
    "tfmot_pam.data": ("py_library", set(), set()),
    "tfmot_pam.data.forms": ("py_library", set(), {"scipy"}),
    "tfmot_pam.task_group": ("py_library", set(), set()),
    "examples.demo": ("py_binary", {":tfmot_pam"}, {"absl-py"}),
    "tests.conftest": ("py_library", set(), {"keras"}),
    "tests.nets": ("py_library", set(), {"keras"}),
    "tests.reader_test": (
        "py_test",
        {":tests.conftest", ":tests.nets", ":tfmot_pam.graph.reader"},
        {"pytest"},
    ),
    "tests.tree_test": ("py_test", {":tests.conftest", ":tools.build_file"}, {"pytest"}),
    "tools.build_file": ("py_library", set(), set()),
}


@pytest.fixture
def small_tree(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, source in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source, encoding="utf-8")
    return tmp_path


def test_generator_reads_every_kind_of_import(small_tree):
    parsed = parse(build_file.build_text(small_tree))
    found = {name: (rule, *deps(attributes)) for name, (rule, attributes) in parsed.items()}
    assert found == EXPECTED


def test_generator_names_the_data_files(small_tree):
    parsed = parse(build_file.build_text(small_tree))
    data = {
        name: ast.literal_eval(attributes["data"])
        for name, (_, attributes) in parsed.items()
        if "data" in attributes
    }
    assert data == {
        "examples.demo": [":example_data"],
        "tests.reader_test": ["pyproject.toml"],
        "tests.tree_test": [":repository"],
    }
