"""Tests of models that yield several tensors: every step knows what belongs to which task."""

import keras
import numpy as np
import pytest

import tflite_export
import tfmot_pam
from tests.detectors import IMAGES, LABELS, detector, flat, segmentation
from tests.exactness import assert_same
from tests.tiers import regular
from tflite_export import verify
from tfmot_pam.graph.heads import leaves


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(5)
    made = {"detector": detector(), "mask": segmentation()}
    made["detector"].compile(
        "adam", {"boxes": "mse", "classes": "sparse_categorical_crossentropy"}, jit_compile=False
    )
    made["detector"].fit(IMAGES, LABELS["detector"], epochs=3, verbose=0)
    made["mask"].compile("adam", "binary_crossentropy", jit_compile=False)
    made["mask"].fit(IMAGES, LABELS["mask"], epochs=3, verbose=0)
    return made


@pytest.fixture(scope="module")
def merged(models):
    return tfmot_pam.merge(models, (IMAGES, LABELS), verbose=0)


@pytest.mark.parametrize("method", regular(["shared", "pam"]))
def test_sub_networks_compute_what_the_whole_one_does(models, method):
    whole = tfmot_pam.merge(models, (IMAGES, LABELS), method=method, verbose=0)
    outputs = whole.predict(IMAGES, verbose=0)
    for task in models:
        part = tfmot_pam.select_tasks(whole, task).predict(IMAGES, verbose=0)
        assert list(part) == [task]
        for head, values in leaves(task, part[task]).items():
            assert_same(values, flat(outputs)[head])


def test_saved_and_loaded(merged, tmp_path):
    merged.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    expected, found = (flat(m.predict(IMAGES, verbose=0)) for m in (merged, loaded))
    for head, values in expected.items():
        np.testing.assert_array_equal(found[head], values)


def test_a_merged_model_serves_as_an_original_of_one_of_its_tasks(merged, models):
    again = tfmot_pam.merge(
        {"detector": merged, "mask": models["mask"]}, IMAGES, method="separate", verbose=0
    )
    found = flat(again.predict(IMAGES, verbose=0))
    expected = flat(tfmot_pam.select_tasks(merged, "detector").predict(IMAGES, verbose=0))
    for head, values in expected.items():
        assert_same(found[head], values)


def test_relevance_regards_all_outputs(models):
    """Labels of one head alone lead to other groups than those of both."""
    only = {"detector": {**LABELS["detector"], "boxes": None}, "mask": LABELS["mask"]}
    both, one = (
        tfmot_pam.merge(models, (IMAGES, labels), share=0.5, min_group=1, verbose=0).merge_plan
        for labels in (LABELS, only)
    )
    assert both.to_json() != one.to_json()


def test_the_kde_estimator_names_what_it_cannot_compare(models):
    with pytest.raises(ValueError, match="'kde'"):
        tfmot_pam.merge(models, (IMAGES, LABELS), estimator="kde", verbose=0)


FORMS = {
    "nested": (IMAGES, LABELS),
    "by head": (
        IMAGES,
        {**{f"detector/{k}": v for k, v in LABELS["detector"].items()}, "mask": LABELS["mask"]},
    ),
    "by task": {t: (IMAGES.copy(), y) for t, y in LABELS.items()},
    "without labels": IMAGES,
    "some labels": (
        IMAGES,
        {"detector": {"boxes": LABELS["detector"]["boxes"], "classes": None}, "mask": None},
    ),
    "weights by head": (IMAGES, LABELS, {"detector/boxes": np.ones(140), "mask": np.ones(140)}),
    "weights by task": (IMAGES, LABELS, {"detector": np.ones(140)}),
}


@pytest.mark.parametrize("form", regular(FORMS, 3))
def test_fine_tuning_takes_labels_of_every_head(merged, models, form):
    tuned = tfmot_pam.fine_tune(merged, FORMS[form], models, epochs=1, verbose=0)
    assert tuned.output.keys() == merged.output.keys()
    assert tuned.output["detector"].keys() == {"boxes", "classes"}
    before, after = (flat(m.predict(IMAGES, verbose=0)) for m in (merged, tuned))
    for head, values in before.items():
        assert np.abs(values - after[head]).max() > 0


def test_fine_tuning_reads_streams_of_nested_labels(merged, models):
    tf = pytest.importorskip("tensorflow")
    stream = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(35)
    streamed, held = (
        tfmot_pam.fine_tune(
            merged, data, models, epochs=1, joint=1.0, validation_data=data, verbose=0
        )
        for data in (stream, (IMAGES[:35], LABELS["detector"] and _first(35)))
    )
    assert (
        flat(streamed.predict(IMAGES, verbose=0)).keys()
        == flat(held.predict(IMAGES, verbose=0)).keys()
    )


def _first(count):
    return {
        "detector": {name: y[:count] for name, y in LABELS["detector"].items()},
        "mask": LABELS["mask"][:count],
    }


