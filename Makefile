# Every verb works on a fresh checkout: what it needs is installed into .venv first.
# PYTHON=python3.12 make setup    chooses another interpreter (3.11 or newer)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
TEST_WORKERS ?= auto
PYTEST_ARGS ?=

# single-threaded math: results do not depend on the machine, and test processes do not fight for cores
SINGLE_THREADED := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

SOURCES := tracestore tests $(wildcard examples benchmarks)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench fmt lint types imports clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv with the library, its extras and the developer tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tracestore needs Python 3.11 or newer; $(PYTHON) is older. Run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -e ".[train,tensorboard,sort,mpi,ppx,report,sims,pythia,ciw,gym,zarr,objects,hdf5,awkward,xarray]" --group dev -c constraints.txt
	@touch $(STAMP)

demo: $(STAMP) ## tau decays end to end: simulate, sort, train, infer, report (writes demo-output/report.html)
	$(BIN)/python examples/tau.py --output demo-output

fmt: $(STAMP) ## format the code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)

lint: $(STAMP) ## style and spelling
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/codespell $(SOURCES) cpp docs README.md CONTRIBUTING.md CHANGELOG.md

types: $(STAMP) ## static types
	$(BIN)/mypy

imports: $(STAMP) ## the import contracts
	$(BIN)/lint-imports

test: $(STAMP) ## every test but the slow ones, the reduced demo included
	$(SINGLE_THREADED) $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup -p randomly --randomly-seed=1 --require-extras $(PYTEST_ARGS)

check: ## all that a change must pass: lint, types, imports, tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory imports
	@$(MAKE) --no-print-directory test

bench: $(STAMP) ## benchmarks, as ratios within one run
	$(SINGLE_THREADED) $(BIN)/python -m pytest benchmarks -p no:xdist -p no:randomly --benchmark-enable $(PYTEST_ARGS)

clean: ## remove caches and the demo's output (not .venv)
	rm -rf demo-output build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
