# The environment is .venv; PYTHON is what makes it.
PYTHON ?= python3
BIN := .venv/bin
DATA := data/lab
RUNS := runs

.PHONY: demo test check bench format clean

.venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "twotower needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	# torch first and alone: resolved among others, pip may fetch a second build of it.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv
	$(BIN)/twotower generate $(DATA) --overwrite
	$(BIN)/twotower inspect $(DATA)
	$(BIN)/twotower train --config config/ranking_config.yaml --data $(DATA) --into $(RUNS)
	$(BIN)/twotower recommend $$(ls -d $(RUNS)/*-ranking_config | tail -n 1) 42 -k 10

# A thread a process: those of several would wait for each other. Bytecode is kept: each of some
# hundred processes would compile it again. Files begin in their own order, the longest first.
test: .venv
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
		$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

# Peers: those of the extra beside us, TensorFlow in an environment of its own.
bench: .venv .venv-tfrs
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python -m benchmarks

.venv-tfrs: benchmarks/tfrs.txt
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check -r benchmarks/tfrs.txt
	touch $@

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-tfrs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
