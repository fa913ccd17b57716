"""What a compression is of, as digests: checkpoints belong to exactly one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfmot_pam.data import Samples
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.plan import fingerprint


def identity(
    originals: Mapping[str, keras.Model],
    training: Samples,
    validation: Samples,
    options: Mapping[str, Any],
    data_name: str | None = None,
) -> dict[str, str]:
    """Digests by name: of the models, the data or its name, and the options.

    Functions count by their code and what they close over, objects by their configuration.
    """
    models = {task: fingerprint(read(model)) for task, model in originals.items()}
    return {
        "models": digest(models),
        "data": digest(
            [_samples(training), _samples(validation)] if data_name is None else ["name", data_name]
        ),
        "options": digest(options),
    }


def digest(value: Any) -> str:
    """A digest that is equal in every process for equal values."""
    return hashlib.sha256(json.dumps(described(value)).encode()).hexdigest()


def described(value: Any) -> Any:
    """Plain data that tells values apart: contents, configurations, code."""
    if isinstance(value, Mapping):
        return [[described(key), described(entry)] for key, entry in value.items()]
    if isinstance(value, (list, tuple)):
        return [described(entry) for entry in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        return [str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, types.CodeType):
        return [value.co_code.hex(), list(value.co_names), described(value.co_consts)]
    if isinstance(value, types.FunctionType):
        closed = [cell.cell_contents for cell in value.__closure__ or ()]
        return [described(value.__code__), described(value.__defaults__), described(closed)]
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return [name, [[f.name, described(getattr(value, f.name))] for f in fields]]
    if hasattr(value, "get_config"):
        return [name, described(value.get_config())]
    if hasattr(value, "__func__"):
        return [name, described(value.__func__), described(value.__self__)]
    return [name, described(getattr(value, "__dict__", {}))]


def _samples(samples: Samples) -> Any:
    return [
        [task, own.x, own.y, *([] if own.weight is None else [own.weight])]
        for task, own in samples.by_head.items()
    ]
