# Two commands do all the set-up: `make demo` and `make test`. Both make the virtual environment on their first call.
# Variables: VENV (where the environment lies), PYTHON (which interpreter makes it), JOBS (test processes).

VENV ?= .venv
JOBS ?= auto
CONSTRAINTS ?= constraints.txt
FLOORS_PYTHON ?= python3.10
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# `python3` if the development pins cover it (3.10 to 3.13), else the newest of them that is installed.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	>/dev/null 2>&1; then echo $$python; break; fi; done)

.PHONY: demo test test-floors lint docs clean help

demo: $(STAMP)  ## merge the embedded pair of networks; results in demo/
	$(BIN)/repair-kernels demo

test: lint  ## lint, types and tests
	$(BIN)/python -m pytest -n $(JOBS) --benchmark-disable

docs: $(STAMP)  ## the user guide, in site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The guide is in site/index.html."

lint: $(STAMP)  ## ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

test-floors:  ## the tests with the lowest versions that pyproject.toml allows (downloads a CUDA build of torch)
	$(MAKE) VENV=.venv-floors CONSTRAINTS=constraints-floors.txt PYTHON=$(FLOORS_PYTHON) \
		.venv-floors/.installed
	.venv-floors/bin/python -m pytest -n $(JOBS) --benchmark-disable

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { \
		echo "Expected a Python from 3.10 to 3.13 with its venv module; found none on the PATH." >&2; \
		echo "Install one (Debian, Ubuntu: apt-get install python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[plot,images,dev,docs]'
	@touch $@

clean:  ## remove the environment, caches and the demo's output
	rm -rf $(VENV) .venv-floors demo site build dist .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
