"""Tests of joining TFLite files: same outputs, equal parts once, subgraphs of loops included."""

import keras
import numpy as np
import pytest
from keras import layers

from tflite_export import verify
from tflite_export.compile import converter, packing
from tflite_export.compile.quantization import QUANTIZATIONS


def _file(network, signature):
    return converter.convert(network, signature, QUANTIZATIONS["none"])


@pytest.fixture(scope="module")
def loops():
    """Two networks with a recurrent layer, which TFLite runs as a loop of two more subgraphs."""
    keras.utils.set_random_seed(0)
    series = keras.Input((5, 3), name="series")
    hidden = layers.GRU(4)(series)
    heads = {"mood": layers.Dense(2)(hidden), "age": layers.Dense(1)(layers.GRU(6)(series))}
    return {task: keras.Model(series, {task: head}) for task, head in heads.items()}


def test_joined_file_computes_what_its_files_compute(loops, tmp_path):
    files = {task: _file(network, task) for task, network in loops.items()}
    joined = tmp_path / "joined.tflite"
    joined.write_bytes(packing.pack(list(files.values())))
    x = np.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32")
    assert list(verify.describe_file(joined)) == ["mood", "age"]
    for task, content in files.items():
        alone = tmp_path / f"{task}.tflite"
        alone.write_bytes(content)
        expected = verify.run_file(alone, {"series": x})[task]
        np.testing.assert_array_equal(verify.run_file(joined, {"series": x}, task)[task], expected)
        np.testing.assert_allclose(expected, loops[task](x)[task], atol=1e-5)


def test_loops_are_really_called_subgraphs(loops):
    from ai_edge_litert.tools import flatbuffer_utils

    joined = packing.pack([_file(network, task) for task, network in loops.items()])
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(joined))
    assert len(model.subgraphs) > len(model.signatureDefs) == 2
    called = [
        getattr(options, field)
        for graph in model.subgraphs
        for options, field in packing._called_subgraphs(graph)
    ]
    first = {definition.subgraphIndex for definition in model.signatureDefs}
    assert sorted([*called, *first]) == list(range(len(model.subgraphs)))


def test_equal_parts_are_stored_once_and_aligned():
    from ai_edge_litert.tools import flatbuffer_utils

    keras.utils.set_random_seed(0)
    signal = keras.Input((64,), name="signal")
    output = layers.Dense(64, bias_initializer="random_normal")(signal)
    network = keras.Model(signal, {"digit": output}, name="network")
    files = [_file(network, name) for name in "abcdefgh"]
    single, joined = packing.pack(files[:1]), packing.pack(files)
    assert len(single) <= len(files[0])
    assert len(joined) - len(single) < 7 * 500
    assert packing.pack([joined]) == joined
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(joined))
    contents = [bytes(buffer.data) for buffer in model.buffers if buffer.data is not None]
    assert len(contents) == len(set(contents))
    assert all(joined.index(content) % 16 == 0 for content in contents if len(content) > 64)


def test_names_that_occur_twice(loops):
    content = _file(loops["age"], "age")
    with pytest.raises(ValueError, match=r"different names. Received: \['age', 'age'\]"):
        packing.pack([content, content])


def _with_buffers_behind(content):
    """The same file in the form of very large ones: weights lie behind the tables."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    moved = {i: bytes(b.data) for i, b in enumerate(model.buffers) if b.data is not None}
    for index in moved:
        model.buffers[index].data = None
        # Anything but zero, so that the fields are written.
        model.buffers[index].offset = model.buffers[index].size = 1
    whole = bytearray(flatbuffer_utils.convert_object_to_bytearray(model))
    for index, data in moved.items():
        whole += bytes(-len(whole) % 16)
        packed = flatbuffer_utils.Model.GetRootAs(whole, 0).Buffers(index)
        flatbuffer_utils.update_packed_buffer(packed, offset=len(whole), size=len(data))
        del packed
        whole += data
    return bytes(whole)


def test_buffers_behind_the_tables_are_read(loops):
    files = [_file(network, task) for task, network in loops.items()]
    moved = [_with_buffers_behind(content) for content in files]
    assert moved[0] != files[0]
    assert packing.pack(moved) == packing.pack(files)
