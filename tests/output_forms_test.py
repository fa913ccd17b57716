"""Tests of outputs in dicts, lists and tuples: heads have names, and forms stay."""

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.detectors import IMAGES, LABELS, detector, flat, segmentation
from tests.exactness import assert_same
from tests.tiers import regular
from tfmot_pam.graph.heads import flat_outputs
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.selection import network_heads, task_names


def test_heads_are_named_by_their_paths():
    network = read(tfmot_pam.merge({"a": detector(), "b": detector(list)}, verbose=0))
    found = {task: list(own) for task, own in network_heads(network).items()}
    assert found == {"a": ["a/boxes", "a/classes"], "b": ["b/0", "b/1"]}


def test_a_list_of_outputs_is_one_task_of_the_models_name():
    model = detector(list)
    assert task_names(read(model)) == ("detector",)
    assert tfmot_pam.combinations(model) == [("detector",)]
    (chosen,) = tfmot_pam.select_tasks(model, "detector").output.values()
    assert len(chosen) == 2


def test_clashing_names_are_refused():
    with pytest.raises(ValueError, match=r"called \['a/b', 'a/b'\].*one name each. Rename"):
        flat_outputs({"a": {"b": 1}, "a/b": 2}, ["a", "a/b"])
    with pytest.raises(ValueError, match=r"the tasks \['a'\] have none"):
        flat_outputs({"a": {}}, ["a"])


@pytest.mark.parametrize("form", regular([dict, list, tuple]))
def test_separate_computes_what_the_models_compute(form):
    made = {"detector": detector(form), "mask": segmentation()}
    joined = tfmot_pam.merge(made, IMAGES, method="separate", verbose=0)
    found = joined.predict(IMAGES, verbose=0)
    expected = {task: model.predict(IMAGES, verbose=0) for task, model in made.items()}
    assert flat(found).keys() == flat(expected).keys()
    for head, values in flat(expected).items():
        np.testing.assert_array_equal(flat(found)[head], values)


def test_a_list_of_outputs_is_pruned_and_keeps_its_form():
    model = detector(list)
    gated = tfmot_pam.prune_channels(model, 0.5, importance="magnitude")
    small = tfmot_pam.strip_pruning(gated)
    assert isinstance(small.output, list)
    for values, expected in zip(
        small.predict(IMAGES, verbose=0), gated.predict(IMAGES, verbose=0), strict=True
    ):
        assert_same(values, expected)


@pytest.mark.slow
def test_a_list_of_outputs_is_trained_and_compressed():
    keras.utils.set_random_seed(7)
    model = detector(list)
    labels = list(LABELS["detector"].values())
    tuned = tfmot_pam.fine_tune(model, (IMAGES, labels), epochs=1, verbose=0)
    assert isinstance(tuned.output, list)
    before, after = (one.predict(IMAGES, verbose=0) for one in (model, tuned))
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))
    result = tfmot_pam.compress(
        tuned,
        (IMAGES, labels),
        0.9,
        metrics={"detector": {"0": "mae"}},
        target=0.9,
        effort=1,
        verbose=0,
    )
    assert set(result.original_accuracy) == {"detector/0", "detector/1"}
