"""Joins TFLite files into one in which equal parts are stored once.

Each signature of a file has a subgraph of its own, and the subgraphs of overlapping combinations
consist of equal parts for the most part: weights, tensors, quantisation parameters, operators.
The format refers to parts by offset, so equal ones may be one; converters share weights at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_ALIGNMENT = 16  # the format's for the contents of buffers
LIMIT = 2**31 - 2**20  # of the format's offsets, less room for the tables
_RUNTIME_VERSION = b"min_runtime_version"


def pack(contents: Sequence[bytes]) -> bytes:
    """Joins TFLite files into one with all of their signatures and equal parts stored once.

    Use it on files of the converter, or on a single one to make it smaller. What a signature
    computes stays the same, bit for bit. A tensor that is named after all operations fused into
    it keeps the first of these names.

    Args:
        contents: The files, whose signatures have different names.

    Returns:
        The contents of the joined file; its signatures are in the order of `contents`.

    Raises:
        ValueError: A signature's name occurs twice, or there are more than 2 GB of weights.

    Source: https://flatbuffers.dev/internals (several offsets may point to one table or vector).

    Example:
    >>> files = [pathlib.Path(name).read_bytes() for name in names]  # doctest: +SKIP
    >>> len(pack(files)) < sum(map(len, files))  # doctest: +SKIP
    True
    """
    model, *others = map(_load, contents)
    for other in others:
        _append(model, other)
    keys = [definition.signatureKey.decode() for definition in model.signatureDefs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"Signatures must have different names. Received: {keys}. Rename them.")
    _keep_used_buffers(model)
    if sum(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers) > LIMIT:
        raise ValueError("More than 2 GB of weights cannot be packed. Export fewer combinations.")
    _share_tables(model)
    builder = _sharing_builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _load(content: bytes) -> Any:
    """Reads a file into objects, buffers that lie behind the tables included."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def _append(model: Any, other: Any) -> None:
    """Adds the subgraphs and signatures of `other` to `model`; equal operator codes are one."""
    known = {_key(code): index for index, code in enumerate(model.operatorCodes)}
    codes = []
    for code in other.operatorCodes:
        codes.append(known.setdefault(_key(code), len(known)))
        if codes[-1] == len(model.operatorCodes):
            model.operatorCodes.append(code)
    for graph in other.subgraphs:
        for options, field in _called_subgraphs(graph):
            setattr(options, field, getattr(options, field) + len(model.subgraphs))
        for operator in graph.operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]
        for tensor in graph.tensors:
            tensor.buffer += len(model.buffers)
    for definition in other.signatureDefs:
        definition.subgraphIndex += len(model.subgraphs)
    _raise_runtime_version(model, other)
    model.subgraphs += other.subgraphs
    model.signatureDefs += other.signatureDefs
    model.buffers += other.buffers


def _called_subgraphs(graph: Any) -> list[tuple[Any, str]]:
    """The places where operators such as WHILE and IF name the subgraphs that they run."""
    options = [
        given
        for operator in graph.operators
        for given in (operator.builtinOptions, operator.builtinOptions2)
        if given is not None
    ]
    return [
        (given, field)
        for given in options
        for field in vars(given)
        if (field == "subgraph" or field.endswith("SubgraphIndex")) and getattr(given, field) >= 0
    ]


def _raise_runtime_version(model: Any, other: Any) -> None:
    """Lets `model` ask for the newer of two runtimes."""
    buffers = [
        source.buffers[metadata.buffer]
        for source in (model, other)
        for metadata in source.metadata or ()
        if metadata.name == _RUNTIME_VERSION
    ]
    if len(buffers) == 2:
        buffers[0].data = max((buffer.data for buffer in buffers), key=_version)


def _version(data: np.ndarray) -> tuple[int, ...]:
    text = bytes(data).rstrip(b"\0").decode()
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))


def _keep_used_buffers(model: Any) -> None:
    """Keeps one of several equal buffers, none that nothing reads, and buffer 0 for emptiness."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    kept = [model.buffers[0]]
    positions: dict[bytes, int] = {b"": 0}
    for owner in [*tensors, *(model.metadata or ())]:
        buffer = model.buffers[owner.buffer]
        content = b"" if buffer.data is None else bytes(buffer.data)
        if content not in positions:
            positions[content] = len(kept)
            kept.append(buffer)
        owner.buffer = positions[content]
    model.buffers = kept


def _share_tables(model: Any) -> None:
    shared: dict[Any, _Once] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = (tensor.name or b"").split(b";")[0]
            tensor.quantization = _once(_given(tensor.quantization), shared)
        graph.tensors = [_once(tensor, shared) for tensor in graph.tensors]
        for operator in graph.operators:
            operator.builtinOptions = _once(operator.builtinOptions, shared)
        graph.operators = [_once(operator, shared) for operator in graph.operators]


class _Once:
    """Packs a table when it is first needed and returns the same place ever after."""

    def __init__(self, table: Any):
        self._table = table
        self._offset: int | None = None

    def Pack(self, builder: Any) -> int:
        if self._offset is None:
            self._offset = self._table.Pack(builder)
        return self._offset


def _once(table: Any, shared: dict[Any, _Once]) -> _Once | None:
    return None if table is None else shared.setdefault(_key(table), _Once(table))


def _given(quantization: Any) -> Any:
    """Returns None in place of quantisation parameters that hold none."""
    fields = () if quantization is None else ("min", "max", "scale", "zeroPoint", "details")
    given = any(getattr(quantization, field) is not None for field in fields)
    return quantization if given else None


def _key(value: Any) -> Any:
    """A key that two tables share exactly if they are written with the same bytes."""
    if isinstance(value, _Once):
        return id(value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    if hasattr(value, "__dict__"):
        return type(value).__name__, tuple((name, _key(item)) for name, item in vars(value).items())
    return value


def _sharing_builder() -> Any:
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        """A builder that writes equal strings and arrays once."""

        def __init__(self) -> None:
            super().__init__(1 << 20)
            self._places: dict[Any, int] = {}

        def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:
            key = s.encode(encoding, errors) if isinstance(s, str) else bytes(s)
            if key not in self._places:
                self._places[key] = super().CreateString(key)
            return self._places[key]

        def CreateNumpyVector(self, x: np.ndarray) -> int:
            key = _key(x)
            if key not in self._places:
                if x.dtype == np.uint8:
                    self.Prep(_ALIGNMENT, x.size)
                self._places[key] = super().CreateNumpyVector(x)
            return self._places[key]

    return SharingBuilder()
