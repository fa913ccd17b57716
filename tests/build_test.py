"""BUILD agrees with the tree and its imports, which go round in no circle; modules are short."""

from __future__ import annotations

import dataclasses
import graphlib
import pathlib

import pytest
from packaging.requirements import Requirement

from tools.imports import FOLDERS, ROOT, Module, dependencies, read_modules
from tools.lock_file import LOCK

# Backends of Keras besides TensorFlow: nothing depends on them, and no lock file has them.
OF_USERS = {"jax", "torch"}


@dataclasses.dataclass(frozen=True)
class Target:
    """A target of BUILD: its files, and the names of what it depends on."""

    rule: str
    files: frozenset[str]
    own: frozenset[str]
    third_party: frozenset[str]


def _glob(patterns, exclude=()):
    def found(names):
        return {f.relative_to(ROOT).as_posix() for name in names for f in ROOT.glob(name)}

    return sorted(found(patterns) - found(exclude))


_PYTHON = _glob([f"{folder}/**/*.py" for folder in FOLDERS])


@pytest.fixture(scope="module")
def targets() -> dict[str, Target]:
    """The targets by name: BUILD is valid Python, whose functions are given here."""
    made: dict[str, Target] = {}

    def rule(kind):
        def make(name, srcs, deps=(), data=(), main=None, **_):
            assert name not in made, f"BUILD names {name} twice"
            own = {label for label in deps if isinstance(label, str)}
            third_party = {label[0] for label in deps if not isinstance(label, str)}
            assert [f for f in (*srcs, *data) if f[0] != ":" and not (ROOT / f).is_file()] == []
            assert main is None or main in srcs
            made[name] = Target(kind, frozenset(srcs), frozenset(own), frozenset(third_party))

        return make

    names = {kind: rule(kind) for kind in ("py_library", "py_binary", "py_test")}
    ignored = ("load", "package", "exports_files", "filegroup")
    names |= dict.fromkeys(ignored, lambda *args, **kwargs: None)
    names |= {"glob": _glob, "requirement": lambda name: (name,)}
    exec((ROOT / "BUILD").read_text(encoding="utf-8"), names)
    return made


@pytest.fixture(scope="module")
def libraries(targets) -> dict[str, Target]:
    return {name: target for name, target in targets.items() if target.rule == "py_library"}


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return read_modules(ROOT)


def test_every_python_file_is_in_one_library(libraries, modules):
    files = [file for target in libraries.values() for file in target.files]
    assert sorted(files) == sorted(module.path for module in modules.values())


def test_every_test_and_every_program_is_a_target(targets):
    tests = {file for t in targets.values() if t.rule == "py_test" for file in t.files}
    assert tests - {"tools/pytest_main.py"} == set(_glob(["tests/*_test.py"]))
    programs = {name for name, target in targets.items() if target.rule == "py_binary"}
    assert programs == {"tfmot-pam", "tflite-export", "tflite-benchmark"}


def test_dependencies_are_what_the_files_import(libraries, modules):
    room = {file: name for name, target in libraries.items() for file in target.files}
    for name, target in libraries.items():
        own, third_party = set(), set()
        for module in modules.values():
            if module.path in target.files:
                found = dependencies(module, modules)
                own |= {room[modules[other].path] for other in found[0]}
                third_party |= set(found[1])
        assert target.own == own - {name}, name
        assert target.third_party == third_party - OF_USERS, name


def test_no_room_depends_on_itself(libraries):
    graph = {name: target.own for name, target in libraries.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_no_module_imports_itself_by_way_of_others(modules):
    graph = {name: set(dependencies(module, modules)[0]) for name, module in modules.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_module_is_longer_than_400_lines():
    lengths = {name: len((ROOT / name).read_bytes().splitlines()) for name in _PYTHON}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_labels_and_requirements_exist(targets):
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    locked = {Requirement(line).name for line in lines if not line.startswith("#")}
    for name, target in targets.items():
        assert target.own <= targets.keys(), name
        assert target.third_party <= locked, name


SOURCES = {
    "tfmot_pam/__init__.py": "from tfmot_pam.graph import read\n",
    "tfmot_pam/graph/__init__.py": "from tfmot_pam.graph.reader import read\n",
    "tfmot_pam/graph/reader.py": (
        "from __future__ import annotations\n"
        "import os.path\n"
        "from typing import TYPE_CHECKING\n"
        "import numpy as np\n"
        "if TYPE_CHECKING:\n"
        "    import scipy\n"
        "    from tfmot_pam.task_group import TaskGroup\n"
        "else:\n"
        "    import absl.flags\n"
        "def read(model):\n"
        "    import tf_keras\n"
        "    from tfmot_pam.graph import network\n"
    ),
    "tfmot_pam/graph/network.py": "",
    "tfmot_pam/task_group.py": "",
}


def test_every_kind_of_import_is_read(tmp_path: pathlib.Path):
    for name, source in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source, encoding="utf-8")
    modules = read_modules(tmp_path)
    assert set(modules) == {
        *("tfmot_pam", "tfmot_pam.graph", "tfmot_pam.graph.reader"),
        *("tfmot_pam.graph.network", "tfmot_pam.task_group"),
    }
    found = dependencies(modules["tfmot_pam.graph.reader"], modules)
    assert found == (["tfmot_pam.graph.network"], ["absl-py", "numpy", "tf-keras"])
    assert dependencies(modules["tfmot_pam"], modules) == (["tfmot_pam.graph"], [])
