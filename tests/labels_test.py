"""Labels that do not count, and weights of samples: as if the others were not there."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfmot_pam
from tests.small_nets import classes, dense_net, vectors
from tfmot_pam.data import HeadSamples, counted, heads_with_gaps, open_batches, take_samples
from tfmot_pam.merging import label_maps
from tfmot_pam.merging.targets import encode_labels
from tfmot_pam.training.objective import set_objective

RNG = np.random.default_rng(0)
X = vectors(40)
HOLES = np.arange(40) % 4 == 1
INDEX = classes(X, 3)
SIGNS = np.where(X[:, :2] > 0, 1.0, -1.0)
MAPS = RNG.integers(0, 3, (40, 2, 2))


def with_holes(y: np.ndarray, value: float) -> np.ndarray:
    y = np.array(y, "float64" if np.isnan(value) else y.dtype)
    y[HOLES] = value
    return y


# What the labels are, the output's shape and kind, labels, and what stands where there is none.
KINDS = {
    "classes": ((3,), "softmax", INDEX, -1),
    "classes of 255": ((3,), "softmax", INDEX.astype("uint8"), 255),
    "classes, NaN": ((3,), "linear", INDEX, np.nan),
    "maps": ((2, 2, 3), "softmax", MAPS, 255),
    "one-hot": ((3,), "softmax", np.eye(3)[INDEX], np.nan),
    "one-hot on logits": ((3,), "linear", np.eye(3)[INDEX], np.nan),
    "signs": ((2,), "sigmoid", SIGNS, np.nan),
    "bits": ((2,), "sigmoid", (SIGNS > 0).astype("uint8"), 255),
    "bits on logits": ((2,), "linear", (X[:, :2] > 0.3).astype(float) * [1, 1], np.nan),
    "real": ((2,), "linear", X[:, :2].astype("float64"), np.nan),
}


def outputs_of_kind(shape, kind, count=40):
    raw = RNG.normal(size=(count, *shape)).astype("float32")
    activation = {"softmax": keras.ops.softmax, "sigmoid": keras.ops.sigmoid}.get(kind)
    return keras.ops.convert_to_numpy(activation(raw)) if activation else raw


def label_objective(x, y, shape, kind):
    """The objective of labels alone."""
    return set_objective("a", HeadSamples(x, y), shape, kind, masked=True)


@pytest.mark.parametrize("name", list(KINDS))
def test_the_loss_is_the_mean_over_what_counts(name):
    shape, kind, y, void = KINDS[name]
    outputs = outputs_of_kind(shape, kind)
    given = with_holes(y, void)
    objective = label_objective(X, given, shape, kind)
    targets = objective.targets(HeadSamples(X, given))
    kept = label_objective(X[~HOLES], y[~HOLES], shape, kind)
    assert objective.loss.label_kind == kept.loss.label_kind
    found = np.mean(objective.loss.call(targets, outputs))
    expected = kept.loss.call(kept.targets(HeadSamples(X[~HOLES], y[~HOLES])), outputs[~HOLES])
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("name", list(KINDS))
def test_what_does_not_count_sends_no_gradient(name):
    shape, kind, y, void = KINDS[name]
    outputs = tf.Variable(outputs_of_kind(shape, kind))
    objective = label_objective(X, with_holes(y, void), shape, kind)
    targets = objective.targets(HeadSamples(X, with_holes(y, void)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(objective.loss.call(targets, outputs))
    found = np.abs(tape.gradient(loss, outputs).numpy()).reshape(40, -1).sum(axis=1)
    assert np.isfinite(found).all()
    assert (found[HOLES] == 0).all()
    assert (found[~HOLES] > 0).all()


def test_entries_count_one_by_one():
    y = X[:, :2].astype("float64")
    y[::2, 0], y[1, 1] = np.nan, np.nan
    objective = label_objective(X, y, (2,), "linear")
    outputs = outputs_of_kind((2,), "linear")
    loss = np.mean(objective.loss.call(objective.targets(HeadSamples(X, y)), outputs))
    known = ~np.isnan(y)
    variances = [y[known[:, k], k].var() for k in range(2)]
    variance = np.average(variances, weights=known.sum(axis=0))
    assert loss == pytest.approx(np.square(outputs - y)[known].mean() / variance, rel=1e-5)


def test_losses_without_gaps_are_what_they_were():
    for shape, kind, y, _ in KINDS.values():
        plain = set_objective("a", HeadSamples(X, y), shape, kind)
        masked = label_objective(X, y, shape, kind)
        outputs = outputs_of_kind(shape, kind)
        targets = plain.targets(HeadSamples(X, y))
        np.testing.assert_array_equal(targets, masked.targets(HeadSamples(X, y)))
        np.testing.assert_array_equal(
            plain.loss.call(targets, outputs), masked.loss.call(targets, outputs)
        )


def test_masked_losses_survive_their_config():
    loss = label_objective(X, with_holes(X[:, :2], np.nan), (2,), "linear").loss
    again = type(loss).from_config(loss.get_config())
    assert again.get_config() == loss.get_config()
    assert again.masked


def test_which_data_may_have_gaps():
    labels = {"a": INDEX, "b": with_holes(X[:, :2], np.nan)}
    assert heads_with_gaps((X, labels), ["a", "b"], (6,)) == {"b"}
    assert heads_with_gaps(None, ["a"], (6,)) == set()
    stream = tf.data.Dataset.from_tensor_slices((X, labels)).batch(8)
    assert heads_with_gaps(stream, ["a", "b"], (6,)) == {"a", "b"}


@pytest.mark.parametrize("value", [np.nan, -1.0, 255.0])
def test_labels_of_which_none_counts_are_explained(value):
    with pytest.raises(ValueError, match="No label of the task 'a' counts in 40 samples"):
        label_objective(X, np.full(40, value), (3,), "softmax")


def test_gaps_are_no_matter_of_own_losses():
    with pytest.raises(ValueError, match="NaN in places, and it has a loss of its own"):
        set_objective(
            "a",
            HeadSamples(X, with_holes(X[:, :1], np.nan)),
            (1,),
            "linear",
            label_loss=keras.losses.MeanAbsoluteError(),
        )


# --- training -----------------------------------------------------------------------------------


def trained(data, **options):
    """The weights of one task's network after a few steps on all samples."""
    student = dense_net(3, widths=(5,))
    settings = {"epochs": 4, "optimizer": keras.optimizers.SGD(0.5), "batch_size": 40, "verbose": 0}
    return tfmot_pam.fine_tune(student, data, None, **settings, **options).get_weights()


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.fixture(scope="module")
def kept():
    return trained((X[~HOLES], INDEX[~HOLES]))


