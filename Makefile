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

test: $(VENV)/.dev ## run the whole suite that needs no GPU, and the examples in the docstrings
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not gpu and not network" tests $(PYTEST)
	HF_HUB_OFFLINE=1 HF_HYBRID_CACHE=$(VENV)/corpora $(BIN)/python -m pytest --doctest-modules --ignore-glob="*/app.py" hf_hybrid

test-fast: $(VENV)/.dev ## run what takes no training in another process, in under four minutes
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not distributed and not gpu and not network" tests $(PYTEST)

quality: $(VENV)/.dev ## lint, format and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## mend what lint and format can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache

# The extras of each stamp file: .venv/.train has what a run needs, .venv/.dev all that is tested and checked with.
$(VENV)/.train: EXTRAS := energy,plots
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.train $(VENV)/.dev: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python %d.%d found, 3.10 or newer needed: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@# a .venv whose Python went away, or whose making was interrupted, is made anew
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV); the first time this takes some minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@
