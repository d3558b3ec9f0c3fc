# Everything from a fresh clone. `uv` is used where it is there, pip where it isn't.
.DEFAULT_GOAL := help
VENV ?= .venv
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
PYTEST_ARGS ?=

help: ## show this help
	@awk 'BEGIN{FS=":.*## "} /^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.ready ## make .venv from the lock file

$(VENV)/.ready: requirements.lock pyproject.toml
ifneq ($(UV),)
	@test -x $(VENV)/bin/python || uv venv -q --python $(PYTHON) $(VENV)
	uv pip sync -q --python $(VENV)/bin/python --require-hashes requirements.lock
	uv pip install -q --python $(VENV)/bin/python --no-deps -e .
else
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --require-hashes -r requirements.lock
	$(VENV)/bin/python -m pip install -q --no-deps -e .
endif
	@touch $@

lock: ## make requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --all-extras --group dev pyproject.toml -o requirements.lock --no-header --upgrade
	uv pip compile -q --extra observe --python-version 3.11 --python-platform linux --generate-hashes --no-emit-index-url --no-header -c requirements.lock pyproject.toml -o deploy/kind/images/monitor/packages.lock

demo: venv ## run the whole pipeline on this machine and judge it
	$(VENV)/bin/cdcpipe demo

test: venv ## the gate: unit, property, whole commands, real servers (about 20 minutes)
	$(VENV)/bin/python -m pytest -m "not slow and not kind" $(PYTEST_ARGS)

test-all: venv ## every test, the long ones too: migrations, differentials, damage (about an hour)
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-kind: venv ## the same pipeline on a kind cluster (wants docker, kind and kubectl; about 12 minutes)
	$(VENV)/bin/python -m pytest tests/kind -m "kind and not slow" $(PYTEST_ARGS)

test-spark: venv ## the checks on Spark too; installs it (430 MB), wants a Java 17 or 21 in JAVA_HOME
	$(VENV)/bin/python -m pip install -q "pyspark>=4.0"
	$(VENV)/bin/python -m pytest tests/quality/test_verify_spark.py $(PYTEST_ARGS)

gate: venv ## the 35 criteria of conformance/, on a new stack (about 10 minutes)
	$(VENV)/bin/cdcpipe gate

lint: venv ## ruff, mypy, codespell
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell src tests benchmarks docs README.md ARCHITECTURE.md CHANGELOG.md

bench: venv ## all benchmarks; JSON lines on stdout
	@for f in benchmarks/bench_*.py; do $(VENV)/bin/python $$f || exit 1; done

.PHONY: help venv lock demo test test-all test-kind test-spark gate lint bench
