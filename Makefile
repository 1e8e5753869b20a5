# Everything on a bare machine: Python ≥ 3.11, make and a package index are all it takes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo flickr8k test airflow-test lint format lock clean help
help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(READY)  ## make .venv with everything, from the locked versions

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "superbatch needs Python 3.11, 3.12 or 3.13; this is %d.%d. Name another: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup  ## a whole round on OpenMoji's pictures, under build/demo
	$(BIN)/python -m benchmarks.openmoji

flickr8k: setup  ## the same round on Flickr8k: make flickr8k FLICKR8K=folder with its tar files
	$(BIN)/python -m benchmarks.flickr8k --data=$(FLICKR8K)

test: setup  ## all tests, two files at a time
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

airflow-test: setup build/airflow/.ready  ## the DAG in Airflow, in an environment of its own (1.5 GB); not part of `make test`
	PATH="$(CURDIR)/build/airflow/bin:$$PATH" build/airflow/bin/python -m pytest -c tests/airflow/pytest.ini tests/airflow

build/airflow/.ready: $(READY) tests/airflow/requirements.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/airflow
	$(BIN)/uv pip install --quiet --python build/airflow/bin/python -r tests/airflow/requirements.txt
	@touch $@

lint: setup  ## formatting, lint and types, as in CI
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --warnings

format: setup  ## format and repair what can be
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup  ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-emit-index-url --no-annotate --upgrade pyproject.toml -o requirements.lock

clean:  ## remove what the demo and the tests made
	rm -rf build .pytest_cache .ruff_cache .hypothesis
