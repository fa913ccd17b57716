"""Settings that every test runs with."""

from __future__ import annotations

import os
import sys

import hypothesis
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers already fill the cores; more threads in each would only wait for one another.
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, "1")

# The same examples in every run, no time limit for a single one, and none of the many further
# runs that making a failing seed smaller would take: seeds have no size.
hypothesis.settings.register_profile(
    "repository",
    derandomize=True,
    deadline=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile("repository")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seeds Python, NumPy and Keras before each test that has Keras loaded."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


# Modules that take long, the longest first: begun last, one of them would run alone.
LONG = (
    "distribution spoken_digits compress every_layer docs convert toolkit_quantization fine_tune "
    "metrics examples widening workers apart several_outputs several_inputs search_rounds attention"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long modules first; xdist hands out files in this order (--no-loadscope-reorder)."""
    places = {f"{name}_test.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