def as_stream(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(40)


@pytest.mark.parametrize("void", [-1, 255, np.nan])
def test_training_with_labels_that_do_not_count(kept, void):
    assert_same(trained((X, with_holes(INDEX, void))), kept)


# Keras divides by all samples.
WEIGHTS = np.where(HOLES, 0.0, 40 / (~HOLES).sum())


@pytest.mark.parametrize(
    "data",
    [
        (X, INDEX, WEIGHTS),
        (X, {"head": INDEX}, {"head": WEIGHTS[:, None]}),
        {"head": (X, INDEX, WEIGHTS)},
        as_stream(X, INDEX, WEIGHTS),
    ],
    ids=["one array", "by task", "own data", "stream"],
)
def test_training_with_weights_of_samples(kept, data):
    # The unit of the loss is that of all labels.
    scale = set_objective("a", HeadSamples(X, INDEX), (3,), "softmax").loss.label_scale
    own = set_objective("a", HeadSamples(X[~HOLES], INDEX[~HOLES]), (3,), "softmax")
    factor = scale / own.loss.label_scale
    assert_same(trained(data, task_weights={"head": factor}), kept)


def test_weights_of_classes_are_weights_of_their_samples():
    by_class = trained((X, INDEX), class_weight={"head": {0: 3.0, 2: 0.5}})
    by_sample = trained((X, INDEX, np.array([3.0, 1.0, 0.5])[INDEX]))
    assert_same(by_class, by_sample)
    assert not np.allclose(by_class[0], trained((X, INDEX))[0], atol=1e-3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"head": {3: 1.0}}, "by class index, 0 to 2"),
        ({"head": {0: -1.0}}, "factors of at least 0"),
        ({"tail": {0: 1.0}}, r"`class_weight` names \['tail'\]"),
    ],
)
def test_bad_weights_of_classes_are_explained(weights, message):
    with pytest.raises(ValueError, match=message):
        trained((X, INDEX), class_weight=weights)


