"""Writes a folder as a whole or not at all."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from tflite_export import manifest


@contextlib.contextmanager
def whole_folder(directory: str | pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """Gives an empty folder that takes the place of `directory` when the block succeeds.

    The block writes into a hidden folder on the same file system, which is renamed at the end.
    When the block fails or the process is killed, `directory` is as it was before.

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
        scratch = tempfile.TemporaryDirectory(prefix=".tflite_export-", dir=base)
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
    present = {entry.name for entry in target.iterdir()}
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


def _put_in_place(staging: pathlib.Path, target: pathlib.Path, old: pathlib.Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(old)
        try:
            staging.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise ValueError(
            f"Cannot put the finished folder at '{target}' ({error.strerror}). Nothing was "
            "exported. Choose a directory that can be renamed, such as a new one below it."
        ) from error
