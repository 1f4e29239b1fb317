# Two commands on a bare machine: `make run` (the main job on embedded data) and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `make test TESTS=all` adds the tests that take minutes.
TESTS ?= fast

.PHONY: run test test-all fuzz crash-test mutation docs lint types clean

run: $(VENV)/.installed
	$(BIN)/nasbench run --space mbv2_metapool --strategy pmpl --dataset digits --preset quick

test: lint types
	$(BIN)/python -m pytest -n 2 $(if $(filter all,$(TESTS)),,-m "not slow")

# The fast tests under every supported Python that is here, each in an environment of its own (6 GB, 2 min to make).
VERSIONS ?= 3.10 3.11 3.12 3.13
test-all:
	@failed=; for version in $(VERSIONS); do \
	  if ! python$$version -c "" 2>/dev/null; then failed="$$failed python$$version:not-installed"; continue; fi; \
	  $(MAKE) --no-print-directory PYTHON=python$$version VENV=.venv-$$version .venv-$$version/.installed-test && \
	  .venv-$$version/bin/python -m pytest -n 2 -m "not slow" && echo "python$$version: passed" \
	  || failed="$$failed python$$version:FAILED"; \
	done; for word in $$failed; do echo "$$word"; done; case "$$failed" in *FAILED*) exit 1;; esac

# Over 2,000 made-up command lines, folders, arrays and records: about half an hour on two cores.
fuzz: $(VENV)/.installed-test
	NASBENCH_FUZZ=45 $(BIN)/python -m pytest -n 2 tests/test_fuzz.py

# Some 200 kills, 20 full disks and 500 damaged files; writes the figures of docs/reliability.md.
crash-test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python experiments/crash_test.py

# Some 1,300 small changes to the mathematics and the record, of which the tests are to notice each: hours; goes on.
mutation: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet cosmic-ray
	$(BIN)/python experiments/mutation.py

# The documents as a site, build/site/index.html; what is broken in it fails.
docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

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
	rm -rf $(VENV) $(VENV)-3.* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
