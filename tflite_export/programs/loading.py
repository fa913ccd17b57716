"""Loads saved models of either Keras."""

from __future__ import annotations

import json
import pathlib
import zipfile
from typing import Any

from tflite_export.silence import quiet_stderr


def load_model(path: str | pathlib.Path) -> Any:
    """Loads a saved model with the Keras that wrote it, not compiled.

    Args:
        path: A `.keras` or `.h5` file of Keras 3 or tf_keras. After quantisation aware training it
            must be an `.h5` file: the layers of TFMOT 0.8.1 do not load from `.keras` files.

    Returns:
        The model. One after quantisation aware training has TFMOT's layers.

    Raises:
        OSError: The file cannot be read.
        TypeError: Keras does not know a class in it.
        ValueError: There is no such file, or Keras cannot load it.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'. Pass a saved .keras or .h5 file.")
    with quiet_stderr():
        import keras

        import tfmot_pam

    if not _written_by(path).startswith("2."):
        return keras.saving.load_model(path, compile=False)
    import tf_keras

    try:
        with tfmot_pam.quantize_scope():
            return tf_keras.models.load_model(path, compile=False)
    except ValueError as error:
        if "quant" not in str(error):
            raise
        raise ValueError(
            f"'{path}' cannot be loaded ({error}). TFMOT's layers load from an .h5 file only, and "
            "those that preserve clusters from none: save an .h5 file, or call "
            "tflite_export.export in the program that trains the model."
        ) from error


def _written_by(path: pathlib.Path) -> str:
    """The version of Keras that wrote a file, empty where it does not say."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "metadata.json" not in archive.namelist():
                return ""
            return str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
    import h5py

    if not h5py.is_hdf5(path):
        return ""
    with h5py.File(path) as file:
        version = file.attrs.get("keras_version", "")
    return version.decode() if isinstance(version, bytes) else str(version)