def test_a_head_without_labels_or_teacher_is_named(merged):
    labels = {"detector": {**LABELS["detector"], "classes": None}, "mask": LABELS["mask"]}
    with pytest.raises(ValueError, match=r"nothing to train towards.*\['detector/classes'\]"):
        tfmot_pam.fine_tune(merged, (IMAGES, labels), verbose=0)


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        ({"detector": {"boxes": 0}, "mask": None}, r"are for \['detector/boxes'\]; its outputs"),
        ({"detector": np.zeros(140), "mask": None}, r"are for \['detector'\]; its outputs are"),
        ({"detector": None}, r"nothing for the tasks \['mask'\]"),
        ({"detector": None, "mask": None, "detector/box": 0}, r"unknown tasks \['detector/box'\]"),
    ],
)
def test_labels_of_other_outputs_are_refused(models, labels, parts):
    with pytest.raises(ValueError, match=parts):
        tfmot_pam.merge(models, (IMAGES, labels), verbose=0)


def test_the_teacher_of_a_task_runs_once_for_all_of_its_heads(merged, models):
    calls = []

    class Counting(keras.Model):
        def predict_on_batch(self, x):
            calls.append(len(x) > 1 and np.array_equal(x[0], IMAGES[0]))
            return super().predict_on_batch(x)

    original = models["detector"]
    teacher = Counting(original.input, original.output)
    teachers = {"detector": teacher, "mask": models["mask"]}
    tfmot_pam.fine_tune(merged, (IMAGES, LABELS), teachers, epochs=2, verbose=0)
    # All images once for the scale of each head's loss, once for the targets of both.
    assert sum(calls) == 3


def test_losses_and_class_weights_go_to_heads(merged, models):
    options = {"losses": {"detector/boxes": "mae"}, "class_weight": {"detector/classes": {0: 3.0}}}
    tuned = tfmot_pam.fine_tune(merged, (IMAGES, LABELS), models, epochs=1, verbose=0, **options)
    plain = tfmot_pam.fine_tune(merged, (IMAGES, LABELS), models, epochs=1, verbose=0)
    changed, before = (flat(m.predict(IMAGES, verbose=0)) for m in (tuned, plain))
    assert all(np.abs(changed[head] - before[head]).max() > 0 for head in before)
    with pytest.raises(ValueError, match=r"names \['detector'\], which are no tasks with labels"):
        tfmot_pam.fine_tune(merged, (IMAGES, LABELS), models, losses={"detector": "mse"})


@pytest.mark.parametrize("importance", ["reconstruction", "pagcp"])
def test_pruned_at_once_a_model_computes_what_its_gates_masked(merged, importance):
    gated = tfmot_pam.prune_channels(merged, 0.4, importance=importance, data=IMAGES)
    small = tfmot_pam.strip_pruning(gated)
    assert tfmot_pam.cost(small).macs < tfmot_pam.cost(merged).macs
    expected, found = (flat(m.predict(IMAGES, verbose=0)) for m in (gated, small))
    for head, values in expected.items():
        assert_same(found[head], values)


@pytest.mark.slow
def test_pruned_while_training_by_the_gradients_of_each_task(merged, models):
    schedule = tfmot_pam.prune_channels(
        merged, pruning_schedule=_steps(), importance="taylor", measure="channels"
    )
    trained = tfmot_pam.fine_tune(
        schedule,
        (IMAGES, LABELS),
        models,
        epochs=3,
        callbacks=[tfmot_pam.UpdatePruningStep()],
        verbose=0,
    )
    small = tfmot_pam.strip_pruning(trained)
    assert tfmot_pam.cost(small).macs < tfmot_pam.cost(merged).macs
    expected, found = (flat(m.predict(IMAGES, verbose=0)) for m in (trained, small))
    for head, values in expected.items():
        assert_same(found[head], values)


def _steps():
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    return tfmot.sparsity.keras.PolynomialDecay(0.0, 0.4, 0, 8, frequency=2)


def test_across_the_generations(merged):
    pytest.importorskip("tf_keras")
    other = tfmot_pam.to_tf_keras(merged)
    assert list(other.output_names) == ["detector/boxes", "detector/classes", "mask"]
    back = tfmot_pam.from_tf_keras(other)
    expected, found = (flat(m.predict(IMAGES, verbose=0)) for m in (merged, back))
    for head, values in expected.items():
        assert_same(found[head], values)
    assert tfmot_pam.combinations(other) == tfmot_pam.combinations(merged)


