# make demo    sets everything up, then trains and scores on the synthetic corpus
# make test    sets everything up, then runs the tests that take seconds each; some minutes on two cores
# make test-all  all of them: recipes, browser, notebook, benchmarks, several processes, kills and load
# make lint    ruff and mypy
# make bench   times us against what one would run instead; some 20 minutes on two cores
# make docs    the documents, in build/site; a broken link stops it
# make dist    a wheel, in dist
# make setup   the environment alone, in .venv
# uv is used when it is there, else pip.
.PHONY: setup demo test test-all lint bench docs dist
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt scripts/setup.sh
	PYTHON=$(PYTHON) bash scripts/setup.sh
	touch $@

demo: setup
	$(BIN)/shala-audio models pull
	recipes/mini/run.sh --stop_stage 6 --exp recipes/mini/exp/demo
	$(BIN)/shala-audio predict recipes/mini/exp/demo/shala recipes/mini/data/seed0/audio/mini_00000.wav
	$(BIN)/shala-audio predict default shala_audio/assets/clips/clear.ogg shala_audio/assets/clips/contested.ogg

# As many tests at once as there are cores, eight at most, with one thread each.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test: setup
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST)

bench: setup
	$(BIN)/shala-audio models pull
	$(BIN)/python -m benchmarks.bench

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict

dist: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	ls dist
