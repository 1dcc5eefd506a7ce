# Every target works on a fresh machine: it makes the virtual environment first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small networks run many times slower on torch's default threads.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-plugins test-slow coverage fuzz lint news types figures docs bench tox clean

PLUGINS := $(wildcard plugins/*/pyproject.toml)

# The stamp says for which pyproject.toml and constraints.txt the environment was made.
$(VENV)/ready: pyproject.toml constraints.txt $(PLUGINS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]' $(patsubst %/pyproject.toml,-e ./%,$(PLUGINS))
	touch $@

demo: $(VENV)/ready
	$(BIN)/art-atmc train --data digits --output runs/digits --overwrite

test: $(VENV)/ready
	$(BIN)/python -m pytest

test-plugins: $(VENV)/ready
	$(BIN)/python -m pytest plugins

coverage: $(VENV)/ready
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --durations=25

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

# A thousand mutants take about eight seconds.
fuzz: $(VENV)/ready
	$(BIN)/python tests/fuzz.py --mutants 100000 --seed 0

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python .ci/words
	$(BIN)/towncrier build --draft --version unreleased > /dev/null

news: $(VENV)/ready
	@$(BIN)/towncrier build --draft --version unreleased

types: $(VENV)/ready
	PATH=$(abspath $(BIN)):$$PATH .ci/types

# Fills the tables of figures in the README and the pages from the records in docs/results.
figures: $(VENV)/ready
	$(BIN)/python docs/results/figures.py

docs: $(VENV)/ready
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/ready
	$(BIN)/python -m pytest benchmarks --benchmark-columns=median,rounds -s

tox: $(VENV)/ready
	$(BIN)/tox

clean:
	rm -rf $(VENV) .tox docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
