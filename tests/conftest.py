"""Settings that every test runs with."""

from __future__ import annotations

import gc
import os
import pathlib
import sys

import hypothesis
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers already fill the cores; more threads in each would only wait for one another.
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, "1")

# Graphs that TensorFlow traces are millions of objects, which Python would look through again and
# again for circles that are not there: a twentieth of the time.
gc.set_threshold(50_000, 20, 50)

# The same examples in every run, no time limit for a single one, and none of the many further
# runs that making a failing seed smaller would take: seeds have no size.
hypothesis.settings.register_profile(
    "repository",
    derandomize=True,
    deadline=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile("repository")


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.markexpr != "slow":
        _leave_graphs_as_they_are()
    _keep_what_lives()


def _leave_graphs_as_they_are() -> None:
    """Spares TensorFlow the rewriting of graphs, which takes longer than to run them a few times.

    Slow tests, and those in processes of their own, run with it.
    """
    if "tensorflow" in sys.modules:
        options = {"disable_meta_optimizer": True}
        sys.modules["tensorflow"].config.optimizer.set_experimental_options(options)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        _keep_what_lives()


def _keep_what_lives() -> None:
    """Leaves what is there out of later collections of garbage: modules, and what they keep.

    TensorFlow's converter collects once a file, and would look through all of it each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seeds Python, NumPy and Keras before each test that has Keras loaded."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(autouse=os.environ["KERAS_BACKEND"] == "torch")
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets NumPy read PyTorch's tensors, which else have to be detached from their gradients."""
    import torch

    def array(tensor: torch.Tensor, dtype=None, copy=None) -> np.ndarray:
        return np.array(tensor.detach().numpy(), dtype, copy=copy)

    monkeypatch.setattr(torch.Tensor, "__array__", array)


# Modules that take long, the longest first: begun last, one of them would run alone.
LONG = (
    "distribution spoken_digits compress every_layer docs convert tfmot_bridge_quantization "
    "fine_tune convert_files compress_arms metrics_compress fine_tune_data pretrained_example "
    "widening workers several_outputs several_inputs search_rounds attention"
).split()


# What has no need of TensorFlow: the modules that run on the other backends of Keras too.
ON_ALL_BACKENDS = (
    "averaging backends channels cloning compensate compress compress_arms cost examination "
    "fine_tune fine_tune_data fine_tune_errors fine_tune_losses first_layers frozen "
    "frozen_channels identities importance_formulas layer_rules levels linear masks merge "
    "merge_models merge_options output_forms prune_budgets prune_channels readable_groups reader "
    "reader_layers regroup relevance report report_forms runner selection sensitivity "
    "several_inputs several_outputs surgery targets task_group units width"
).split()


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leaves out modules that need TensorFlow where Keras runs on another backend."""
    name = collection_path.name
    if os.environ["KERAS_BACKEND"] == "tensorflow" or not name.endswith("_test.py"):
        return None
    return name.removesuffix("_test.py") not in ON_ALL_BACKENDS or None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests that need TensorFlow where Keras runs on another backend."""
    backend = os.environ["KERAS_BACKEND"]
    if backend != "tensorflow" and item.get_closest_marker("tensorflow"):
        pytest.skip(f"needs the TensorFlow backend, Keras runs on {backend}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long modules first; xdist hands out files in this order (--no-loadscope-reorder)."""
    places = {f"{name}_test.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
