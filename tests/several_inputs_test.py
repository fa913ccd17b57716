"""Tests of models with several inputs, which are matched by name at every step."""

import keras
import numpy as np
import pytest
from keras import layers

import tflite_export
import tfmot_pam
from tests.exactness import assert_same
from tests.tiers import regular
from tflite_export import verify
from tfmot_pam.graph.calling import for_model

RNG = np.random.default_rng(6)
X = {
    "image": RNG.normal(size=(140, 8, 8, 1)).astype("float32"),
    "meta": RNG.normal(size=(140, 3)).astype("float32"),
}
LABELS = {
    "both": (X["image"].mean((1, 2, 3)) + X["meta"][:, 0] > 0).astype("int64"),
    "plain": (X["image"][:, :4].mean((1, 2, 3)) > 0).astype("int64"),
}


def features(image, width=6):
    x = layers.Conv2D(width, 3, activation="relu", name="first")(image)
    x = layers.Conv2D(8, 3, activation="relu", name="second")(x)
    return layers.GlobalAveragePooling2D(name="mean")(x)


def both(form=dict, names=("image", "meta"), width=6):
    image, meta = keras.Input((8, 8, 1), name=names[0]), keras.Input((3,), name=names[1])
    x = layers.Concatenate()([features(image, width), layers.Dense(4, activation="relu")(meta)])
    output = layers.Dense(2, activation="softmax", name="both")(x)
    inputs = {names[0]: image, names[1]: meta} if form is dict else form([meta, image])
    return keras.Model(inputs, output)


def plain(name="image"):
    image = keras.Input((8, 8, 1), name=name)
    return keras.Model(image, layers.Dense(2, activation="softmax", name="plain")(features(image)))


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(6)
    made = {"both": both(), "plain": plain()}
    for task, model in made.items():
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(X if task == "both" else X["image"], LABELS[task], epochs=3, verbose=0)
    return made


@pytest.fixture(scope="module")
def merged(models):
    return tfmot_pam.merge(models, (X, LABELS), verbose=0)


@pytest.mark.parametrize("form", [dict, list, tuple])
def test_separate_computes_what_the_models_compute(form):
    made = {"plain": plain(), "both": both(form)}
    joined = tfmot_pam.merge(made, X, method="separate", verbose=0)
    assert list(joined.input) == ["image", "meta"]
    found = joined.predict(X, verbose=0)
    given = X if form is dict else form([X["meta"], X["image"]])
    np.testing.assert_array_equal(found["both"], made["both"].predict(given, verbose=0))
    np.testing.assert_array_equal(found["plain"], made["plain"].predict(X["image"], verbose=0))


@pytest.mark.parametrize("method", ["pam", "shared"])
def test_the_trunk_begins_at_the_inputs_that_all_have(models, method):
    whole = tfmot_pam.merge(models, (X, LABELS), method=method, verbose=0)
    assert any(name.startswith("first_shared") for name in (op.name for op in whole.operations))
    outputs = whole.predict(X, verbose=0)
    for task, inputs in (("both", X), ("plain", {"image": X["image"]})):
        part = tfmot_pam.select_tasks(whole, task)
        assert set(part.input) == set(inputs)
        assert_same(part.predict(inputs, verbose=0)[task], outputs[task])


def test_two_inputs_of_one_shape_are_told_apart_by_their_names():
    def sided(order):
        left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
        first = layers.Dense(3, activation="relu")(left)
        second = layers.Dense(3, activation="relu")(right)
        inputs = {"left": left, "right": right}
        output = layers.Dense(2)(layers.Concatenate()([first, second]))
        return keras.Model([inputs[name] for name in order], output)

    made = {"a": sided(["left", "right"]), "b": sided(["right", "left"])}
    x = {name: RNG.normal(size=(20, 4)).astype("float32") for name in ("left", "right")}
    joined = tfmot_pam.merge(made, x, method="separate", verbose=0).predict(x, verbose=0)
    for task, order in (("a", ["left", "right"]), ("b", ["right", "left"])):
        expected = made[task].predict([x[name] for name in order], verbose=0)
        np.testing.assert_array_equal(joined[task], expected)


