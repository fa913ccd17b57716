"""Writes BUILD: one Bazel target per Python file, its dependencies read from the file's imports.

Run as `python -m tools.build_file --write`; without the flag the text goes to the terminal.

A target is named like the module (`tfmot_pam.graph.network`). It depends on exactly what the file
itself imports, function-level imports included and `if TYPE_CHECKING:` left out. The `__init__.py`
files of the packages on the way to a module are targets of their own, and no dependency of it:
`tfmot_pam/__init__.py` imports the whole library, so every module would depend on itself.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import pathlib
import sys
from collections.abc import Iterator

from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "examples", "tests", "tflite_export", "tfmot_pam", "tools")
DATA_FOLDER = "examples/data"
TEST_MAIN = "tools/pytest_main.py"
# Import names whose distribution is not simply the same name with dashes.
DISTRIBUTIONS = {"absl": "absl-py"}

HEADER = f"""\
# Written by `python -m tools.build_file --write`; do not edit by hand.

load("@pip//:requirements.bzl", "requirement")
load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

exports_files(["LICENSE"])

filegroup(
    name = "example_data",
    srcs = glob(["{DATA_FOLDER}/*"]),
)

filegroup(
    name = "repository",
    srcs = glob(
        ["**"],
        exclude = [
            ".git/**",
            ".venv/**",
            "bazel-*/**",
            "build/**",
        ],
    ),
)
"""


@dataclasses.dataclass(frozen=True)
class Module:
    """One Python file of the repository.

    Attributes:
        path: Path from the repository root, with forward slashes.
        name: Dotted import name.
        tree: The parsed source.
    """

    path: str
    name: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """Dotted name that relative imports in this file start from."""
        return self.name if self.path.endswith("/__init__.py") else self.name.rpartition(".")[0]

    @property
    def rule(self) -> str:
        """The Bazel rule that builds this file."""
        if self.path.startswith("tests/") and self.path.endswith("_test.py"):
            return "py_test"
        return "py_binary" if _is_program(self.tree) else "py_library"


def read_modules(root: pathlib.Path) -> dict[str, Module]:
    """Parses every Python file below the folders that BUILD covers.

    Args:
        root: The repository root.

    Returns:
        Modules by dotted name, sorted by name.
    """
    modules = {}
    for path in sorted(file for folder in FOLDERS for file in root.glob(f"{folder}/**/*.py")):
        relative = path.relative_to(root)
        parts = relative.parent.parts if path.stem == "__init__" else relative.with_suffix("").parts
        name = ".".join(parts)
        modules[name] = Module(relative.as_posix(), name, ast.parse(path.read_bytes()))
    return dict(sorted(modules.items()))


def dependencies(module: Module, modules: dict[str, Module]) -> tuple[list[str], list[str]]:
    """Names what one file imports.

    Args:
        module: The file.
        modules: All files of the repository by dotted name.

    Returns:
        Dotted names of the repository's own modules, and names of third-party distributions, each
        sorted and without the standard library.
    """
    own, third_party = set(), set()
    for name in _imported_names(module):
        target = _own_module(name, module, modules)
        top = name.partition(".")[0]
        if target is not None:
            own.add(target)
        elif top not in sys.stdlib_module_names:
            third_party.add(DISTRIBUTIONS.get(top, canonicalize_name(top)))
    return sorted(own - {module.name}), sorted(third_party)


def build_text(root: pathlib.Path) -> str:
    """Builds the whole text of BUILD for the tree as it is.

    Args:
        root: The repository root.

    Returns:
        The text, ending in a newline.
    """
    modules = read_modules(root)
    data_files = {file.name for file in root.glob(f"{DATA_FOLDER}/*")}
    targets = [_target(module, modules, data_files) for module in modules.values()]
    return "\n".join([HEADER, *targets])


def _is_program(tree: ast.Module) -> bool:
    tests = (ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If))
    return any(test == "__name__ == '__main__'" for test in tests)


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walks a syntax tree, leaving out what only a type checker sees."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = iter(node.orelse)
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from _runtime_nodes(child)


def _imported_names(module: Module) -> Iterator[str]:
    """Yields absolute dotted names; `from a import b` gives `a.b`, be b a module or not."""
    for node in _runtime_nodes(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                package = module.package.split(".")
                base = package[: len(package) - node.level + 1] + base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def _own_module(name: str, module: Module, modules: dict[str, Module]) -> str | None:
    """Finds the longest part of a dotted name that is a module of the repository."""
    parts = name.split(".")
    for prefix in ("", module.name.rpartition(".")[0] + "."):
        for size in range(len(parts), 0, -1):
            candidate = prefix + ".".join(parts[:size])
            if candidate in modules:
                return candidate
        if not module.path.startswith(("benchmarks/", "examples/", "tests/")):
            break  # only scripts and tests have their own folder on the import path
    return None


def _data(module: Module, own: list[str], data_files: set[str]) -> list[str]:
    strings = [
        node.value
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    data = []
    if any(file in string for file in data_files for string in strings):
        data.append(":example_data")
    if module.path.startswith("tfmot_pam/"):
        beside = pathlib.PurePosixPath(module.path).parent
        data += [str(beside / string) for string in strings if string.endswith(".jinja")]
    if module.rule == "py_test":
        reads_tree = any(name.startswith("tools.") for name in own)
        data.append(":repository" if reads_tree else "pyproject.toml")
    return data


def _target(module: Module, modules: dict[str, Module], data_files: set[str]) -> str:
    own, third_party = dependencies(module, modules)
    data = _data(module, own, data_files)
    attributes: dict[str, object] = {"name": module.name, "srcs": [module.path]}
    if module.rule == "py_test":
        attributes |= {"srcs": [module.path, TEST_MAIN], "args": [module.path], "main": TEST_MAIN}
        own = sorted({*own, *({"tests.conftest"} & modules.keys())})
        third_party = sorted({*third_party, "pytest"})
    elif module.path.startswith("tests/"):
        attributes["testonly"] = True
    elif module.rule == "py_binary":
        attributes["main"] = module.path
    if data:
        attributes["data"] = data
    labels = [f'":{name}"' for name in own]
    labels += [f'requirement("{name}")' for name in third_party]
    lines = [f"    {key} = {_starlark(value)},\n" for key, value in attributes.items()]
    if labels:
        lines.append(f"    deps = {_list(labels)},\n")
    return f"{module.rule}(\n{''.join(lines)})\n"


def _starlark(value: object) -> str:
    if isinstance(value, list):
        return _list([f'"{item}"' for item in value])
    return f'"{value}"' if isinstance(value, str) else str(value)


def _list(items: list[str]) -> str:
    if len(items) == 1:
        return f"[{items[0]}]"
    return "[\n" + "".join(f"        {item},\n" for item in items) + "    ]"


def main() -> None:
    """Prints BUILD, or writes it with `--write`."""
    parser = argparse.ArgumentParser(description="Generate BUILD from the Python sources.")
    parser.add_argument("--write", action="store_true", help="write BUILD")
    write = parser.parse_args().write
    text = build_text(ROOT)
    if write:
        (ROOT / "BUILD").write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
