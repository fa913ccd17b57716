"""Checkpoints of a compression: one folder a round, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tflite_export import json_files
from tfmot_pam.graph.network import MaybeNone
from tfmot_pam.pipeline.identity import digest

_MODEL, _STATE = "model.keras", "state.json"
_PREFIX = "round-"

_CONTENT = json_files.record(
    {
        "identity": json_files.table(json_files.text),
        "sha256": json_files.text,
        "state": json_files.table(json_files.anything),
    },
    {"state_sha256": json_files.text},
)


class Checkpoints:
    """The rounds that are kept in a directory, or nowhere.

    Args:
        directory: Where to keep them; None keeps none.
        identity: What a compression is of: digests by name. Checkpoints of another one are refused.
        check: Raises ValueError unless the states of rounds, in order, are those of a search.
            None takes any.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        identity: Mapping[str, str],
        check: Callable[[Sequence[Any]], None] | None = None,
    ):
        self._check = check
        self._directory: pathlib.Path | MaybeNone
        self._directory = None if directory is None else pathlib.Path(directory)
        self._identity = dict(identity)

    @property
    def kept(self) -> bool:
        """Whether rounds are kept at all."""
        return self._directory is not None

    def save(self, number: int, state: Mapping[str, Any], model: keras.Model) -> None:
        """Writes a round: first under another name, then renamed in one step.

        Raises:
            OSError: the round cannot be written; earlier rounds are untouched.
        """
        if self._directory is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            scratch = pathlib.Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self._directory))
            try:
                self._write(scratch, state, model)
                scratch.rename(self._path(number))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Round {number} could not be saved in '{self._directory}' ({error.strerror}). The "
                "rounds before it are whole: make room and call compress() again to go on from "
                "them.",
            ) from error

    def _write(self, folder: pathlib.Path, state: Mapping[str, Any], model: keras.Model) -> None:
        path = folder / _MODEL
        try:
            model.save(path)
        except (RuntimeError, ValueError) as error:
            # HDF5 reports a full disk in its own way.
            raise OSError(getattr(error, "errno", None) or 28, str(error)) from error
        content = {
            "identity": self._identity,
            "sha256": _digest(path),
            "state_sha256": _state_digest(state),
            "state": dict(state),
        }
        with open(folder / _STATE, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())

    def states(self) -> list[dict[str, Any]]:
        """The states of all complete rounds, in order.

        Warns of a round that is damaged, and takes it and those after it away.

        Raises:
            ValueError: the directory holds something else, or rounds of another compression.
        """
        if self._directory is None or not self._directory.exists():
            return []
        self._check_directory()
        found: list[dict[str, Any]] = []
        folders = sorted(self._directory.glob(f"{_PREFIX}*"))
        for position, folder in enumerate(folders):
            content = self._read(folder, found) if folder == self._path(position) else None
            if content is None:
                warnings.warn(
                    f"The checkpoint '{folder}' is damaged and left out: compress() goes on from "
                    "the round before it.",
                    stacklevel=3,
                )
                for later in folders[position:]:
                    shutil.rmtree(later) if later.is_dir() else later.unlink()
                break
            self._check_identity(content["identity"])
            found.append(content["state"])
        return found

    def model(self, number: int) -> keras.Model:
        """The network of a round."""
        return keras.saving.load_model(self._path(number) / _MODEL, compile=False)

    def _check_directory(self) -> None:
        if not self._directory.is_dir():
            raise ValueError(
                f"'{self._directory}' is a file. Expected a directory for the checkpoints. Choose "
                "another name."
            )
        names = {entry.name for entry in self._directory.iterdir()}
        foreign = [n for n in sorted(names) if not n.startswith((_PREFIX, ".unfinished-"))]
        if foreign:
            raise ValueError(
                f"The directory '{self._directory}' holds {foreign[:5]}, which compress() did not "
                "write. Expected a new directory, or one with checkpoints. Choose another one."
            )
        for name in names:
            if name.startswith(".unfinished-"):
                shutil.rmtree(self._directory / name, ignore_errors=True)

    def _read(self, folder: pathlib.Path, before: Sequence[Any]) -> dict[str, Any] | None:
        """What a round's file says; None where it, or the network beside it, is damaged."""
        try:
            content = json_files.read(folder / _STATE)
            _CONTENT(content, "the state")
            if content["sha256"] != _digest(folder / _MODEL):
                return None
            # Checkpoints written before states had a digest are read without it.
            if content.get("state_sha256") not in (None, _state_digest(content["state"])):
                return None
            if self._check is not None:
                self._check([*before, content["state"]])
        except (OSError, ValueError):
            return None
        return content

    def _check_identity(self, found: Mapping[str, str]) -> None:
        other = [name for name, digest in self._identity.items() if found.get(name) != digest]
        if other:
            raise ValueError(
                f"The checkpoints in '{self._directory}' belong to a compression with other "
                f"{' and '.join(other)}. Expected the same as before. Pass those, or choose "
                "another directory to start anew."
                + (
                    " A stream that is shuffled anew is other data each time: name it, "
                    "data_name='...'."
                    if "data" in other
                    else ""
                )
            )

    def _path(self, number: int) -> pathlib.Path:
        return self._directory / f"{_PREFIX}{number:04d}"


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(file.read()).hexdigest()
        )


def _state_digest(state: Mapping[str, Any]) -> str:
    """A digest of what JSON keeps of a state."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def folder_name(label: str) -> str:
    """A name for a folder; labels that differ in other characters alone stay apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", label)
    return plain if plain == label else f"{plain}-{digest(label)[:8]}"