def test_weights_stay_with_their_samples():
    weights = np.arange(40.0)
    rows = X[:, 0]
    drawn = take_samples((X, INDEX, weights), ["a"], (6,), samples=10).by_head["a"]
    places = [int(np.flatnonzero(rows == x)[0]) for x in drawn.x[:, 0]]
    assert drawn.weight.tolist() == weights[places].tolist()
    for batch in open_batches((X, INDEX, weights), ["a"], (6,), batch_size=16).epoch(0):
        own = batch.by_head["a"]
        places = [int(np.flatnonzero(rows == x)[0]) for x in own.x[:, 0]]
        assert own.weight.tolist() == weights[places].tolist()


# --- relevance ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "void"),
    [
        (INDEX, -1),
        (INDEX.astype("uint8"), 255),
        (INDEX, -7),
        (np.eye(3)[INDEX], np.nan),
        (SIGNS, np.nan),
        ((SIGNS > 0).astype("uint8"), 255),
        (X[:, :2], np.nan),
        (MAPS, 255),
        (X[:, :4].reshape(40, 2, 2, 1), np.nan),
    ],
)
def test_targets_are_those_of_the_samples_that_count(y, void):
    found = encode_labels(with_holes(y, void), "a", 3)
    kept = encode_labels(y[~HOLES], "a", 3)
    assert found.kind == kept.kind
    np.testing.assert_allclose(found.values, kept.values, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.rows, np.flatnonzero(~HOLES))
    np.testing.assert_array_equal(found.observed(X), X[~HOLES])
    assert kept.rows is None
    assert kept.observed(X) is X


def test_what_is_missing_of_a_samples_labels_becomes_their_mean():
    values = np.array([[1.0, 4.0], [3.0, np.nan], [np.nan, 0.0]])
    found = encode_labels(values, "a")
    assert (found.kind, found.values.tolist()) == ("real", [[1, 4], [3, 2], [2, 0]])
    bits = encode_labels(np.array([[1, 0], [0, 255], [0, 1]]), "a", 2)
    assert (bits.kind, bits.values.tolist()) == ("binary", [[1, 0], [0, 0.5], [0, 1]])
    with pytest.raises(ValueError, match="some labels are known and others are NaN"):
        bits.discrete()
    signs = encode_labels(np.array([[1.0, -1.0], [np.nan, 1.0], [-1.0, 1.0]]), "a")
    assert (signs.kind, signs.values.tolist()) == ("binary", [[1, 0], [0.5, 1], [0, 1]])


