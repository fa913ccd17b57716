"""A table of labels and of the images that they belong to, as a `.csv` file."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

IMAGE_AXES = 3
_FILE = "file"


def read_table(
    path: pathlib.Path,
    inputs: Mapping[str, tuple[int | None, ...]],
    pixel_range: tuple[float, float],
) -> dict[str, np.ndarray]:
    """Reads a table with a row a sample, by its columns.

    The column `file`, or one named like an image input, has paths of images beside the table.
    Others hold numbers: class indices, values, or parts of a vector in the columns `name.0`,
    `name.1` ... An empty cell is a label that does not count.

    Args:
        path: A `.csv` file whose first row has the names of the columns.
        inputs: Shapes of the models' inputs by name, without the samples' axis.
        pixel_range: What the values 0 and 255 of an image become.

    Raises:
        ValueError: the table is empty or has rows of other lengths; a cell is no number; an image
            cannot be read, or the size it is to have is not known.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if len(rows) < 2:
        raise ValueError(
            f"'{path}' has {len(rows)} rows. Expected the columns' names and a row a sample."
        )
    names, cells = rows[0], rows[1:]
    for number, row in enumerate(cells, start=2):
        if len(row) != len(names):
            raise ValueError(
                f"Row {number} of '{path}' has {len(row)} cells; the first row names "
                f"{len(names)}: {names}. Quote cells that hold commas."
            )
    if len(set(names)) != len(names):
        raise ValueError(f"'{path}' has columns of one name: {names}. Rename them.")
    columns = {name: [row[place].strip() for row in cells] for place, name in enumerate(names)}
    if _FILE in columns and len(inputs) == 1:
        columns = {**{next(iter(inputs)): columns.pop(_FILE)}, **columns}
    found: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        shape = inputs.get(name)
        if shape is not None and len(shape) == IMAGE_AXES:
            found[name] = _images(path, values, shape, pixel_range)
        else:
            found[name] = _numbers(path, name, values)
    return _vectors(found)


def _images(
    table: pathlib.Path,
    files: Sequence[str],
    shape: tuple[int | None, ...],
    pixel_range: tuple[float, float],
) -> np.ndarray:
    images = []
    for name in files:
        path = table.parent / name
        if not path.is_file():
            raise ValueError(
                f"There is no image '{path}', which '{table}' names. Paths are those from the "
                "table's folder on."
            )
        images.append(decode_image(path.read_bytes(), shape, pixel_range, str(path)))
    return np.stack(images)


def decode_image(
    content: bytes,
    shape: tuple[int | None, ...],
    pixel_range: tuple[float, float],
    where: str,
) -> np.ndarray:
    """An image of the size that a model takes, its values in `pixel_range`.

    Args:
        content: A JPEG, PNG, BMP or GIF file.
        shape: Height, width and channels.
        pixel_range: What the values 0 and 255 become.
        where: Names it in errors.

    Raises:
        ValueError: it is no image, or the size is not known.
    """
    import tensorflow as tf

    if len(shape) != IMAGE_AXES or None in shape:
        raise ValueError(
            f"The models take inputs of the shape {shape}; images need a height, a width and "
            "channels that are known. Pass arrays of one size in a .npz file."
        )
    height, width, channels = shape
    try:
        image = tf.io.decode_image(content, channels=channels, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"'{where}' is no image of {channels} channels ({error.message}). Pass JPEG, PNG, BMP "
            "or GIF files."
        ) from error
    if image.shape[:2] != (height, width):
        image = tf.image.resize(image, (height, width), antialias=True)
    low, high = pixel_range
    return (np.asarray(image, "float32") * ((high - low) / 255.0) + low).astype("float32")


def _numbers(path: pathlib.Path, name: str, values: Sequence[str]) -> np.ndarray:
    """Whole numbers as class indices, in which an empty cell is -1; others as reals, and NaN."""
    try:
        try:
            return np.array([int(value) if value else -1 for value in values], "int64")
        except ValueError:
            return np.array([float(value) if value else math.nan for value in values], "float32")
    except ValueError as error:
        raise ValueError(
            f"The column {name!r} of '{path}' holds something else than numbers ({error}). Write "
            "classes as the indices that the model was trained with."
        ) from error


def _vectors(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns `name.0`, `name.1` ... as one array of vectors."""
    found: dict[str, np.ndarray] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}
    for name, values in columns.items():
        head, _, number = name.rpartition(".")
        if head and number.isdecimal():
            parts.setdefault(head, {})[int(number)] = values
        else:
            found[name] = values
    for head, own in parts.items():
        if sorted(own) != list(range(len(own))):
            raise ValueError(
                f"The parts of {head!r} are numbered {sorted(own)}. Expected {head}.0 to "
                f"{head}.{len(own) - 1}, each once."
            )
        found[head] = np.stack([own[place] for place in range(len(own))], axis=-1)
    return found
