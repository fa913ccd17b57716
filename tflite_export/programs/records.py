"""Samples in TFRecord files, of which a JSON file says what they hold."""

from __future__ import annotations

import glob
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflite_export import json_files
from tflite_export.programs.tables import decode_image

_GZIP = b"\x1f\x8b"
_ENTRY = json_files.record(
    {"feature": json_files.text, "kind": json_files.one_of("float", "int64", "image", "raw")},
    {
        "shape": json_files.many(json_files.whole),
        "dtype": json_files.one_of("uint8", "int8", "int16", "int32", "float16", "float32"),
    },
)
SPEC = json_files.table(_ENTRY, 1)


def read_records(
    pattern: str,
    spec: str | None,
    inputs: Mapping[str, tuple[int | None, ...]],
    pixel_range: tuple[float, float],
) -> dict[str, np.ndarray]:
    """Reads `tf.train.Example` records into arrays, in the order of the files' names.

    The JSON file has an entry for each array, by the names that arrays have in `.npz` files:
    `{"x": {"feature": "image/encoded", "kind": "image"}, "digit": {"feature": "label", "kind":
    "int64"}}`. A kind is `float` or `int64` (numbers, `shape` if there are several), `image` (an
    encoded image, resized to `shape` or to what the models take) or `raw` (the bytes of an array,
    with `dtype` and `shape`).

    Args:
        pattern: The files, compressed by gzip or not.
        spec: The JSON file.
        inputs: Shapes of the models' inputs by name, without the samples' axis.
        pixel_range: What the values 0 and 255 of an image become.

    Raises:
        ValueError: there are no such files, the JSON file is missing or of another form, or a
            record does not hold what it says.
    """
    import tensorflow as tf

    if spec is None:
        raise ValueError(
            f"'{pattern}' are records, but nothing says what is in them. Pass --data_spec, a JSON "
            'file such as {"x": {"feature": "image", "kind": "image"}, "digit": {"feature": '
            '"label", "kind": "int64"}}.'
        )
    entries = _specified(spec)
    files = sorted(path for path in glob.glob(pattern) if pathlib.Path(path).is_file())
    if not files:
        raise ValueError(f"No file is named like '{pattern}'. Check the path of the records.")
    features = {entry["feature"]: _feature(entry) for entry in entries.values()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in entries}
    for path in files:
        with open(path, "rb") as file:
            kind = "GZIP" if file.read(2) == _GZIP else ""
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(path, kind)):
                where = f"record {number} of '{path}'"
                example = tf.io.parse_single_example(record, features)
                for name, entry in entries.items():
                    shape = tuple(entry.get("shape", inputs.get(name, ())))
                    value = example[entry["feature"]].numpy()
                    place = entry, shape, pixel_range, where
                    found[name].append(_KINDS[entry["kind"]](value, place))
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
            raise ValueError(
                f"'{path}' does not hold what '{spec}' says ({error.message}). Expected the "
                f"features {sorted(features)} in every record. Correct one of the two."
            ) from error
    if not all(found.values()):
        raise ValueError(f"'{pattern}' holds no records. Expected at least one sample.")
    return {name: np.stack(values) for name, values in found.items()}


def _specified(path: str) -> dict[str, Any]:
    """What the JSON file says, checked."""
    try:
        entries = json_files.read(path)
        SPEC(entries, "it")
    except ValueError as error:
        raise ValueError(
            f"'{path}' does not say what records hold: {error}. Expected an object with "
            '"feature" and "kind" for each array. Correct it.'
        ) from error
    return entries


def _feature(entry: Mapping[str, Any]) -> Any:
    import tensorflow as tf

    kinds = {"float": tf.float32, "int64": tf.int64}
    shape = entry.get("shape", []) if entry["kind"] in kinds else []
    return tf.io.FixedLenFeature(shape, kinds.get(entry["kind"], tf.string))


# What an array holds, as the JSON file says; its shape; the values of pixels; where it is.
_Place = tuple[Mapping[str, Any], tuple[Any, ...], tuple[float, float], str]


def _value(value: Any, place: _Place) -> np.ndarray:
    del place
    return np.asarray(value)


def _image(value: bytes, place: _Place) -> np.ndarray:
    return decode_image(value, *place[1:])


def _raw(value: bytes, place: _Place) -> np.ndarray:
    entry, shape, _, where = place
    kind = np.dtype(entry.get("dtype", "float32"))
    if None in shape or len(value) != kind.itemsize * math.prod(shape):
        raise ValueError(
            f"The feature {entry['feature']!r} in {where} has {len(value)} bytes. Expected an "
            f"array of type {kind} and shape {shape}. Give `dtype` and `shape` as it was written."
        )
    return np.frombuffer(value, kind.newbyteorder("<")).astype(kind).reshape(shape)


_KINDS: dict[str, Callable[[Any, _Place], np.ndarray]] = {
    "float": _value,
    "int64": _value,
    "image": _image,
    "raw": _raw,
}
