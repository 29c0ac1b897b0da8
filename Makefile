# `make` alone lists the targets. Each does all its own set-up, and does again only what has changed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/.venv/bin:$(PATH)

PYTHON_CODE := broker benchmarks examples sandboxes scripts tests
ARGS ?=
# As many tests side by side as there are processors, and one more: half of them wait for containers and disks.
WORKERS ?= $(shell expr $$(nproc) + 1)

.PHONY: help setup venv demo test cover lint fmt protos images bench lock wheels docker clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## virtual environment, stubs, Docker Engine, sandbox images
	@scripts/setup.sh

venv:
	@scripts/setup.sh --no-engine

demo: setup ## the broker's main job on real input, start to end
	@.venv/bin/python examples/demo.py $(ARGS)

test: setup lint ## all checks, then all tests, several at a time; ARGS="-k name" picks tests, WORKERS=0 takes turns
	@.venv/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

cover: setup ## all tests with coverage of broker/, which takes about twice as long
	@.venv/bin/python -m pytest -n $(WORKERS) --dist worksteal --cov=broker --cov-report=term $(ARGS)

lint: venv ## ruff, mypy, import layers, buf lint and breaking changes, tool specs
	ruff check $(PYTHON_CODE)
	ruff format --check $(PYTHON_CODE)
	mypy
	mypy scripts examples
	lint-imports --config .importlinter --no-logo
	.venv/bin/python scripts/check_protos.py
	broker tools lint

fmt: venv ## format the code and mend what ruff can mend
	ruff format $(PYTHON_CODE)
	ruff check --fix $(PYTHON_CODE)

protos: venv ## generate the Python stubs of protos/, and check the protos
	@rm -f .state/stamps/project
	@scripts/setup.sh --no-engine
	.venv/bin/python scripts/check_protos.py

images: ## build the sandbox images that are not there yet
	@scripts/setup.sh

bench: setup ## all benchmarks; ARGS="call --json" runs one
	@.venv/bin/python -m benchmarks $(or $(ARGS),all)

lock: venv ## resolve pyproject.toml anew into both lock files
	uv pip compile pyproject.toml --extra dev --extra images --extra slack --generate-hashes --no-emit-index-url --no-annotate --no-header \
	    --quiet -o requirements.lock
	uv pip compile pyproject.toml --extra slack --constraint requirements.lock --generate-hashes --no-emit-index-url --no-annotate \
	    --no-header --quiet -o requirements-run.lock

wheels: venv ## the project and what it needs at run time as wheels in build/
	@.venv/bin/python scripts/build_broker_image.py --wheels

docker: setup ## the broker's own image, as agent-broker:VERSION
	@.venv/bin/python scripts/build_broker_image.py $(ARGS)

clean: ## remove what can be made again; keeps .state/broker (a ledger may be there) and the engine's images
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .state/stamps
	rm -f broker/v1/*_pb2*.py broker/v1/*_pb2*.pyi
	find broker benchmarks examples sandboxes scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
