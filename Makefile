# One command per intent, the same by hand and in CI. Every target builds its own .venv on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt

.PHONY: demo test test-all check format bench bench-gpu clean

demo: $(VENV)/.runtime          ## explain the packaged street scene with the embedded model, pictures in out/
	$(BIN)/eyeshine demo --out out

test: $(VENV)/.dev              ## the test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(VENV)/.dev          ## the test suite with the slow tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu"

check: $(VENV)/.dev             ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev             ## print the table, append rows to benchmarks/results/
	$(BIN)/python -m benchmarks.run

# The system's torch, where there is no .venv: a machine with a GPU has one that fits its driver.
BENCH_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

bench-gpu:                      ## the same on a GPU, below 8 minutes; needs torch, triton and open_clip, installs nothing
	PYTHONPATH=runtime:export:kernels:. $(BENCH_PYTHON) -m benchmarks.gpu

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
