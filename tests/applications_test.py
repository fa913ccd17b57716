"""Networks of `keras.applications`, merged."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.applications.convnext import LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

import tflite_export
import tfmot_pam
from benchmarks import applications, applications_benchmark
from tests import exactness
from tests.tiers import regular
from tfmot_pam.graph.emitter import emit
from tfmot_pam.graph.reader import read
from tfmot_pam.merging.alignment import align
from tfmot_pam.merging.assemble import assemble
from tfmot_pam.merging.grouping import fixed_masks

# Options that keep the networks small; their structure is the published one.
APPLICATIONS = {
    "MobileNetV2": {"alpha": 0.35},
    "EfficientNetB0": {},
    "MobileNetV3Small": {},
    "ResNet50": {},
    "DenseNet121": {},
    "VGG16": {},
}


def two_models(name: str) -> dict[str, keras.Model]:
    """Two networks with random weights and statistics, and heads of 7 and 5 logits."""
    return applications.two_models(name, **APPLICATIONS[name])


def images(count: int) -> np.ndarray:
    return applications.images("VGG16", count)


def assert_reproduces(merged, models, x):
    found = merged(x, training=False)
    assert list(found) == list(models)
    for task, model in models.items():
        expected = keras.ops.convert_to_numpy(model(x, training=False))
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found[task] / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize("name", regular(APPLICATIONS))
def test_separate_merges_reproduce_both_models(name):
    models, x = two_models(name), images(2)
    alignment = align(list(models), [read(model) for model in models.values()])
    assert [alignment.head(k) for k in range(2)] == [("a",), ("b",)]
    assert not any(space.frozen for space in alignment.spaces)
    merged = emit(assemble(alignment, fixed_masks(alignment)).network)
    assert_reproduces(merged, models, x)


def test_shared_merge_reproduces_both_models():
    models, x = two_models("MobileNetV2"), images(2)
    options = {"method": "shared", "width": "union", "compensation": False}
    merged = tfmot_pam.merge(models, x, **options, verbose=0)
    assert_reproduces(merged, models, x)
    assert merged.merge_plan.shared == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_shared_merges_reproduce_both_models(name):
    models, x = two_models(name), images(2)
    options = {"method": "shared", "width": "union", "compensation": False}
    merged = tfmot_pam.merge(models, x, **options, verbose=0)
    assert_reproduces(merged, models, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_pam_merges_run_and_export(name, tmp_path):
    models, x = two_models(name), images(64)
    merged = tfmot_pam.merge(models, x, samples=64, verbose=0)
    for task, value in merged(x[:4], training=False).items():
        assert value.shape == models[task](x[:4]).shape
        assert np.isfinite(value).all()
    files = tflite_export.export(merged, tmp_path / "files", verbose=0)
    assert [file.tasks for file in files] == [("a",), ("b",), ("a", "b"), ("a", "b")]
    assert files[0].bytes < files[2].bytes


# --- the benchmark of all of them ---------------------------------------------------------------


def test_all_that_keras_ships_are_listed():
    shipped = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(applications.SIDES) - set(applications.BLOCKS) == shipped
    assert len(shipped) >= 38
    assert set(applications.FAMILIES) <= shipped | set(applications.BLOCKS)


def test_the_benchmark_goes_on_where_it_stopped():
    jobs, names = applications_benchmark.jobs, set(applications.SIDES)
    every = {stage: {(stage, name) for name in names} for stage in ("read", "separate")}
    pam = {("pam", name) for name in applications.FAMILIES}
    pam |= {("units", name) for name in applications.BLOCKS}
    found = jobs({}, [])
    assert set(found) == every["read"] | every["separate"] | pam
    assert [stage for stage, _ in found] == [
        *(["read"] * 42 + ["separate"] * 42 + ["pam"] * 16 + ["units"] * 2)
    ]
    assert {name for _, name in found[:16]} == set(applications.FAMILIES)
    rows = {name: {"layers": 1} for name in names}
    assert set(jobs(rows, [])) == every["separate"] | pam
    rows["VGG16"] |= {"separate": 0.0, "file": 1e-6}
    rows["VGG19"] |= {"separate failed": "ValueError: y"}
    rows["ConvNeXtTiny"] |= {"left out": "needs more memory"}
    done = {"VGG16", "VGG19", "ConvNeXtTiny"}
    assert jobs(rows, sorted(done)) == []
    assert {name for _, name in jobs(rows, [], ["separate"])} == names - done
    assert jobs(rows, ["ResNet50"], ["pam"]) == [("pam", "ResNet50")]


def test_rows_tell_what_is_frozen_and_what_failed():
    row = {
        "side": 32,
        "parameters": 1_500_000,
        "spaces": 3,
        "frozen": {"A 'a': no rule": 1, "A 'b': no rule": 1},
    }
    whole = applications_benchmark.told("X", {**row, "separate": 2e-7})
    assert list(whole.values()) == ["X", 32, "1.5 M", 3, "2: A: no rule", "2e-07", "", "", ""]
    assert applications_benchmark.told("X", {**row, "separate": 0.1})["separate"].endswith("exact)")
    assert applications_benchmark.told("X", {"separate failed": "ValueError: y"})["separate"] == (
        "ValueError: y"
    )
    pam = {"pam of originals": 0.5, "left of pam": 0.51, "stripped": 1e-7, "as predicted": False}
    found = applications_benchmark.told("X", {**row, "separate": 0.0, **pam, "file": 1e-6})
    assert found["separate"] == "the same"
    assert found["pam"] == "50 %"
    assert found["half pruned"] == "51 %, 1e-07 (not the MACs predicted)"
    assert found["file"] == "1e-06"


def test_the_csv_counts_what_is_frozen():
    row = {"side": 32, "frozen": {"A 'a': no rule": 1, "A 'b': no rule": 2}, "uncounted": {}}
    found = applications_benchmark.numbers_of("X", row)
    assert found == {"application": "X", "side": 32, "frozen": 3, "uncounted": 0}


def test_the_page_tells_how_many_heads_and_channels_are_left():
    row = {"stripped": 1e-7, "left of pam": 0.6, "as predicted": True, "file": 1e-6}
    counts = {"heads of": 4, "heads left": 3, "channels of": 8, "channels left": 6}
    _, _, table = applications_benchmark.units_part({"X": {"25%": row | counts}})
    assert "| X | 25% | 3 of 4 | 6 of 8 | 60 % | 1e-07 | 1e-06 |" in table
    assert applications_benchmark.units_part({}) == []


@pytest.mark.parametrize("name", applications.BLOCKS)
def test_the_networks_of_our_own_can_be_pruned_by_their_perceptrons(name):
    model = applications.network(name)
    assert model.output_shape == (None, 7)
    gated = tfmot_pam.prune_channels(model, 0.5, "magnitude", scope="per-layer")
    assert any(group[0].startswith("up_") for group in gated.gates.groups)
    assert any(g[0].startswith("attention_") for g in gated.gates.groups) == ("ViT" in name)


def scaled_branches(width):
    """Residual branches as ConvNeXt scales them, and as InceptionResNetV2 does."""

    def body(h):
        h = layers.Conv2D(width, 3, name="stem")(h)
        branch = layers.Dense(width, name="down")(layers.Dense(6, activation="gelu", name="up")(h))
        h = layers.Add()([h, LayerScale(0.5, width)(branch)])
        branch = layers.Conv2D(width, 3, padding="same", name="branch")(h)
        return layers.GlobalAveragePooling2D()(CustomScaleLayer(0.2)([h, branch]))

    return body


def test_scaled_branches_are_pruned_and_merged_channel_by_channel():
    models = {
        task: exactness.model_of(scaled_branches(width), (6, 6, 3), seed)
        for seed, (task, width) in enumerate({"a": 8, "b": 10}.items())
    }
    small = exactness.pruned_exactly(models["a"])
    assert small.get_layer("stem").filters < 8
    exactness.assert_merged_separately(models)
    exactness.merged_in_groups(models)