def test_maps_count_what_is_known():
    maps = np.array([[[0, 1], [255, 255]], [[1, 1], [1, 0]], [[255, 255], [-1, 255]]])
    found = encode_labels(maps, "a", 2)
    assert found.rows.tolist() == [0, 1]
    np.testing.assert_allclose(found.values, [[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(
    "y",
    [
        MAPS,
        MAPS.astype("uint8")[..., None],
        np.eye(3)[MAPS],
        np.eye(3, dtype="uint8")[MAPS],
        RNG.normal(size=(40, 2, 2, 2)),
        RNG.normal(size=(40, 3, 3)).astype("float32"),
    ],
)
def test_maps_are_the_same_whatever_number_is_read_at_a_time(monkeypatch, y, holes):
    if holes:
        void = np.nan if y.dtype.kind == "f" else 255
        y = np.where(RNG.random(y.shape) < 0.2, void, y)
        y[3] = void
    whole = encode_labels(y, "a", 3)
    monkeypatch.setattr(label_maps, "_VALUES", 3 * y[0].size)
    parts = encode_labels(y, "a", 3)
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    assert (whole.rows is None) == (not holes)


def test_255_may_be_a_class():
    assert encode_labels(np.array([0, 255, 3]), "a", 300).rows is None
    assert encode_labels(np.array([0, 255, 3]), "a").rows is None
    assert encode_labels(np.array([0, 255, 3]), "a", 10).rows.tolist() == [0, 2]


def test_merging_measures_a_task_on_its_labelled_samples():
    models = {"a": dense_net(0), "b": dense_net(1, widths=(5, 4))}
    own = {"a": (X, INDEX), "b": (X[~HOLES], INDEX[~HOLES])}
    shared = (X, {"a": INDEX, "b": with_holes(INDEX, -1)})
    options = {"compensation": False, "verbose": 0}
    first, second = (tfmot_pam.merge(models, data, **options).merge_plan for data in (own, shared))
    paths = [
        {task: path.to_dict() for task, path in space.paths.items()}
        for plan in (first, second)
        for space in plan.spaces
        if space.paths
    ]
    half = len(paths) // 2
    assert half > 0
    for one, other in zip(paths[:half], paths[half:], strict=True):
        for task in ("a", "b"):
            assert one[task]["order"] == other[task]["order"]
            np.testing.assert_allclose(one[task]["values"], other[task]["values"], rtol=1e-5)


# --- compression --------------------------------------------------------------------------------


@pytest.mark.slow
def test_compression_counts_known_labels_only():
    keras.utils.set_random_seed(0)
    x = vectors(280)
    y = {"side": (x[:, 0] > 0).astype("int64"), "sizes": x[:, :2].astype("float64")}
    inputs = keras.Input((6,))
    h = layers.Dense(16, activation="relu")(inputs)
    outputs = {
        "side": layers.Dense(2, activation="softmax", name="side")(h),
        "sizes": layers.Dense(2, name="sizes")(h),
    }
    both = keras.Model(inputs, outputs)
    losses = {"side": "sparse_categorical_crossentropy", "sizes": "mse"}
    both.compile(keras.optimizers.Adam(0.02), losses, jit_compile=False)
    both.fit(x, y, epochs=12, verbose=0)
    models = {task: keras.Model(inputs, found) for task, found in outputs.items()}
    y["side"][::3] = 255
    y["sizes"][::2, 1] = np.nan
    held_out = (x[:140], {task: labels[:140] for task, labels in y.items()})
    result = tfmot_pam.compress(
        models,
        (x[140:], {task: labels[140:] for task, labels in y.items()}, np.arange(140) % 2),
        0.3,
        validation_data=held_out,
        arms=["separate"],
        effort=2,
        target=0.9,
        fine_tune_options={"class_weight": {"side": {0: 2.0}}},
        verbose=0,
    )
    known = y["side"][:140] != 255
    answers = models["side"].predict(x[:140], verbose=0).argmax(-1)
    assert result.original_accuracy["side"] == pytest.approx(
        (answers == y["side"][:140])[known].mean()
    )
    labels, guesses = y["sizes"][:140], models["sizes"].predict(x[:140], verbose=0)
    known = counted(labels, "real", 2)
    variance = np.square(labels - np.nanmean(labels, axis=0))[known].mean()
    error = np.square(labels - guesses)[known].mean()
    assert result.original_accuracy["sizes"] == pytest.approx(1 - error / variance, rel=1e-4)
    for arm in result.arms:
        assert all(np.isfinite(w).all() for w in arm.model.get_weights())
