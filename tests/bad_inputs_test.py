"""Bad input to public functions: what came, what was expected, what to do.

Each message is checked for three parts, in their order. Cases that belong to one function's tests
are there and not here: bad models, data, thresholds and plans of `merge` in `merge_errors_test`,
forms of data in `data_test`, models that cannot be exported in `tflite_export_test`, and so on.
"""

from __future__ import annotations

import functools
import inspect
import re

import keras
import pytest

import tflite_export
import tfmot_pam
from tests.small_nets import classes, dense_net, vectors

layers = keras.layers
NAN, INF = float("nan"), float("inf")


@functools.cache
def models():
    return {"a": dense_net(0), "b": dense_net(1, (8, 7), 2)}


@functools.cache
def data():
    x = vectors(48)
    return x, {"a": classes(x, 3), "b": classes(x, 2, seed=1)}


@functools.cache
def merged():
    options = {"method": "separate", "compensation": False, "verbose": 0}
    return tfmot_pam.merge(models(), data(), **options)


def merge(**options):
    options = {"models": models(), "data": data(), "verbose": 0, **options}
    return tfmot_pam.merge(options.pop("models"), options.pop("data"), **options)


def fine_tune(**options):
    arguments = {"data": data(), "teachers": models(), "epochs": 1, "verbose": 0, **options}
    return tfmot_pam.fine_tune(merged(), **arguments)


def compress(**options):
    arguments = {"max_accuracy_drop": 0.5, "effort": 1, "verbose": 0, **options}
    return tfmot_pam.compress(models(), data(), **arguments)


def prune(amount=0.5, importance="magnitude", **options):
    return tfmot_pam.prune_channels(merged(), amount, importance, **options)


def export(**options):
    arguments = {"directory": "nowhere", "verbose": 0, **options}
    return tflite_export.export(merged(), **arguments)


def report(**options):
    return tfmot_pam.report(merged(), **options)


def method(decide):
    return merge(method=tfmot_pam.MergeMethod("mine", decide), compensation=False)


def replay(**changes):
    plan = merged().merge_plan
    fields = ("tasks", "method", "options", "fingerprints", "spaces")
    changed = {**{name: getattr(plan, name) for name in fields}, **changes}
    return merge(plan=tfmot_pam.MergePlan(**changed), compensation=False)


def rule(*arguments, **options):
    return tfmot_pam.register_layer_rule("Nowhere", tfmot_pam.LayerRule(*arguments, **options))


def history(widths, removed):
    return tfmot_pam.PruningHistory(widths, removed)


class Own(keras.Model):
    def call(self, x):
        return x


