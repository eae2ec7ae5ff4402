# Two commands for users: `make run` and `make test`. Everything else is for developers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 8
KILLS ?= 1000
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help run test check bench bench-sandbox chaos setup setup-dev clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

run: setup ## set everything up and run a real campaign on this machine (MINUTES=8)
	@$(BIN)/autohyp run --minutes $(MINUTES)

test: setup-dev ## set everything up and run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=85

check: setup-dev ## formatting, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup-dev ## time the ledger, reopening and the views against their goals (docs/benchmarks.md)
	@$(BIN)/python -m tests.benchmarks

bench-sandbox: setup-dev ## time what the sandbox, preflight and the evaluator add to a run
	@$(BIN)/python -m tests.benchmarks --only trust

chaos: setup-dev ## kill random parts of running campaigns and prove that nothing is lost (KILLS=1000 SEED=1)
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --seed $(SEED)

setup: $(VENV)/.installed ## the virtual environment with the package, and helpful system packages
setup-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml deploy/setup.sh
	@PYTHON=$(PYTHON) deploy/setup.sh $(VENV)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@PYTHON=$(PYTHON) deploy/setup.sh $(VENV) dev
	@touch $@

clean: ## remove the virtual environment and caches; campaigns stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
