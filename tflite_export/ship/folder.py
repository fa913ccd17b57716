"""Writes a folder as a whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from tflite_export.ship import manifest

# Constants of the two systems' calls that let two names change places in one step.
_LINUX_CWD, _LINUX_EXCHANGE = -100, 2
_MACOS_SWAP = 2

_SCRATCH = ".tflite_export-"


@contextlib.contextmanager
def whole_folder(directory: str | pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """Gives an empty folder that takes the place of `directory` when the block succeeds.

    The block writes into a hidden folder on the same file system, which is renamed at the end, or
    changes places with an old folder. When the block fails or the process is killed, at whatever
    moment, `directory` is either as it was before or as it is afterwards. Only where the system
    cannot exchange two folders (Windows, some network file systems) is there a moment between
    two renames in which it is missing, and the old one is `old` in the hidden folder.

    Args:
        directory: Where the files shall be. Missing parents are made.
        overwrite: Whether the folder of an earlier export may be replaced.

    Yields:
        The folder to write into.

    Raises:
        ValueError: `directory` is taken (see `check_target`) or cannot be written.
    """
    target = pathlib.Path(directory).resolve()
    check_target(target, overwrite)
    base = next(parent for parent in target.parents if parent.exists())
    try:
        scratch = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=base)
    except OSError as error:
        raise ValueError(
            f"Cannot write into '{base}' ({error.strerror}). Received: directory='{directory}'. "
            "Choose a directory that you may write to."
        ) from error
    with scratch as hidden:
        staging = pathlib.Path(hidden, "new")
        staging.mkdir()
        yield staging
        check_target(target, overwrite)
        _put_in_place(staging, target, pathlib.Path(hidden, "old"))


def check_target(target: pathlib.Path, overwrite: bool) -> None:
    """Refuses a place where writing would destroy something.

    A missing or an empty directory is accepted. One that an earlier export wrote is accepted with
    `overwrite`, as long as it holds nothing but that export's files.

    Raises:
        ValueError: `target` is a file, a directory with files and `overwrite` is False, or a
            directory with files that no export wrote.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"'{target}' is a file; expected a directory. Choose another name.")
    # What a killed run left unfinished may go, too.
    present = {e.name for e in target.iterdir() if not e.name.startswith(_SCRATCH)}
    if present and not overwrite:
        raise ValueError(
            f"The directory '{target}' exists and is not empty. Choose another one, or pass "
            "overwrite=True to replace it."
        )
    foreign = sorted(present - manifest.listed_names(target))
    if foreign:
        raise ValueError(
            f"The directory '{target}' holds {foreign[:5]}, which no export wrote and which "
            "overwrite=True would delete. Move them away or choose another directory."
        )


def replace_file(path: pathlib.Path, text: str) -> None:
    """Writes a text file so that its name always leads to the whole old or the whole new text."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=_SCRATCH, delete=False, encoding="utf-8"
    ) as file:
        temporary = pathlib.Path(file.name)
        file.write(text)
    try:
        # Temporary files are private to the user, which the old one was not.
        temporary.chmod(path.stat().st_mode if path.exists() else 0o644)
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise


def _put_in_place(staging: pathlib.Path, target: pathlib.Path, old: pathlib.Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            staging.rename(target)
        elif not _exchange(staging, target):
            _rename_twice(staging, target, old)
    except OSError as error:
        raise ValueError(
            f"Cannot put the finished folder at '{target}' ({error.strerror}). Nothing was "
            "exported. Choose a directory that can be renamed, such as a new one below it."
        ) from error


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Lets two folders change places in one step; returns False where the system cannot."""
    if os.name != "posix":
        return False
    paths = os.fsencode(one), os.fsencode(other)
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform.startswith("linux") and hasattr(library, "renameat2"):
        failed = library.renameat2(_LINUX_CWD, paths[0], _LINUX_CWD, paths[1], _LINUX_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*paths, _MACOS_SWAP)
    else:
        return False
    return not failed


def _rename_twice(staging: pathlib.Path, target: pathlib.Path, old: pathlib.Path) -> None:
    target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        old.rename(target)
        raise
