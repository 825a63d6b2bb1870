# One command per intent, the same by hand and in CI. Every target builds its own .venv on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt

.PHONY: demo test test-all check format bench clean

demo: $(VENV)/.runtime          ## explain the packaged street scene with the embedded model, pictures in out/
	$(BIN)/eyeshine demo --out out

test: $(VENV)/.dev              ## the test suite
	$(BIN)/python -m pytest

test-all: $(VENV)/.dev          ## the test suite with the slow tests
	$(BIN)/python -m pytest -m "not gpu"

check: $(VENV)/.dev             ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev             ## print the table, append rows to benchmarks/results/
	$(BIN)/python -m benchmarks.run

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.runtime: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e ".[dev]"
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) out build dist