def test_inputs_that_some_models_have_are_written_once():
    made = {"a": both(), "b": both(width=4), "c": plain()}
    joined = tfmot_pam.merge(made, X, verbose=0)
    inputs = [op.name for op in joined.operations if isinstance(op, layers.InputLayer)]
    assert sorted(inputs) == ["image", "meta"]


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_the_keys_of_a_dict_name_the_inputs():
    image, meta = keras.Input((8, 8, 1), name="x1"), keras.Input((3,), name="x2")
    x = layers.Concatenate()([features(image), meta])
    model = keras.Model({"image": image, "meta": meta}, layers.Dense(2)(x))
    whole = tfmot_pam.merge({"both": model, "plain": plain()}, X, method="separate", verbose=0)
    assert_same(whole.predict(X, verbose=0)["both"], model.predict(X, verbose=0))


def test_saved_and_loaded(merged, tmp_path):
    merged.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for task, values in merged.predict(X, verbose=0).items():
        np.testing.assert_array_equal(loaded.predict(X, verbose=0)[task], values)


def test_without_data(models):
    with pytest.warns(UserWarning, match="given no data"):
        whole = tfmot_pam.merge(models, verbose=0)
    assert set(whole.input) == {"image", "meta"}


FORMS = {
    "one for all": (X, LABELS),
    "inputs alone": X,
    "by task": {
        "both": ({name: array[:100] for name, array in X.items()}, LABELS["both"][:100]),
        "plain": (X, LABELS["plain"]),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_fine_tuning(merged, models, form):
    tuned = tfmot_pam.fine_tune(merged, FORMS[form], models, epochs=1, verbose=0)
    before, after = (model.predict(X, verbose=0) for model in (merged, tuned))
    assert all(np.abs(before[task] - after[task]).max() > 0 for task in before)


def test_fine_tuning_reads_streams(merged, models):
    tf = pytest.importorskip("tensorflow")
    stream = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(35)
    tuned = tfmot_pam.fine_tune(merged, stream, models, epochs=1, validation_data=stream, verbose=0)
    assert set(tuned.input) == {"image", "meta"}


BAD = {
    "an input missing": ({"image": X["image"]}, r"Missing: \['meta'\]"),
    "an unknown input": ({**X, "sound": X["meta"]}, r"unknown: \['sound'\]"),
    "one array": (X["image"], r"have the inputs \['image', 'meta'\]. Pass a dict"),
    "another shape": ({**X, "meta": X["image"]}, r"data\['meta'\]` has shape"),
    "other lengths": ({**X, "meta": X["meta"][:9]}, "different numbers of samples"),
    "not finite": ({**X, "meta": np.full((140, 3), np.nan)}, r"data\['meta'\]` has NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs(models, case):
    given, message = BAD[case]
    with pytest.raises((TypeError, ValueError), match=message):
        tfmot_pam.merge(models, (given, LABELS), verbose=0)


def test_models_whose_inputs_cannot_be_matched():
    with pytest.raises(ValueError, match="'image' has|'image'.*differ.*name the inputs"):
        tfmot_pam.merge({"both": both(), "other": _of_size(9)}, verbose=0)
    unnamed = keras.Model(x := [keras.Input((3,)), keras.Input((3,))], layers.Add()(x))
    with pytest.raises(ValueError, match="names that Keras gave.*keras.Input"):
        tfmot_pam.merge({"both": both(), "other": unnamed}, verbose=0)


def _of_size(size):
    image = keras.Input((size, size, 1), name="image")
    return keras.Model(image, layers.Dense(2)(features(image)))


def test_pruned_at_once(merged):
    gated = tfmot_pam.prune_channels(merged, 0.4, importance="reconstruction", data=X)
    small = tfmot_pam.strip_pruning(gated)
    assert tfmot_pam.cost(small).macs < tfmot_pam.cost(merged).macs
    for task, values in gated.predict(X, verbose=0).items():
        assert_same(small.predict(X, verbose=0)[task], values)


def test_across_the_generations(merged):
    pytest.importorskip("tf_keras")
    other = tfmot_pam.to_tf_keras(merged)
    assert set(other.input) == {"image", "meta"}
    for task, values in tfmot_pam.from_tf_keras(other).predict(X, verbose=0).items():
        assert_same(values, merged.predict(X, verbose=0)[task])


@pytest.mark.parametrize("quantization", regular(["none", "int8"]))
@pytest.mark.tensorflow
def test_files_take_the_inputs_that_their_tasks_need(merged, tmp_path, quantization):
    tflite_export.export(
        merged,
        tmp_path / "out",
        combinations=["both", "plain"],
        quantization=quantization,
        representative_data=X,
        verbose=0,
    )
    expected = merged.predict(X, verbose=0)
    limit = 1e-5 if quantization == "none" else 0.05
    for tasks, names in ((["both"], {"image", "meta"}), (["plain"], {"image"})):
        (signature,) = verify.describe_file(tmp_path / "out" / f"{tasks[0]}.tflite").values()
        assert set(signature["inputs"]) == names
        given = {name: X[name][:8] for name in names}
        found = verify.run_file(tmp_path / "out" / f"{tasks[0]}.tflite", given)
        assert np.abs(found[tasks[0]] - expected[tasks[0]][:8]).max() < limit
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "inputs: Map<String, ByteBuffer>" in card
    assert "inputs: [String: Data]" in card
    assert "const auto& [name, input] : inputs" in card
    tflite_export.benchmark(tmp_path / "out")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (X["image"], r"dict of arrays for the inputs \['image', 'meta'\]"),
        ({"image": X["image"]}, "Pass one array for each"),
        ({**X, "meta": X["meta"][:9]}, "different numbers of samples"),
    ],
)
@pytest.mark.tensorflow
def test_samples_of_other_inputs(merged, tmp_path, samples, message):
    with pytest.raises(ValueError, match=message):
        tflite_export.export(merged, tmp_path / "out", samples=samples, verbose=0)


def test_open_sizes_are_told_by_name():
    def of_any_size():
        image, meta = keras.Input((None, None, 1), name="image"), keras.Input((3,), name="meta")
        x = layers.Concatenate()([features(image), meta])
        return keras.Model({"image": image, "meta": meta}, {"both": layers.Dense(2)(x)})

    shapes = {"image": (8, 8, 1), "meta": (3,)}
    assert tfmot_pam.cost(of_any_size(), input_shape=shapes).macs > 0
    with pytest.raises(ValueError, match="of open size"):
        tfmot_pam.cost(of_any_size())
    with pytest.raises(ValueError, match="a dict by name"):
        tfmot_pam.prune_channels(
            of_any_size(), 0.5, "reconstruction", data=X, input_shape=(8, 8, 1)
        )


def test_compressed(models):
    def augment(x, rng):
        return {**x, "image": x["image"] + 0.01 * rng.normal(size=x["image"].shape)}

    result = tfmot_pam.compress(
        models,
        (X, LABELS),
        0.5,
        arms=["trunk"],
        effort=1,
        target=0.8,
        augment=augment,
        views=2,
        verbose=0,
    )
    assert result.best.share < 1
    assert set(result.models[("plain",)].input) == {"image"}
    with pytest.raises(ValueError, match="given the inputs.*returned.*Return those"):
        tfmot_pam.compress(models, (X, LABELS), 0.5, augment=lambda x, rng: x["image"])


def test_a_model_is_given_the_inputs_that_it_has():
    """Of a dict that is too large Keras takes the first entries, whatever they are called."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    x = {name: np.full((2, 4), value) for name, value in (("left", 0.0), ("right", 1.0))}
    own, both = {"right": x["right"]}, [x["left"], x["right"]]
    assert for_model(keras.Model({"right": right}, right + 0), x).keys() == own.keys()
    assert for_model(keras.Model(right, right + 0), x) is x["right"]
    assert for_model(keras.Sequential([right, layers.Dense(1)]), x) is x["right"]
    assert for_model(keras.Model([right, left], right + left), x).keys() == x.keys()
    assert for_model(keras.Model([left, right], right + left), both) is both
    with pytest.raises(ValueError, match=r"has the inputs \['other'\].*Add \['other'\]"):
        for_model(keras.Model(other := keras.Input((4,), name="other"), other + 0), x)


def test_a_dict_for_models_that_share_one_input():
    made = {"a": plain(), "b": plain("picture")}
    with pytest.raises(
        TypeError, match=r"is a dict of \['image'\].*take one input.*Pass one array"
    ):
        tfmot_pam.merge(made, ({"image": X["image"]}, LABELS), verbose=0)