@pytest.mark.tensorflow
def test_files_have_an_output_for_every_head(merged, tmp_path):
    chosen = {"combinations": ["detector", "detector+mask"], "verbose": 0}
    files = tflite_export.export(merged, tmp_path / "out", samples=IMAGES, **chosen)
    expected = flat(merged.predict(IMAGES, verbose=0))
    for file in files:
        for signature in file.signatures:
            found = verify.run_file(file.path, {"image": IMAGES[:8]}, signature.name)
            heads = [h for h in expected if h.split("/")[0] in signature.tasks]
            assert sorted(found) == sorted(heads)
            for head, values in found.items():
                np.testing.assert_allclose(values, expected[head][:8], atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert 'listOf("detector/boxes", "detector/classes")' in card
    assert '["detector/boxes", "detector/classes"]' in card
    assert '{"detector/boxes", "detector/classes"}' in card
    tflite_export.benchmark(tmp_path / "out")


def test_a_report_measures_every_head(merged, models):
    found = tfmot_pam.report(merged, originals=models, data=(IMAGES, LABELS))
    whole = found.rows[-1]
    assert list(whole.accuracy) == ["detector/boxes", "detector/classes", "mask"]
    text = str(found)
    assert "detector/classes, %" in text
    own = tfmot_pam.report(merged, accuracy={"detector": {"boxes": 0.5, "classes": 0.25}})
    assert own.rows[0].accuracy == {"detector/boxes": 0.5, "detector/classes": 0.25}
    assert own.rows[1].accuracy == {}


def found_share(y_true, y_pred):
    near = np.abs(y_true["boxes"] - y_pred["boxes"]).max(axis=-1) < 1.5
    return near & (y_true["classes"] == y_pred["classes"].argmax(axis=-1))


def test_one_metric_for_all_heads_of_a_task(merged, models):
    metric = tfmot_pam.Metric("found", found_share, "higher")
    found = tfmot_pam.report(
        merged, originals=models, data=(IMAGES, LABELS), metrics={"detector": metric}
    )
    outputs = models["detector"].predict(IMAGES, verbose=0)
    expected = found_share(LABELS["detector"], outputs).mean()
    assert found.rows[0].original_accuracy["detector"] == pytest.approx(expected)
    assert found.metrics == {"detector": "found"}


@pytest.mark.parametrize(
    ("metrics", "parts"),
    [
        ({"detector": "accuracy"}, "is for all of its outputs.*Expected a function of dicts"),
        ({"detector": keras.metrics.MeanSquaredError()}, "takes one output; the task has"),
        ({"detector": found_share, "detector/boxes": "mae"}, "a metric for each of them and none"),
        ({"detector": {"box": "mae"}}, r"unknown tasks \['detector/box'\]"),
    ],
)
def test_metrics_that_do_not_fit_the_heads(merged, models, metrics, parts):
    with pytest.raises(ValueError, match=parts):
        tfmot_pam.report(merged, originals=models, data=(IMAGES, LABELS), metrics=metrics)


def test_compressed_to_a_tolerance_for_every_head(models):
    compressed = tfmot_pam.compress(
        models,
        (IMAGES, LABELS),
        {"detector": {"boxes": 5.0, "classes": 0.9}, "mask": 0.5},
        metrics={"detector": {"boxes": "mae"}},
        arms=["trunk"],
        target=0.9,
        effort=1,
        verbose=0,
    )
    assert set(compressed.original_accuracy) == {"detector/boxes", "detector/classes", "mask"}
    assert compressed.best.share < 1
    outputs = compressed.model.predict(IMAGES, verbose=0)
    assert {task: sorted(leaves(task, nest)) for task, nest in outputs.items()} == {
        "detector": ["detector/boxes", "detector/classes"],
        "mask": ["mask"],
    }
    weights = [
        row.task_weights for arm in compressed.arms for r in arm.rounds.values() for row in r
    ]
    assert any(set(own) == {"detector/boxes", "detector/classes", "mask"} for own in weights)
    assert set(compressed.portfolio().models) == set(tfmot_pam.combinations(compressed.model))
    assert "detector/boxes" in compressed.curve_csv().splitlines()[0]


@pytest.mark.slow
def test_compressed_by_one_metric_for_all_heads(models):
    result = tfmot_pam.compress(
        models,
        (IMAGES, LABELS),
        {"detector": 0.9, "mask": 0.5},
        metrics={"detector": tfmot_pam.Metric("found", found_share, "higher")},
        arms=["separate"],
        target=0.9,
        effort=1,
        verbose=0,
    )
    assert set(result.original_accuracy) == {"detector", "mask"}
    assert "found" in result.verdict


@pytest.mark.parametrize(
    ("drop", "parts"),
    [
        ({"detector": {"boxes": 0.1}, "mask": 0.1}, r"lacks \['detector/classes'\]"),
        ({"detector": 0.1, "mask": 0.1, "detector/box": 1}, r"unknown tasks \['detector/box'\]"),
    ],
)
def test_tolerances_for_other_heads(models, drop, parts):
    with pytest.raises(ValueError, match=parts):
        tfmot_pam.compress(models, (IMAGES, LABELS), drop)


@pytest.mark.tensorflow
def test_the_toolkit_keeps_heads(merged):
    pytest.importorskip("tensorflow_model_optimization")
    wrapped = tfmot_pam.prune_low_magnitude(merged)
    assert list(wrapped.output_names) == ["detector/boxes", "detector/classes", "mask"]
    stripped = tfmot_pam.strip_wrappers(wrapped)
    assert tfmot_pam.combinations(stripped) == tfmot_pam.combinations(merged)
    assert list(tfmot_pam.select_tasks(stripped, ["detector"]).output["detector"]) == [
        "boxes",
        "classes",
    ]
