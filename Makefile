# Two commands for a fresh machine with Python 3.10+, make and git: `make train` and `make test`.
# Each installs into .venv once, and again when the requirements change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# For example: make test PYTEST="-k resume -x"
PYTEST ?=
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test test-fast quality format clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: $(VENV)/.train ## train on the built-in sample corpus: no network, minutes on two cores
	HF_HUB_OFFLINE=1 PATH="$(abspath $(BIN)):$$PATH" accelerate launch recipes/train.py

test: $(VENV)/.dev ## run every test that needs no GPU, and the examples in docstrings
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not gpu and not network" tests $(PYTEST)
	HF_HUB_OFFLINE=1 HF_HYBRID_CACHE=$(VENV)/corpora $(BIN)/python -m pytest --doctest-modules --ignore-glob="*/app.py" hf_hybrid

test-fast: $(VENV)/.dev ## run the tests that start no other process, in under four minutes
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not distributed and not gpu and not network" tests $(PYTEST)

quality: $(VENV)/.dev ## check lint, format and types, and change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache

# Extras of each stamp file: .venv/.train installs what a run needs, .venv/.dev everything for tests and checks.
$(VENV)/.train: EXTRAS := energy,plots
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.train $(VENV)/.dev: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python %d.%d found, 3.10 or newer needed: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@# replace a .venv whose Python is gone or whose creation was interrupted
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV); the first time this takes some minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@
