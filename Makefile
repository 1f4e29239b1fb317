# Two commands on a bare machine: `make run` (the main job on embedded data) and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `make test TESTS=all` adds the tests that take minutes.
TESTS ?= fast

.PHONY: run test fuzz crash-test lint types clean

run: $(VENV)/.installed
	$(BIN)/nasbench run --space mbv2_metapool --strategy pmpl --dataset digits --preset quick

test: lint types
	$(BIN)/python -m pytest -n 2 $(if $(filter all,$(TESTS)),,-m "not slow")

# Over 2,000 made-up command lines, folders, arrays and records: about half an hour on two cores.
fuzz: $(VENV)/.installed-test
	NASBENCH_FUZZ=45 $(BIN)/python -m pytest -n 2 tests/test_fuzz.py

# Some 200 kills, 20 full disks and 500 damaged files; writes the figures of docs/reliability.md.
crash-test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python experiments/crash_test.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The folders are mapped into one package only when it is built, so types are checked on the built package.
types: $(VENV)/.installed-test
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --target build/typecheck .
	$(BIN)/python -m mypy --cache-dir .mypy_cache build/typecheck/nasbench

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
