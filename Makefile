# make run: the main job. make test: what every change has to pass. Both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread per process: with more, a busy neighbour makes every step take many times longer.
test test-all docs: export OMP_NUM_THREADS = 1

.PHONY: run test test-all check docs clean

run: $(READY)  ## find, shrink, train and certify networks for handwritten digits
	$(BIN)/nasflow run digits

test: check  ## lint, types, layers and tests
	$(BIN)/pytest -n auto --dist worksteal

test-all: check  ## the same with kills, servers, browsers and long trainings
	$(BIN)/pytest -m "" -n auto --dist worksteal

check: $(READY)  ## lint, types and layers alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## what docstrings, documents and examples say, tried
	$(BIN)/pytest --doctest-modules nasflow flows tests/test_docs.py tests/test_examples.py

clean:  ## everything that can be made again, results of runs excepted
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed again only when what is to be installed has changed.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
