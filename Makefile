# Every target sets up what it needs in .venv first.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
DEMO_DIR := build/demo

BIN := $(VENV)/bin
OTHERS := jax torch
OTHER_VENV := build/venv-
STAMP := $(VENV)/.installed
BENCHMARKS = $(shell grep -l '^if __name__ == "__main__"' benchmarks/*.py)

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test $(OTHERS:%=test-%) bench docs lint format lock clean

help:
	@echo "make demo    train, merge, fine-tune and export two networks; results in $(DEMO_DIR)"
	@echo "make test    lint and the regular tests"
	@echo "make test-jax, make test-torch   the core tests on another backend of Keras"
	@echo "make bench   the slow tests, the tutorial and the benchmarks"
	@echo "make docs    the site of documents in build/site"
	@echo "make lint    ruff check, ruff format --check and mypy"
	@echo "make clean   remove everything that make wrote"
	@echo "For work on the code: make format, make lock"

# TensorFlow leaves oneDNN off on processors without AVX-512; with it a training step takes 0.6 x.
demo bench: export TF_ENABLE_ONEDNN_OPTS ?= 1

demo: $(STAMP)
	rm -rf $(DEMO_DIR)
	$(BIN)/python examples/spoken_digits.py --output_dir=$(DEMO_DIR)

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# What XLA compiles for one test serves those that follow, and the next run.
test-jax: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/build/jax_cache
test-jax: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

$(OTHERS:%=test-%): test-%: $(OTHER_VENV)%/.installed
	KERAS_BACKEND=$* $(OTHER_VENV)$*/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

bench: $(STAMP)
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pip install --quiet --editable '.[notebook]'
	$(BIN)/python -m tools.tutorial
	@set -e; for file in $(basename $(BENCHMARKS)); do \
		echo "== $$file"; $(BIN)/python -m $$(echo $$file | tr / .); done

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m mkdocs build

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)
	$(BIN)/python -m tools.lock_file --write

clean:
	rm -rf $(VENV) build dist bazel-* *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock file pins one Python version; on the others pip picks what setup.py allows.
define install
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit( \
		"Python 3.10 to 3.13 is needed, this is %d.%d. Run: make PYTHON=python3.11 ..." % v)'
	$(PYTHON) -m venv --clear $(@D)
	@if $(@D)/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
		echo "Installing requirements.lock"; \
		$(@D)/bin/python -m pip install --quiet --requirement requirements.lock && \
		$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .; \
	else \
		echo "requirements.lock is for Python 3.11: installing what setup.py allows instead"; \
		$(@D)/bin/python -m pip install --quiet --editable '.[ai-edge-quantizer,test]'; \
	fi
endef

$(STAMP): requirements.lock setup.py pyproject.toml
	$(install)
	@touch $@

$(OTHERS:%=$(OTHER_VENV)%/.installed): $(OTHER_VENV)%/.installed: requirements.lock setup.py pyproject.toml
	$(install)
	$(@D)/bin/python -m pip install --quiet $*
	@touch $@