CASES = [
    # (function, arguments, error, and three parts of its message)
    (merge, {"rho": "0.1"}, TypeError, "rho='0.1' of type str", "a number, 0 <= rho < 1", "Choose"),
    (merge, {"rho": [0.1]}, TypeError, "rho=[0.1] of type list", "a number", "Choose"),
    (merge, {"share": "half"}, TypeError, "share='half'", "a number, 0 < share", "separate"),
    (merge, {"alpha": "x"}, TypeError, "alpha='x'", "a number, a relevance in nats", "Pass one"),
    (merge, {"alpha": [1, 2]}, TypeError, "alpha=[1, 2]", "a number", "a dict of one number"),
    (merge, {"alpha": {"a": "x", "b": 0}}, TypeError, "alpha['a']='x'", "a number", "Pass one"),
    (merge, {"min_group": 1.5}, TypeError, "min_group=1.5", "whole numbers", "the defaults"),
    (merge, {"min_group": "4"}, TypeError, "min_group='4'", "whole numbers", "the defaults"),
    (merge, {"samples": INF}, TypeError, "samples=inf", "whole numbers", "the defaults"),
    (merge, {"samples": "all"}, TypeError, "samples='all'", "whole numbers", "the defaults"),
    (merge, {"width": []}, ValueError, "`width`: []", "('own', 'union')", "Choose one"),
    (merge, {"method": 3}, TypeError, "must be a name", "Received: 3", "Choose one of"),
    (merge, {"reduction": []}, ValueError, "`reduction`: []", "'mean'", "Choose one"),
    (merge, {"estimator": {"name": []}}, ValueError, "estimator=[]", "'gaussian'", "Choose one"),
    (
        *(merge, {"estimator": {"name": "gaussian", "ridge": "x"}}, ValueError),
        *("ridge=x", "a positive number", "Leave it out"),
    ),
    (merge, {"seed": "x"}, TypeError, "`seed` must be a whole number", "'x' of type str", "Pass"),
    (merge, {"seed": -1}, ValueError, "`seed` must be", "Received: -1", "Pass such as 0"),
    (merge, {"seed": None}, TypeError, "`seed` must be", "None of type NoneType", "Pass such as 0"),
    (merge, {"compensation": "yes"}, TypeError, "True, False or", "'yes' of type str", "Leave"),
    (merge, {"models": {1, 2}}, TypeError, "dict of models by task", "of type set", "Pass such"),
    (method, {"decide": lambda _: 3}, TypeError, "'mine' returned 3", "a dict", "Return such as"),
    (method, {"decide": lambda _: None}, TypeError, "returned None", "a dict", "Return such as"),
    (method, {"decide": lambda _: {99: [1]}}, ValueError, "for the space 99", "from 0 to 3", "one"),
    (method, {"decide": lambda _: {1: [1, 2]}}, ValueError, "array([1, 2])", "14", "one mask a"),
    (method, {"decide": lambda _: {1: [-1] * 14}}, ValueError, "-1", "from 0 to 3", "one mask a"),
    (method, {"decide": lambda _: {1: [4] * 14}}, ValueError, "4", "from 0 to 3", "one mask a"),
    (method, {"decide": lambda _: {1: [0.5] * 14}}, ValueError, "0.5", "a whole", "one mask a"),
    (method, {"decide": 3}, TypeError, "decide=3", "a function", "Pass the function"),
    (replay, {"spaces": None}, ValueError, "its spaces are None", "Expected one", "without `plan`"),
    (replay, {"spaces": (3,)}, ValueError, "its spaces hold 3", "Expected one", "without `plan`"),
    (replay, {"options": None}, ValueError, "options are None", "Expected one", "without `plan`"),
    (replay, {"fingerprints": ("0",)}, ValueError, "2 tasks and 1", "Expected", "without `plan`"),
    (replay, {"spaces": ()}, ValueError, "of the widths []", "has [(6, 8)", "Pass the original"),
    (tfmot_pam.MergePlan.from_json, {"text": None}, ValueError, "NoneType", "JSON", "Merge again"),
    (tfmot_pam.MergePlan.from_json, {"text": "\ud800"}, ValueError, "no JSON", "JSON", "Merge"),
    (tfmot_pam.MergePlan.from_json, {"text": b"\xff{}"}, ValueError, "no JSON", "JSON", "Merge"),
    (tfmot_pam.MergePlan.from_json, {"text": "[" * 10**5}, ValueError, "deep", "JSON", "Merge"),
    (tfmot_pam.Compensation, {"ridge": -1}, ValueError, "ridge=-1", "at least 0", "Leave it out"),
    (tfmot_pam.Compensation, {"ridge": "x"}, TypeError, "ridge='x'", "a number", "Leave it out"),
    (tfmot_pam.Compensation, {"places": 0}, ValueError, "at least 1", "0", "Leave it out"),
    (fine_tune, {"epochs": "3"}, TypeError, "`epochs` must be a whole number", "'3'", "Round it"),
    (fine_tune, {"epochs": 1.5}, TypeError, "`epochs` must be a whole number", "1.5", "Round it"),
    (fine_tune, {"batch_size": None}, TypeError, "`batch_size` must be", "None", "leave it out"),
    (fine_tune, {"batch_size": 8.5}, TypeError, "`batch_size` must be", "8.5", "Round it"),
    (fine_tune, {"learning_rate": "x"}, TypeError, "learning_rate='x'", "a number", "1e-3"),
    (fine_tune, {"learning_rate": None}, TypeError, "learning_rate=None", "a number", "1e-3"),
    (fine_tune, {"learning_rate": -1.0}, ValueError, "learning_rate=-1.0", "at least 0", "1e-3"),
    (fine_tune, {"learning_rate": NAN}, ValueError, "learning_rate=nan", "at least 0", "1e-3"),
    (fine_tune, {"optimizer": "adamm"}, ValueError, "'adamm'", "the name of a Keras", "Choose one"),
    (fine_tune, {"optimizer": 3}, TypeError, "`optimizer` must be", "3 of type int", "'adam'"),
    (fine_tune, {"joint": "x"}, TypeError, "a number in 0..1", "'x' of type str", "Pass such"),
    (fine_tune, {"joint": NAN}, ValueError, "must be in 0..1", "nan", "Divide percentages"),
    (fine_tune, {"label_weight": None}, TypeError, "a number in 0..1", "None", "Pass such as 0.5"),
    (fine_tune, {"dropout": None}, TypeError, "a number in 0..1", "None", "Pass such as 0.5"),
    (fine_tune, {"temperature": "warm"}, ValueError, "at least 1", "'warm'", "1 imitates"),
    (fine_tune, {"losses": "mse"}, TypeError, "a dict of Keras losses", "'mse'", "Pass such as"),
    (fine_tune, {"losses": {"a": "mee"}}, ValueError, "'a': 'mee'", "a Keras loss", "Choose one"),
    (fine_tune, {"losses": {"a": 3}}, ValueError, "task 'a': 3", "a Keras loss", "Choose one"),
    (fine_tune, {"callbacks": "x"}, TypeError, "a list of Keras 3 callbacks", "'x'", "Pass such"),
    (fine_tune, {"callbacks": [3]}, TypeError, "a list of Keras 3 callbacks", "[3]", "Pass such"),
    (
        *(fine_tune, {"callbacks": keras.callbacks.TerminateOnNaN()}, TypeError),
        *("a list of Keras 3 callbacks", "of type TerminateOnNaN", "Pass such"),
    ),
    (fine_tune, {"task_weights": [1]}, TypeError, "must be a dict", "[1]", "Pass such as {'a'"),
    (fine_tune, {"task_weights": {"a": "x", "b": 1}}, TypeError, "a dict", "'x'", "Pass such as"),
    (fine_tune, {"task_weights": {"a": INF, "b": 1}}, ValueError, "above 0", "inf", "Add"),
    (fine_tune, {"usage": {3: 1.0}}, TypeError, "combinations", "1.0 for 3", "Pass such as"),
    (
        fine_tune,
        {"usage": {("a",): "x"}},
        TypeError,
        "a number each",
        "'x' for ('a',)",
        "Pass such",
    ),
    (fine_tune, {"usage": {("a",): INF}}, ValueError, "sum to inf", "must sum to 1", "Divide"),
    (
        *(fine_tune, {"teachers": [dense_net(0, inputs=4), models()["b"]]}, ValueError),
        *("teacher of the task 'a' takes inputs of shape ('n', 4)", "takes ('n', 6)", "Pass the"),
    ),
    (fine_tune, {"seed": 2**40}, ValueError, "from 0 to 2^32 - 1", "1099511627776", "Pass such"),
    (compress, {"max_accuracy_drop": "x"}, TypeError, "must be a number", "'x'", "0 <= x < 1"),
    (compress, {"max_accuracy_drop": NAN}, ValueError, "0 <= x < 1", "nan", "Divide percentages"),
    (compress, {"arms": 3}, TypeError, "a list of names", "3 of type int", "Choose some of"),
    (compress, {"arms": None}, TypeError, "a list of names", "None of type", "Choose some of"),
    (compress, {"augment": "flip"}, TypeError, "a function augment(x, rng)", "'flip'", "Pass the"),
    (compress, {"merge_options": [1]}, TypeError, "a dict of arguments", "[1]", "Pass such as"),
    (compress, {"merge_options": {"rhoo": 1}}, ValueError, "['rhoo']", "'rho'", "Leave them out"),
    (compress, {"merge_options": {"method": "pam"}}, ValueError, "['method']", "'rho'", "Leave"),
    (compress, {"fine_tune_options": "x"}, TypeError, "must be a dict", "'x'", "Pass such as"),
    (
        *(compress, {"fine_tune_options": {"label_weight": "x"}}, ValueError),
        *("`label_weight` must be a share", "'x'", "leave it out"),
    ),
    (
        *(compress, {"fine_tune_options": {"losses": {"a": "xx"}}}, ValueError),
        *("Unknown loss of the task 'a': 'xx'", "a Keras loss", "Choose one"),
    ),
    (compress, {"seed": 0.5}, TypeError, "`seed` must be a whole number", "0.5", "Pass such as 0"),
    (compress, {"directory": 3}, TypeError, "must be a path", "3 of type int", "Pass such as"),
    (compress, {"directory": __file__}, ValueError, "is the file", "a directory", "Choose another"),
    (
        compress,
        {"tensorboard": 3},
        TypeError,
        "`tensorboard` must be a path",
        "3 of",
        "Pass such as",
    ),
    (tfmot_pam.Arm, {"name": "x", "starts": None}, TypeError, "starts=None", "a function", "Pass"),
    (
        *(compress, {"arms": [tfmot_pam.Arm("x", lambda tasks: [])]}, TypeError),
        *("The arm 'x' returned []", "one tfmot_pam.ArmStart or more", "Return such"),
    ),
    (
        *(compress, {"arms": [tfmot_pam.Arm("x", lambda tasks: 3)]}, TypeError),
        *("The arm 'x' returned 3", "one tfmot_pam.ArmStart or more", "Return such"),
    ),
    (prune, {"amount": NAN}, ValueError, "pruning_schedule=nan", "above 0 and below 1", "Choose"),
    (prune, {"kl_weight": "x"}, ValueError, "0 or more", "'x'", "Use 1e-5"),
    (prune, {"pruning_policy": 3}, TypeError, "a TFMOT PruningPolicy", "3 of type int", "Leave it"),
    (prune, {"importance": "random", "seed": "x"}, TypeError, "`seed` must be", "'x'", "Pass such"),
    (prune, {"importance": "random", "seed": -1}, ValueError, "`seed` must be", "-1", "Pass such"),
    (
        prune,
        {"measure": lambda *a: NAN},
        ValueError,
        "`measure` gives nan",
        "Expected",
        "at least 0",
    ),
    (prune, {"measure": None}, ValueError, "measure=None", "'macs'", "a function"),
    (
        *(prune, {"min_channels": 10**30}, ValueError),
        *("at most 0.0% can go", "every layer keeps", "Lower"),
    ),
    (history, {"widths": None, "removed": None}, TypeError, "widths=None", "dicts", "Pass such as"),
    (history, {"widths": {"a": "x"}, "removed": {}}, TypeError, "'x'", "whole numbers", "Pass"),
    (history, {"widths": {"a": 3}, "removed": {"a": 0}}, TypeError, "{'a': 0}", "dicts", "Pass"),
    (history, {"widths": {"a": 3}, "removed": {"a": (3,)}}, ValueError, "[3]", "0 to 2", "Take"),
    (history, {"widths": {"a": 3}, "removed": {"a": (1, 1)}}, ValueError, "[1, 1]", "once", "Take"),
    (history, {"widths": {}, "removed": {"a": ()}}, ValueError, "['a']", "the layers []", "Add"),
    (export, {"quantization": []}, ValueError, "Received: []", "'int8'", "Choose one"),
    (export, {"tune": []}, ValueError, "Received: []", "'estimate'", "Choose one"),
    (export, {"mode": []}, ValueError, "Received: []", "'files'", "Choose one"),
    (export, {"seed": "x"}, TypeError, "`seed` must be a whole number", "'x'", "Pass such as 0"),
    (export, {"directory": None}, TypeError, "the path of a folder", "None", "Pass such as 'out'"),
    (export, {"directory": ""}, TypeError, "the path of a folder", "''", "Pass such as 'out'"),
    (export, {"accuracy": [1]}, TypeError, "a dict by task", "[1] of type list", "Pass such as"),
    (export, {"accuracy": {"a": "x"}}, ValueError, "'x' for 'a'", "a number", "Divide"),
    (export, {"accuracy": {"a": 97}}, ValueError, "97 for 'a'", "at most 1", "Divide percentages"),
    (export, {"accuracy": {"a": NAN}}, ValueError, "nan for 'a'", "at most 1", "Divide"),
    (
        tflite_export.measure_latency,
        {"path": "no.tflite"},
        ValueError,
        "no.tflite",
        "Expected",
        "Correct",
    ),
    (tflite_export.measure_latency, {"path": None}, ValueError, "'None'", "Expected", "Correct"),
    (tflite_export.benchmark, {"directory": 3}, TypeError, "the path of a folder", "3", "Pass"),
    (report, {"usage": {3: 1.0}}, TypeError, "combinations", "1.0 for 3", "Pass such as"),
    (report, {"latency": {3: 1}}, TypeError, "by their tasks", "Received: 3", "Pass a tuple"),
    (report, {"accuracy": {"a": NAN}}, ValueError, "the value nan", "0 to 1", "divide"),
    (report, {"input_shape": ("x",)}, ValueError, "whole numbers above 0", "('x',)", "Pass such"),
    (tfmot_pam.cost, {"model": None}, TypeError, "a keras.Model", "None", "Pass the trained"),
    (tfmot_pam.cost, {"model": Own()}, TypeError, "functional or sequential", "own", "Rebuild"),
    (tfmot_pam.combinations, {"model": "x"}, TypeError, "a keras.Model", "'x'", "load_model"),
    (tfmot_pam.to_tf_keras, {"model": "x"}, TypeError, "a keras.Model", "'x'", "load_model"),
    (tfmot_pam.from_tf_keras, {"model": None}, TypeError, "a tf_keras.Model", "None", "Pass the"),
    (
        *(tfmot_pam.TaskGroup, {"layer": layers.Dense(3), "tasks": ("",)}, TypeError),
        *("a sequence of task names", "('',)", "Pass a tuple"),
    ),
    (
        *(tfmot_pam.TaskGroup, {"layer": layers.Dense(3), "tasks": [["a"]]}, TypeError),
        *("a sequence of task names", "[['a']]", "Pass a tuple"),
    ),
    (
        tfmot_pam.TaskGroup,
        {"layer": tfmot_pam.TaskGroup(layers.Dense(3, name="inner"), ("a",)), "tasks": ("b",)},
        *(TypeError, "an ordinary Keras layer", "the TaskGroup 'inner'", "Wrap its own layer"),
    ),
    (rule, {"role": "x"}, ValueError, "the role 'x'", "'mixing'", "See tfmot_pam.LayerRule"),
    (rule, {"role": "mixing", "weights": 3}, TypeError, "weights=3", "tfmot_pam.Axes", "Pass such"),
]


def label(value):
    if callable(value):
        return value.__name__
    return re.sub(r"0x\w+", "", repr(value))[:40] if isinstance(value, dict) else ""


@pytest.mark.parametrize(("function", "given", "error", "one", "two", "three"), CASES, ids=label)
def test_bad_input(function, given, error, one, two, three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = ".*".join(map(re.escape, (one, two, three)))
    with pytest.raises(error, match=f"(?s){parts}") as caught:
        function(**given)
    assert str(caught.value).endswith(".")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [merged, models])
def test_what_the_cases_change_is_accepted_unchanged(call):
    assert call()


def test_the_cases_are_of_public_functions_and_many():
    assert len(CASES) >= 60
    for case in CASES:
        source = inspect.getmodule(case[0]).__name__
        assert source == __name__ or source.partition(".")[0] in ("tfmot_pam", "tflite_export")
