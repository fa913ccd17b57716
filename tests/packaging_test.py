"""What setup.py promises, what the lock file pins and what is shipped agree."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools import lock_file
from tools.imports import dependencies, read_modules
from tools.lock_file import LOCK, PYTHON, ROOT

FEATURES = ("ai-edge-quantizer",)
EXTRAS = (*FEATURES, "test")  # What is locked; `docs` and `notebook` are not.
LOCKED_PYTHON = ".".join(map(str, PYTHON))
PACKAGES = ("tfmot_pam", "tflite_export")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel that pip builds from the tree, built from a copy so that the tree stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", command], cwd=folder, check=True, capture_output=True)
    (path,) = (folder / "dist").glob("*.whl")
    return zipfile.Path(path)


@pytest.fixture(scope="module")
def package(wheel) -> metadata.PathDistribution:
    (folder,) = (entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info"))
    return metadata.PathDistribution(folder)


@pytest.fixture(scope="module")
def requirements(package) -> dict[str, Requirement]:
    """Requirements by canonical name, those of the extras included."""
    parsed = [Requirement(text) for text in package.requires]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def applies(requirement: Requirement, extras: tuple[str, ...] = ("",)) -> bool:
    """Whether a requirement counts on the locked Python with one of the extras."""
    python = {"python_version": LOCKED_PYTHON, "python_full_version": f"{LOCKED_PYTHON}.0"}
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**python, "extra": extra}) for extra in extras)


def test_wheel_holds_the_two_packages_and_nothing_else(wheel):
    files = {name for name in wheel.root.namelist() if not name.endswith("/")}
    shipped = {name for name in files if ".dist-info/" not in name}
    modules = {module.path for module in read_modules(ROOT).values()}
    expected = {path for path in modules if path.startswith(tuple(f"{p}/" for p in PACKAGES))}
    data = {f"{package}/py.typed" for package in PACKAGES}
    assert shipped == expected | data | {"tfmot_pam/reporting/page.html.jinja"}


def test_wheel_holds_the_licence(package, wheel):
    (licence,) = (name for name in wheel.root.namelist() if name.endswith("/LICENSE"))
    assert wheel.root.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert package.metadata["License-Expression"] == "Apache-2.0"


def test_supported_pythons(package):
    admitted = SpecifierSet(package.metadata["Requires-Python"])
    minors = [minor for minor in range(20) if f"3.{minor}" in admitted]
    assert minors == [10, 11, 12, 13]


def test_every_requirement_has_a_lower_bound(requirements):
    bounds = {name: [s.operator for s in item.specifier] for name, item in requirements.items()}
    assert bounds == dict.fromkeys(requirements, [">="])


def test_every_import_of_the_packages_is_a_requirement(requirements):
    modules = read_modules(ROOT)
    imported = set()
    for module in modules.values():
        if module.path.startswith(PACKAGES):
            imported.update(dependencies(module, modules)[1])
    declared = {name for name, item in requirements.items() if applies(item, ("", *FEATURES))}
    # Keras' other backends are there where they run.
    imported -= {"jax", "torch"}
    assert {"keras", "numpy", "tensorflow"} <= imported <= declared


def test_command_line_programs_exist(package):
    scripts = package.entry_points.select(group="console_scripts")
    assert {script.name for script in scripts} == {
        *("tfmot-pam", "tflite-benchmark", "tflite-export")
    }
    assert all(callable(script.load()) for script in scripts)


def test_what_is_in_the_wheel_works_alone(wheel, tmp_path):
    """The README's first example and the programs, by the wheel's files and not the tree's."""
    wheel.root.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments):
        command = [sys.executable, *arguments]
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(command, check=False, **options)

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"## The first minute.*?```python\n(.*?)```", readme, re.DOTALL)[1]
    found = run("-c", f"{first}\nprint(tfmot_pam.__file__)")
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == str(tmp_path / "site" / "tfmot_pam" / "__init__.py")
    assert (tmp_path / "page.html").stat().st_size > 10_000
    for program in ("pam", "export", "benchmark"):
        assert "tf" in run("-m", f"tflite_export.programs.{program}", "--help").stdout


def test_lock_holds_exact_pins_only():
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    pin = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==[0-9][0-9a-z.+]*")
    assert [line for line in lines if not pin.fullmatch(line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))


def test_lock_satisfies_setup_py(requirements, pins):
    wanted = {name: item for name, item in requirements.items() if applies(item, ("", *EXTRAS))}
    documents = ("docs", "notebook")
    others = {name for name, item in requirements.items() if applies(item, documents)}
    assert wanted.keys() | others == requirements.keys()
    assert wanted.keys() <= pins.keys()
    broken = {n: pins[n] for n, item in wanted.items() if pins[n] not in item.specifier}
    assert broken == {}, "requirements.lock is out of date. Run: make lock"


def test_lock_is_complete_and_consistent(pins):
    if sys.version_info[:2] != PYTHON or metadata.version("tensorflow") != pins["tensorflow"]:
        pytest.skip("this environment was not installed from requirements.lock")
    locked = [
        item
        for item in metadata.distributions()
        if pins.get(canonicalize_name(item.name)) == item.version
    ]
    problems = []
    for item in locked:
        if LOCKED_PYTHON not in SpecifierSet(item.metadata["Requires-Python"] or ""):
            problems.append(f"{item.name} {item.version} does not admit Python {LOCKED_PYTHON}")
        for needed in filter(applies, map(Requirement, item.requires or ())):
            pin = pins.get(canonicalize_name(needed.name))
            if pin is None or pin not in needed.specifier:
                problems.append(f"{item.name} needs {needed}, and the lock has {pin}")
    assert problems == []


def test_lock_is_not_written_by_another_python(monkeypatch):
    monkeypatch.setattr(lock_file, "PYTHON", (3, 9))
    with pytest.raises(RuntimeError, match=r"for Python 3\.9, .* Run `make clean lock PYTHON="):
        lock_file.resolve()


def test_bazel_module_has_the_same_version_and_python(package):
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / "MODULE.bazel").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    arguments = [
        {item.arg: ast.literal_eval(item.value) for item in call.keywords} for call in calls
    ]
    (version,) = (item["version"] for item in arguments if item.get("name") == "tfmot_pam")
    pythons = [item["python_version"] for item in arguments if "python_version" in item]
    assert version == package.version
    assert pythons == [LOCKED_PYTHON, LOCKED_PYTHON]


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("make test")
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_data_is_complete_and_attributed():
    folder = ROOT / "examples" / "data"
    with np.load(folder / "fsdd_logmel_32.npz") as archive:
        shapes = {name: archive[name].shape for name in archive.files}
        meta = json.loads(str(archive["meta"]))
        labels = archive["y_train"], archive["y_test"]
    assert shapes == {
        "meta": (),
        "x_train": (2700, 32, 32),
        "y_train": (2700, 2),
        "x_test": (300, 32, 32),
        "y_test": (300, 2),
    }
    for split in labels:
        for column, task in enumerate(meta["columns"]):
            assert set(split[:, column]) == set(range(len(meta["classes"][task])))
    notice = (folder / "NOTICE.txt").read_text(encoding="utf-8")
    for fact in (meta["licence"], *meta["classes"]["speaker"], meta["source"].partition("@")[2]):
        assert fact in notice
