# `make reproduce` and `make test` each work as the first command on a fresh machine
# with python3 (3.11 or newer), its venv and pip, and make.

PYTHON ?= python3
SCALE  ?= laptop
OUT    ?= runs

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup hooks reproduce test quick lab check docs bench clean

help:
	@echo 'make reproduce [SCALE=smoke|laptop|bench] [OUT=runs]  train four recipes, execute the notebooks, write the report'
	@echo 'make lab        the notebooks in JupyterLab'
	@echo 'make test       all tests'
	@echo 'make quick      those that take no time: under a minute'
	@echo 'make check      lint, types, import directions'
	@echo 'make docs       the pages of docs/ and of every docstring, in site/'
	@echo 'make hooks      strip outputs from notebooks when they are committed'
	@echo 'make bench      cost of watching a training; time from an input of an explorer to its picture; packed inference'
	@echo 'make clean      remove .venv and caches (runs stay)'

setup: $(READY)

# The stamp is written last: a set-up that was killed half-way is begun again from nothing.
$(READY): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo 'Setting up .venv once: about 7.0 GB on disk (most of it torch), 2 to 10 minutes by the network, no output till it ends.'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e '.[train,trackers,runtime,notebooks,lightning,huggingface,docs,dev,cluster]'
	@touch $@

reproduce: $(READY)
	$(BIN)/bvit reproduce --scale $(SCALE) --out $(OUT)

# Workers of one thread each, so that no figure depends on the number of cores; three of them keep two cores busy while
# some wait for processes, and get their share of a machine that others use.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadscope

# Neither what takes more than half a second or so, nor what starts other Python processes.
quick: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m 'not slow and not processes and not browser and not gpu'

# Nothing is fetched, and a warning is an error.
docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet
	@echo 'site/index.html'

# More flags in LAB, such as LAB=--no-browser. Jupyter refuses root, the user of most containers, unless told.
lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

hooks: $(READY)
	$(BIN)/pre-commit install

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks.watch_overhead
	$(BIN)/python -m benchmarks.explorer_latency
	$(BIN)/python -m benchmarks.packed_inference --quick

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find bvit_analysis tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
