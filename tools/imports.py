"""What the Python files of this repository import, read from their sources."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import sys
from collections.abc import Iterator

from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "examples", "tests", "tflite_export", "tfmot_pam", "tools")
# Import names whose distribution is not simply the same name with dashes.
DISTRIBUTIONS = {"absl": "absl-py"}


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


def read_modules(root: pathlib.Path) -> dict[str, Module]:
    """Parses every Python file of the repository.

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
    """Names what one file imports, within functions too; what only type checkers see is left out.

    Args:
        module: The file.
        modules: All files of the repository by dotted name.

    Returns:
        Dotted names of the repository's own modules, and names of third-party distributions, each
        sorted and without the standard library.
    """
    own, third_party = set(), set()
    for name in _imported_names(module):
        target = _own_module(name, modules)
        top = name.partition(".")[0]
        if target is not None:
            own.add(target)
        elif top not in sys.stdlib_module_names:
            third_party.add(DISTRIBUTIONS.get(top, canonicalize_name(top)))
    return sorted(own - {module.name}), sorted(third_party)


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
        elif isinstance(node, ast.ImportFrom):  # Relative ones are banned.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_module(name: str, modules: dict[str, Module]) -> str | None:
    """Finds the longest part of a dotted name that is a module of the repository."""
    parts = name.split(".")
    candidates = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((candidate for candidate in candidates if candidate in modules), None)
